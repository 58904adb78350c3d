//! TLS to `https://` servers: the CAs to trust, and the client's certificate. Verification cannot be turned off.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{CertificateError as Bad, Error};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::reload::{Contents, Files};

/// TLS options for `https://` servers. By default the CAs of the system are trusted, and no client certificate is
/// presented. Files are in PEM form, and read again when they change: new connections use the new contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The CAs to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its chain, for servers that require one.
    pub cert: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have, if it is not the host in the address.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// The files named, in the order in which [`Self::config`] expects their contents.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().cloned().collect()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.cert.is_some() != self.key.is_some() {
            return Err("a client certificate and its key go together: name both files, or none".into());
        }
        Ok(())
    }

    /// Reads the files for one connection. Blocks.
    pub(crate) fn read(&self) -> Result<ClientTlsConfig, String> {
        self.check()?;
        let contents = match self.paths() {
            paths if paths.is_empty() => Contents::new(),
            paths => Files::read(paths).map_err(|error| error.to_string())?.1,
        };
        self.config(&contents)
    }

    /// The configuration of the transport, made of the contents of the files.
    pub(super) fn config(&self, contents: &Contents) -> Result<ClientTlsConfig, String> {
        let mut contents = contents.iter();
        let named = [&self.ca, &self.cert, &self.key];
        let [ca, cert, key] = named.map(|path| path.as_ref().and_then(|path| Some((path, contents.next()?))));
        let mut config = match ca {
            Some((path, bytes)) => ClientTlsConfig::new().ca_certificate(authorities(path, bytes)?),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some((_, cert)), Some((_, key))) = (cert, key) {
            config = config.identity(Identity::from_pem(cert, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

/// Checks that a file has a certificate, as the transport accepts one without, and then trusts no server.
fn authorities(path: &Path, bytes: &[u8]) -> Result<Certificate, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(Certificate::from_pem(bytes)),
        _ => Err(format!("{} holds no certificate in PEM form", path.display())),
    }
}

/// Prefix of rustls errors for an alert of the peer.
const ALERT: &str = "received fatal alert: ";
/// Suffix of the HTTP/2 error for a TLS record.
const NOT_HTTP2: &str = "frame with invalid size";

/// Advice on a TLS handshake that failed; none where the error is not a TLS error.
pub(super) fn hint(error: &(dyn StdError + 'static), cause: &str) -> Option<&'static str> {
    // With TLS 1.3 a client certificate is refused after the client's handshake, and HTTP/2 keeps only the text of that
    // error.
    if let Some((_, alert)) = cause.split_once(ALERT) {
        return Some(match alert {
            "CertificateRequired" => "the server requires a client certificate",
            "ProtocolVersion" | "NoApplicationProtocol" | "HandshakeFailure" => DISAGREE,
            _ => "the server does not accept this client's certificate",
        });
    }
    if cause.ends_with(NOT_HTTP2) {
        return Some("if this port uses TLS, write https://");
    }
    Some(match find(error)? {
        Error::InvalidCertificate(why) => match why {
            Bad::UnknownIssuer => "trust the CA that issued the server's certificate",
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "use a host name that the server's certificate has, or set the TLS server name"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "renew the server's certificate",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "check this machine's clock",
            // The reason is of a crate that rustls does not export.
            Bad::Other(other) if other.to_string().contains(CA_AS_SERVER) => {
                "the server presents the certificate of a CA, as `openssl req -x509` makes it: make it with \
                 -addext basicConstraints=critical,CA:FALSE, or let that CA issue a certificate for the server"
            }
            _ => "the server's certificate is invalid",
        },
        Error::InvalidMessage(_) => "if this port does not use TLS, write http://",
        _ => DISAGREE,
    })
}

/// Part of the text of rustls for a certificate of a CA where one of a server is expected.
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";
const DISAGREE: &str = "client and server do not agree on TLS: its version, or HTTP/2";

fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // The error inside an I/O error is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}
