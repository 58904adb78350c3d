//! TLS: who gets in, who is told what, and certificates that change under open connections.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use streamway::client::{
    Client, Error, Options, Origin, PublisherOptions, Record, RetryPolicy, SubscriberOptions, TlsOptions,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::harness::certs::{Ca, Pair, der, handshake, shown};
use crate::harness::make::{earliest, numbered, open, publish, record, subscribe};
use crate::harness::{Reader, Server, StreamClient, within};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn serve(pair: &Pair, more: &[&str]) -> Server {
    let tls = ["--tls-cert", text(&pair.cert), "--tls-key", text(&pair.key), "--reload-interval", "20ms"];
    Server::with(&[&tls[..], more].concat()).await
}

/// A policy by which whoever has this name may do anything, as flags.
fn policy(dir: &Path, principals: &str) -> [String; 2] {
    let rule = format!(
        "[[rule]]\nprincipals = [{principals}]\ntopics = [\"*\"]\n\
         actions = [\"publish\", \"subscribe\", \"admin\"]\n"
    );
    fs::write(dir.join("policy.toml"), rule).unwrap();
    ["--auth-policy".to_owned(), text(&dir.join("policy.toml")).to_owned()]
}

fn https(server: &Server) -> String {
    format!("https://{}", server.listen())
}

fn trusting(ca: &Ca) -> TlsOptions {
    TlsOptions { ca: Some(ca.file.clone()), ..TlsOptions::default() }
}

fn known_as(ca: &Ca, pair: &Pair) -> TlsOptions {
    TlsOptions { cert: Some(pair.cert.clone()), key: Some(pair.key.clone()), ..trusting(ca) }
}

fn client(server: &Server, tls: TlsOptions) -> Client {
    Client::new(Options { tls, ..Options::new(https(server)) }).unwrap()
}

/// Publishes a record and reads it again.
async fn round_trip(client: &Client) -> Result<(), Error> {
    let retry = RetryPolicy { connect_give_up_after: Duration::ZERO, ..RetryPolicy::default() };
    let publisher = client.publisher("trip", PublisherOptions { retry, ..PublisherOptions::default() })?;
    publisher.publish(&Record::new("x")).await?.await?;
    let mut subscriber =
        client.subscribe(SubscriberOptions { retry, ..SubscriberOptions::from_earliest("trip") });
    let delivery = within(30, "a delivery", subscriber.next()).await.expect("it goes on")?;
    assert_eq!(delivery.records().next().unwrap().unwrap().value, b"x");
    client.topics().get("trip").await.map(drop)
}

async fn refused(client: &Client) -> String {
    let error = within(4, "a refusal at once", round_trip(client)).await.unwrap_err();
    assert!(matches!(error.origin(), Origin::Connect | Origin::Transport), "{error}");
    error.to_string()
}

