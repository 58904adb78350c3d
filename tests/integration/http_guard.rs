//! The HTTP listener against pages of other sites, and its answers to requests that no route takes.

use crate::harness::web::ask;
use crate::harness::{Server, free_ports};

#[tokio::test]
async fn pages_of_other_sites_and_unknown_names_are_refused_before_anything_is_done() {
    let server =
        Server::with(&["--http-origins", "https://app.example", "--http-hosts", "known.example"]).await;
    let at = server.http();
    for (headers, code, reason) in [
        (&[("origin", "https://evil.example")][..], 403, "CROSS_SITE"),
        (&[("sec-fetch-site", "cross-site"), ("content-type", "text/plain")], 403, "CROSS_SITE"),
        (&[("sec-fetch-site", "same-site")], 403, "CROSS_SITE"),
        (&[("host", "rebound.example")], 421, "WRONG_HOST"),
        (&[("host", "known.example")], 404, "NO_SUCH_PATH"),
        (&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], 404, "NO_SUCH_PATH"),
    ] {
        let answer = ask(at, "POST /v1/nothing", headers, "x").await;
        assert_eq!(answer.problem(), (code, reason.to_owned()), "{headers:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{headers:?}");
        assert!(answer.header("content-security-policy").starts_with("sandbox"), "{headers:?}");
    }
    let unknown = ask(at, "GET /v1/nothing", &[("host", "rebound.example")], "").await;
    assert!(unknown.text().contains("--http-hosts"), "{}", unknown.text());
}

#[tokio::test]
async fn a_taken_default_port_is_warned_of_and_done_without() {
    // Whoever has it: another server of this machine, or this listener.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8080");
    let server = Server::with(&["--http-listen", "127.0.0.1:8080"]).await;
    assert!(server.log().contains("the default port of the HTTP listener is taken"), "{}", server.log());
    assert!(server.log().contains(r#""http_listen":"off""#), "{}", server.log());
}

#[tokio::test]
async fn another_port_that_is_taken_is_an_error() {
    let port = free_ports(1)[0];
    let address = format!("127.0.0.1:{port}");
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--http-listen",
            &address,
        ])
        .current_dir(tempfile::tempdir().unwrap().path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&address), "{said}");
}
