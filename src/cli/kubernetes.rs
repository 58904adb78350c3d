//! Creation of a Secret in Kubernetes, with the service account of the pod.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Directory of the pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Time limit of the whole call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest part of an error's body that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 1024;

/// A Secret to create.
pub(super) struct Secret<'a> {
    /// Name of the object.
    pub name: &'a str,
    /// Keys and values of the object.
    pub data: &'a [(&'static str, String)],
}

/// Creates a Secret, and returns true; false if there is one of that name already, which is not changed.
///
/// # Errors
/// Kubernetes cannot be reached, or refuses.
pub(super) async fn create(secret: &Secret<'_>) -> Result<bool, String> {
    match tokio::time::timeout(TIMEOUT, ask(secret)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("Kubernetes has not answered within {TIMEOUT:?}")),
    }
}

async fn ask(secret: &Secret<'_>) -> Result<bool, String> {
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{name} is not set: this command must run in a pod of Kubernetes"))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let port: u16 = port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT {port:?} is not a port"))?;
    let file = |name: &str| {
        let path = Path::new(ACCOUNT).join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| at(&path.display(), &error))?;
        Ok::<_, String>(text.trim().to_owned())
    };
    let (token, namespace) = (file("token")?, file("namespace")?);
    let body = body(secret).to_string();
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/secrets"))
        .header(header::HOST, &host)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len())
        .body(body)
        .map_err(|error| error.to_string())?;

    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| at(&host, &error))?;
    let name = ServerName::try_from(host.clone()).map_err(|error| at(&host, &error))?;
    let connector = TlsConnector::from(Arc::new(tls(&Path::new(ACCOUNT).join("ca.crt"))?));
    let stream = connector.connect(name, stream).await.map_err(|error| at(&host, &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| at(&host, &error))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| at(&host, &error))?;
    let answer = match response.status() {
        StatusCode::CREATED => Ok(true),
        StatusCode::CONFLICT => Ok(false),
        status => Err(format!("Kubernetes answers {status}: {}", text(response.into_body()).await)),
    };
    connection.abort();
    answer
}

fn at(what: &impl Display, error: &impl Display) -> String {
    format!("{what}: {error}")
}

fn body(secret: &Secret<'_>) -> serde_json::Value {
    let data: serde_json::Map<_, _> =
        secret.data.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret.name, "labels": {
            "app.kubernetes.io/name": secret.name, "app.kubernetes.io/part-of": "streamway",
        } },
        "type": "Opaque",
        "stringData": data,
    })
}

/// A TLS configuration that trusts only the cluster's own CA.
fn tls(ca: &Path) -> Result<ClientConfig, String> {
    let failed = |error: &dyn Display| format!("{}: {error}", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Reads the beginning of a body as text.
async fn text(body: impl Body<Data = Bytes>) -> String {
    let mut body = std::pin::pin!(body);
    let mut all = Vec::new();
    while all.len() < SHOWN_BYTES_MAX {
        match std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
            Some(Ok(frame)) => all.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => break,
        }
    }
    all.truncate(SHOWN_BYTES_MAX);
    String::from_utf8_lossy(&all).escape_debug().to_string()
}
