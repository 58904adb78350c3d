//! Certificate, key and client CA, parsed from the bytes of PEM files. An error is one sentence that names the file at
//! fault, and shows nothing of a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::{ClientAuth, TlsConfig, TlsVersion};
use crate::reload::Contents;

/// The only protocol that the gRPC port offers over TLS.
const H2: &[u8] = b"h2";
/// Protocols that the HTTP listener offers, the best first.
const HTTP: [&[u8]; 2] = [H2, b"http/1.1"];

/// Parsed files, ready for handshakes.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) http: Arc<ServerConfig>,
    /// DNS names of the certificate, in lower case.
    pub(super) names: Vec<String>,
    /// Start of the certificate's validity.
    pub(super) begins: SystemTime,
    /// End of the certificate's validity.
    pub(super) expires: SystemTime,
}

/// Returns the files to read, or `None` if TLS is off.
pub(super) fn paths(tls: &TlsConfig) -> Option<Vec<PathBuf>> {
    let (cert, key) = (tls.cert.clone()?, tls.key.clone()?);
    Some([cert, key].into_iter().chain(tls.client_ca.clone()).collect())
}

/// Checks the files' contents, in the order of [`paths`], and that they fit each other.
pub(super) fn load(paths: &[PathBuf], contents: &Contents, tls: &TlsConfig) -> Result<Material, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&paths[0], &contents[0])?;
    let certificate = Certificate::from_der(&chain[0])
        .map_err(|error| format!("the certificate in {} cannot be read: {error}", paths[0].display()))?;
    let validity = certificate.tbs_certificate().validity();
    let (begins, expires) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
    let names = super::peer::dns_names(&certificate);
    let pair = certified_key(paths, chain, &contents[1], &provider)?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let resolver = Arc::new(SingleCertAndKey::from(pair));
    let server = |client_auth: ClientAuth, protocols: &[&[u8]]| {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match paths.get(2).filter(|_| client_auth != ClientAuth::None) {
            Some(path) => {
                let optional = client_auth == ClientAuth::Optional;
                let provider = Arc::clone(&provider);
                builder.with_client_cert_verifier(client_verifier(path, &contents[2], optional, provider)?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::clone(&resolver) as _);
        server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // No resumption: connections live long, and each one's client certificate is verified anew.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok::<_, String>(Arc::new(server))
    };
    let grpc = server(tls.client_auth(), &[H2])?;
    // A browser of somebody who has no certificate signs in with a token.
    let optional = match tls.client_auth() {
        ClientAuth::None => ClientAuth::None,
        ClientAuth::Optional | ClientAuth::Required => ClientAuth::Optional,
    };
    let http = server(optional, &HTTP)?;
    Ok(Material { grpc, http, names, begins, expires })
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{} holds no certificate in PEM form", path.display())),
        Err(_) => Err(format!("{} is damaged: not every PEM block in it can be read", path.display())),
    }
}

fn certified_key(
    paths: &[PathBuf],
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let (cert_path, key_path) = (paths[0].display(), paths[1].display());
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        // An encrypted key is a block of another name.
        pem::Error::NoItemsFound => {
            format!("{key_path} holds no private key in PEM form that is not encrypted")
        }
        _ => format!("{key_path} is damaged: its PEM blocks cannot be read"),
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            format!("the key in {key_path} does not belong to the first certificate in {cert_path}")
        }
        Error::General(_) => {
            format!("the key in {key_path} is of no kind that can sign: RSA, ECDSA or Ed25519")
        }
        error => format!("{cert_path} and {key_path} cannot be used: {error}"),
    })
}

fn client_verifier(
    path: &Path,
    bytes: &[u8],
    optional: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
        roots
            .add(certificate)
            .map_err(|error| format!("a CA in {} cannot be used: {error}", path.display()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| format!("{} cannot be used: {error}", path.display()))
}