fn run(args: &[&str], input: &str, variables: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_and_the_command_line_speak_tls() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let server = serve(&ca.issue(dir.path(), "localhost", 2040), &[]).await;
    round_trip(&client(&server, trusting(&ca))).await.unwrap();

    let url = https(&server);
    let flags = ["--server", &url, "publish", "lines", "--tls-ca", text(&ca.file)];
    let published = run(&flags, "one\ntwo\n", &[]);
    assert!(published.status.success(), "{published:?}");
    let variables = [("STREAMWAY_CLIENT_TLS_CA", ca.file.as_path())];
    let read = run(&["--server", &url, "subscribe", "lines", "--from", "earliest"], "", &variables);
    assert_eq!(String::from_utf8_lossy(&read.stdout), "one\ntwo\n", "{read:?}");
    let listed = run(&["topics", "list", "--server", &url], "", &variables);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("lines"), "{listed:?}");

    let at = server.listen().to_string();
    let health = |args: &[&str]| run(&[&["healthcheck", "--addr"], args].concat(), "", &[]).status.code();
    assert_eq!(health(&[&at, "--tls", "--tls-ca", text(&ca.file)]), Some(0));
    assert_eq!(health(&[&at, "--tls", "--tls-ca", text(&ca.file), "--tls-server-name", "x"]), Some(2));
    assert_eq!(health(&[&server.admin().to_string()]), Some(0), "the admin port stays plaintext");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_requested_as_configured() {
    let dir = TempDir::new().unwrap();
    let (ca, other) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "other"));
    let pair = ca.issue(dir.path(), "localhost", 2040);
    let good = known_as(&ca, &ca.issue(dir.path(), "good", 2040));
    let strange = known_as(&ca, &other.issue(dir.path(), "strange", 2040));
    let expired = known_as(&ca, &ca.issue(dir.path(), "expired", 2021));
    let policy = policy(dir.path(), r#""*", "anonymous""#);
    let client_ca = ["--tls-client-ca", text(&ca.file), &policy[0], &policy[1]];
    // Required is what a client CA means where nothing else is said.
    for (more, without, bad) in [
        (&[][..], false, false),
        (&["--tls-client-auth", "required", "--tls-min-version", "1.3"], false, false),
        (&["--tls-client-auth", "optional"], true, false),
        (&["--tls-client-auth", "none"], true, true),
    ] {
        let server = serve(&pair, &[&client_ca[..], more].concat()).await;
        let gets_in = async |tls: &TlsOptions, expected, told: &str| {
            let client = client(&server, tls.clone());
            if expected {
                round_trip(&client).await.unwrap();
            } else {
                let error = refused(&client).await;
                // With TLS 1.3 the call may learn that its connection is gone before the reason comes.
                let gone = error.contains("connection closed");
                assert!(gone || error.contains(told), "{more:?} {told}: {error}");
            }
        };
        gets_in(&good, true, "").await;
        gets_in(&trusting(&ca), without, "the server requires a client certificate").await;
        gets_in(&strange, bad, "does not accept this client's certificate").await;
        gets_in(&expired, bad, "does not accept this client's certificate").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_trusted_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let (ca, other) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "other"));
    let server = serve(&ca.issue(dir.path(), "localhost", 2040), &[]).await;
    let error = refused(&client(&server, trusting(&other))).await;
    assert!(error.contains("UnknownIssuer; trust the CA"), "{error}");
    let named = TlsOptions { server_name: Some("other.example".into()), ..trusting(&ca) };
    let error = refused(&client(&server, named)).await;
    assert!(error.contains("use a host name that the server's certificate has"), "{error}");
    let named = TlsOptions { server_name: Some("localhost".into()), ..trusting(&ca) };
    round_trip(&client(&server, named)).await.unwrap();
    let error = refused(&Client::new(Options::new(server.url())).unwrap()).await;
    assert!(error.contains("write https://"), "{error}");

    let expired = serve(&ca.issue(dir.path(), "expired", 2021), &[]).await;
    let error = refused(&client(&expired, trusting(&ca))).await;
    assert!(error.contains("renew the server's certificate"), "{error}");
    assert!(expired.log().contains("TLS certificate has expired"), "{}", expired.log());

    let plaintext = Server::start().await;
    refused(&client(&plaintext, trusting(&ca))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_tls_are_closed_and_others_go_on() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let pair = ca.issue(dir.path(), "localhost", 2040);
    let server = serve(&pair, &["--tls-handshake-timeout", "1s"]).await;
    let honest = client(&server, trusting(&ca));
    round_trip(&honest).await.unwrap();

    // Those that say nothing, half of a ClientHello, garbage, and another protocol.
    let begun = Instant::now();
    let record = [22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    for said in
        [&b""[..], &record, b"\xff\xfe garbage \x00", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n"]
    {
        let mut stream = TcpStream::connect(server.listen()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let ended = within(10, "the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 16, "an alert at most: {ended:?} {answer:?}");
        round_trip(&honest).await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "the slow ones had their time");

    let wrong = handshake(server.listen(), &ca.file, None, &["http/1.1"]).await.unwrap_err();
    assert!(wrong.to_string().contains("NoApplicationProtocol"), "{wrong}");
    let right = handshake(server.listen(), &ca.file, None, &["http/1.1", "h2"]).await.unwrap();
    assert_eq!(right.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    round_trip(&honest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_than_the_configured_one_is_refused() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let pair = ca.issue(dir.path(), "localhost", 2040);
    let server = serve(&pair, &[]).await;
    assert!(handshake(server.listen(), &ca.file, Some("1.2"), &["h2"]).await.is_ok());
    let server = serve(&pair, &["--tls-min-version", "1.3"]).await;
    let error = handshake(server.listen(), &ca.file, Some("1.2"), &["h2"]).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    assert!(handshake(server.listen(), &ca.file, Some("1.3"), &["h2"]).await.is_ok());
}

async fn channel(server: &Server, ca: &Ca) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(&ca.file).unwrap()));
    let endpoint = Endpoint::from_shared(https(server)).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.unwrap()
}

/// Waits until new connections are shown this certificate.
async fn await_shown(server: &Server, ca: &Ca, cert: &Path) {
    let expected = der(cert);
    let taken_over = async {
        while shown(server.listen(), &ca.file).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(30, "the new certificate", taken_over).await;
}

/// A directory swapped as Kubernetes swaps a secret's: file → ..data/file, ..data → a directory.
fn swap(mount: &Path, to: &Path) {
    symlink(to, mount.join("..new")).unwrap();
    fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
}

/// One call each that publishes and subscribes lives through every change: they would break with
/// their connection.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_connections_stay_open() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ca = Ca::new(dir.path(), "ca");
    let pairs = ["one", "two", "three"].map(|name| {
        fs::create_dir(at(name)).unwrap();
        ca.issue(&at(name), "tls", 2040)
    });
    swap(dir.path(), &at("one"));
    let mounted = Pair { cert: at("tls.cert.pem"), key: at("tls.key.pem") };
    symlink("..data/tls.cert.pem", &mounted.cert).unwrap();
    symlink("..data/tls.key.pem", &mounted.key).unwrap();
    let server = serve(&mounted, &[]).await;
    await_shown(&server, &ca, &pairs[0].cert).await;

    let mut publisher = StreamClient::new(channel(&server, &ca).await);
    let (requests, receiver) = mpsc::channel(1);
    requests.send(open("load")).await.unwrap();
    let mut answers = publisher.exchange(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let publishing = tokio::spawn(async move {
        let mut number = 0;
        while stopped.try_recv().is_err() {
            number += 1;
            let batch = publish("", vec![record(number.to_string())]);
            requests.send(numbered(number, batch)).await.unwrap();
            let mut acknowledged = 0;
            while acknowledged < number {
                let answer = answers.message().await.unwrap().expect("the call goes on");
                acknowledged = answer.receipts.last().map_or(0, |receipt| receipt.number);
            }
        }
        number
    });
    let mut subscriber = StreamClient::new(channel(&server, &ca).await);
    let mut reader = Reader::open(&mut subscriber, subscribe("load", earliest())).await.unwrap();
    let mut read = 0;
    // Reads so many more records at least.
    let mut read_on = async |more: u64| {
        let goal = read + more;
        while read < goal {
            let seen = within(30, "records", reader.records()).await.unwrap().expect("the call goes on");
            for seen in seen {
                assert_eq!(seen.offset, read, "none is missing");
                read += 1;
            }
        }
        read
    };

    read_on(5).await;
    swap(dir.path(), &at("two"));
    await_shown(&server, &ca, &pairs[1].cert).await;
    let audited = async {
        let line = r#""action":"certificate.reload","outcome":"done","principal":"streamway:server""#;
        while !server.log().contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(30, "its line in the audit log", audited).await;
    read_on(5).await;
    // A key that does not fit: told once, and nothing changes.
    fs::copy(&pairs[0].key, &pairs[1].key).unwrap();
    let warned = async {
        while !server.log().contains("changed files cannot be used") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(30, "the warning", warned).await;
    assert!(server.log().contains("does not belong to the first certificate"), "{}", server.log());
    assert_eq!(shown(server.listen(), &ca.file).await, der(&pairs[1].cert));
    read_on(5).await;
    assert_eq!(server.log().matches("changed files cannot be used").count(), 1, "{}", server.log());
    // Mended in place, one file after the other.
    fs::copy(&pairs[2].cert, &pairs[1].cert).unwrap();
    fs::copy(&pairs[2].key, &pairs[1].key).unwrap();
    await_shown(&server, &ca, &pairs[2].cert).await;
    read_on(5).await;
    stop.send(()).await.unwrap();
    let published = within(30, "the publisher", publishing).await.unwrap();
    let so_far = read_on(0).await;
    assert_eq!(read_on(published - so_far).await, published);
}

/// The policy decides what the holder of a certificate may do.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_an_identity() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let pair = ca.issue(dir.path(), "localhost", 2040);
    let policy = policy(dir.path(), r#""writer""#);
    let server = serve(&pair, &["--tls-client-ca", text(&ca.file), &policy[0], &policy[1]]).await;
    let as_holder = |name: &str| client(&server, known_as(&ca, &ca.issue(dir.path(), name, 2040)));
    round_trip(&as_holder("writer")).await.unwrap();
    let error = round_trip(&as_holder("stranger")).await.unwrap_err();
    assert_eq!(error.reason(), Some("PERMISSION_DENIED"), "{error}");
}

/// A client whose own certificate is renewed on disk gets in with the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_uses_its_renewed_certificate() {
    let dir = TempDir::new().unwrap();
    let (ca, other) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "other"));
    let pair = ca.issue(dir.path(), "localhost", 2040);
    let policy = policy(dir.path(), r#""me""#);
    let server = serve(&pair, &["--tls-client-ca", text(&ca.file), &policy[0], &policy[1]]).await;
    let tls = known_as(&ca, &other.issue(dir.path(), "me", 2040));
    let reload_interval = Duration::from_millis(20);
    let client = Client::new(Options { tls, reload_interval, ..Options::new(https(&server)) }).unwrap();
    refused(&client).await;
    ca.issue(dir.path(), "me", 2040);
    let renewed = async {
        while client.topics().list(Default::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(30, "the renewed certificate", renewed).await;
}

#[test]
fn a_start_with_unusable_files_is_refused_and_names_them() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::new(dir.path(), "ca");
    let (one, two) = (ca.issue(dir.path(), "one", 2040), ca.issue(dir.path(), "two", 2040));
    let nowhere = dir.path().join("nowhere.pem");
    let data = dir.path().join("data");
    let start = |cert: &Path, key: &Path| {
        let at =
            ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", text(&data)];
        let output = run(&[&at[..], &["--tls-cert", text(cert), "--tls-key", text(key)]].concat(), "", &[]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = start(&nowhere, &one.key);
    assert!(code == Some(1) && said.contains("nowhere.pem: No such file"), "{code:?} {said}");
    let (code, said) = start(&one.cert, &two.key);
    assert!(code == Some(1) && said.contains("two.key.pem does not belong to"), "{code:?} {said}");
    let output = run(&["serve", "--tls-cert", text(&one.cert)], "", &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!data.exists(), "nothing was begun");
}

/// `openssl req -x509` makes a certificate of a CA, which no server may present.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_ca_is_refused_with_its_remedy() {
    let dir = TempDir::new().unwrap();
    let mut params =
        rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pair = Pair { cert: dir.path().join("self.pem"), key: dir.path().join("self.key") };
    std::fs::write(&pair.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&pair.key, key.serialize_pem()).unwrap();
    let server = serve(&pair, &[]).await;
    let listed = run(&["topics", "list", "--server", &https(&server), "--tls-ca", text(&pair.cert)], "", &[]);
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.code() == Some(1) && said.contains("basicConstraints=critical,CA:FALSE"), "{said}");
}
