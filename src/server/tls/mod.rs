//! TLS of the gRPC port and of the HTTP listener: the handshake with its timeout, the client's certificate, and the reload of changed files, which
//! open connections outlive.

mod material;
mod peer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::io::LingeringClose;
use crate::auth::PeerCertificate;
use crate::config::TlsConfig;
use crate::reload::Files;
use crate::telemetry::METRICS;
use crate::telemetry::audit::{self, Change};
use material::Material;

/// Time before its expiry from which on a certificate is warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Interval of the reminders.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// TLS of both ports. Cheap to clone; all clones use the current certificate.
#[derive(Clone)]
pub struct Tls {
    material: Arc<ArcSwap<Material>>,
    handshake_timeout: Duration,
}

/// Port that a handshake is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// HTTP/2 alone; client certificates as configured.
    Grpc,
    /// HTTP/1.1 and HTTP/2; client certificates are optional.
    Http,
}

/// Validity of a certificate at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    NotYet,
    Valid,
    ExpiresSoon { days: u64 },
    Expired,
}

impl Validity {
    fn of(begins: SystemTime, expires: SystemTime, now: SystemTime) -> Self {
        match expires.duration_since(now) {
            _ if begins > now => Self::NotYet,
            Err(_) => Self::Expired,
            Ok(left) if left < EXPIRES_SOON => Self::ExpiresSoon { days: left.as_secs() / 86_400 },
            Ok(_) => Self::Valid,
        }
    }
}

/// Files of TLS, to be watched for changes.
#[derive(Debug)]
pub(super) struct Source {
    config: TlsConfig,
    paths: Vec<PathBuf>,
    files: Files,
}

impl Tls {
    /// Reads and checks the files. Returns `None` if TLS is off. Blocking.
    ///
    /// # Errors
    /// A file cannot be used; one sentence names it.
    pub(super) fn open(config: &TlsConfig) -> Result<Option<(Self, Source)>, String> {
        let Some(paths) = material::paths(config) else { return Ok(None) };
        let (files, contents) = Files::read(paths.clone()).map_err(|error| error.to_string())?;
        let material = material::load(&paths, &contents, config)?;
        warn_if_readable_by_all(&paths[1]);
        let tls = Self {
            material: Arc::new(ArcSwap::from_pointee(material)),
            handshake_timeout: config.handshake_timeout,
        };
        Ok(Some((tls, Source { config: config.clone(), paths, files })))
    }

    /// Seconds until the certificate in use expires; negative once it has expired.
    #[must_use]
    pub fn seconds_to_expiry(&self) -> i64 {
        let signed = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.material.load().expires.duration_since(SystemTime::now()) {
            Ok(left) => signed(left),
            Err(over) => -signed(over.duration()),
        }
    }

    /// Reloads changed files, and reminds of the expiry. Never returns.
    pub(super) async fn follow(&self, source: Source, interval: Duration) {
        let Source { config, paths, files } = source;
        let reload = files.follow(interval, |contents| {
            self.material.store(Arc::new(material::load(&paths, contents, &config)?));
            self.log_validity();
            let expires = humantime::format_rfc3339_seconds(self.material.load().expires);
            let after = format!("{{\"expires\":\"{expires}\"}}");
            audit::record(Change::by_server("certificate.reload", Ok(Some(after))));
            Ok(())
        });
        tokio::join!(reload, remind(|| self.log_validity()));
    }

    fn log_validity(&self) {
        let material = self.material.load();
        let unix = material.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        METRICS.tls_expiry.set(unix.as_secs());
        let expires = humantime::format_rfc3339_seconds(material.expires);
        let begins = humantime::format_rfc3339_seconds(material.begins);
        match Validity::of(material.begins, material.expires, SystemTime::now()) {
            Validity::NotYet => warn!(%begins, "TLS certificate is not valid yet, clients will refuse it"),
            Validity::Expired => warn!(%expires, "TLS certificate has expired, clients will refuse it"),
            Validity::ExpiresSoon { days } => warn!(%expires, days, "TLS certificate expires soon"),
            Validity::Valid => info!(%expires, "TLS certificate in use"),
        }
    }

    /// Returns true if the certificate in use names this host, which is in lower case. A wildcard stands for one label.
    pub(super) fn names(&self, host: &str) -> bool {
        let any = host.split_once('.').map(|(_, parent)| parent);
        let fits = |name: &String| name == host || (any.is_some() && name.strip_prefix("*.") == any);
        self.material.load().names.iter().any(fits)
    }

    /// Makes the handshake of a connection of this port. Returns `None` if it failed or timed out.
    pub(super) async fn accept<S>(
        &self,
        port: Port,
        stream: S,
    ) -> Option<(TlsStream<S>, Option<PeerCertificate>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.material.load();
        let server = match port {
            Port::Grpc => &material.grpc,
            Port::Http => &material.http,
        };
        let acceptor = TlsAcceptor::from(Arc::clone(server));
        drop(material);
        let accepting = acceptor.accept(stream).into_fallible();
        match tokio::time::timeout(self.handshake_timeout, accepting).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let peer = certificates.and_then(|chain| peer::read(chain.first()?));
                Some((stream, peer))
            }
            Ok(Err((error, stream))) => {
                debug!(%error, "TLS handshake refused");
                // An alert tells the client what was wrong, and a reset would discard it.
                let _ = LingeringClose::new(stream).shutdown().await;
                None
            }
            Err(_) => {
                debug!("TLS handshake took too long");
                None
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("expires", &self.material.load().expires).finish_non_exhaustive()
    }
}

/// Calls `log` now and after each interval, for ever.
async fn remind(mut log: impl FnMut()) {
    loop {
        log();
        tokio::time::sleep(REMIND_EVERY).await;
    }
}

/// Warns of a key with which every user of the machine could impersonate this server.
fn warn_if_readable_by_all(key: &PathBuf) {
    const OTHERS_READ: u32 = 0o004;
    let mode = std::fs::metadata(key).map(|about| about.permissions().mode()).unwrap_or_default();
    if mode & OTHERS_READ != 0 {
        warn!(file = %key.display(), mode = format!("{:o}", mode & 0o777), "TLS key is readable by everybody");
    }
}
