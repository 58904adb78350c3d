//! TLS to `https://` servers: whom to trust, and who this client is.
//! Never: a way to trust everybody.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};
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

/// What a person can do about a handshake that failed; none where the error is not of TLS.
pub(super) fn hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    Some(match find(error)? {
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "name the CA that the server's certificate comes from"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "use a name that the server's certificate has, or say which it has (the TLS server name)"
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "look at this machine's clock"
        }
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the server asks for a client certificate and its key"
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::UnsupportedCertificate,
        ) => "the server does not accept this client's certificate",
        Error::InvalidMessage(_) => "does this port speak TLS? http:// is for one that does not",
        _ => "client and server do not agree on TLS",
    })
}

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
