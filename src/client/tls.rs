//! TLS to `https://` servers: whom to trust, and who this client is.
//! Never: a way to trust everybody.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{CertificateError as Bad, Error};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::reload::{Contents, Files};

/// What `https://` servers are met with. The default trusts what the system trusts, and presents no
/// certificate. Files are in PEM form, and read again when they change: connections made from then on
/// use what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The CAs to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its chain, for servers that ask for one; with its key.
    pub cert: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have, where it is not the host in the address.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// The files named, and what they hold is given to [`Self::config`] in this order.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().cloned().collect()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.cert.is_some() != self.key.is_some() {
            return Err("a client certificate and its key go together: name both files, or none".into());
        }
        Ok(())
    }

    /// Reads the files, for one connection. Blocking.
    pub(crate) fn read(&self) -> Result<ClientTlsConfig, String> {
        self.check()?;
        let contents = match self.paths() {
            paths if paths.is_empty() => Contents::new(),
            paths => Files::read(paths).map_err(|error| error.to_string())?.1,
        };
        self.config(&contents)
    }

    /// What the transport is told.
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

/// The transport takes a file without a certificate, and then trusts nobody.
fn authorities(path: &Path, bytes: &[u8]) -> Result<Certificate, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(Certificate::from_pem(bytes)),
        _ => Err(format!("{} holds no certificate in PEM form", path.display())),
    }
}

/// How rustls begins what the other side said.
const ALERT: &str = "received fatal alert: ";
/// What HTTP/2 says of a TLS record.
const NOT_HTTP2: &str = "frame with invalid size";

/// What a person can do about a handshake that failed; none where the error is not of TLS.
pub(super) fn hint(error: &(dyn StdError + 'static), cause: &str) -> Option<&'static str> {
    // A client certificate is refused after the client's handshake (TLS 1.3), and HTTP/2 keeps of the
    // error under it only the text.
    if let Some((_, alert)) = cause.split_once(ALERT) {
        return Some(match alert {
            "CertificateRequired" => "the server asks for a client certificate and its key",
            "ProtocolVersion" | "NoApplicationProtocol" | "HandshakeFailure" => DISAGREE,
            _ => "the server does not accept this client's certificate",
        });
    }
    if cause.ends_with(NOT_HTTP2) {
        return Some("does this port speak TLS? then write https://");
    }
    Some(match find(error)? {
        Error::InvalidCertificate(why) => match why {
            Bad::UnknownIssuer => "name the CA that the server's certificate comes from",
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "use a name that the server's certificate has, or say which it has (the TLS server name)"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "renew the server's certificate",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "look at this machine's clock",
            _ => "the server's certificate is no good",
        },
        Error::InvalidMessage(_) => "does this port speak TLS? http:// is for one that does not",
        _ => DISAGREE,
    })
}

const DISAGREE: &str = "client and server do not agree on TLS: its version, or HTTP/2";

fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error shows what is in it, but does not name it as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}
