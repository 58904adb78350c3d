//! The console: one page at `/`, which runs its own script alone.

use crate::harness::Server;
use crate::harness::web::ask;

#[tokio::test]
async fn the_console_is_one_page_that_nothing_can_frame_or_extend() {
    let server = Server::start().await;
    let page = ask(server.http(), "GET /", &[], "").await;
    assert_eq!((page.code, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for rule in ["default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("sandbox"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(page.header("cache-control"), "no-cache");

    // A link on another site leads to it; a frame there does not show it.
    let server = &server;
    let visit = |dest| {
        let from =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", dest)];
        async move { ask(server.http(), "GET /", &from, "").await.code }
    };
    assert_eq!((visit("document").await, visit("iframe").await), (200, 403));
}

#[tokio::test]
async fn the_page_can_be_compressed() {
    let server = Server::start().await;
    let page = ask(server.http(), "GET /", &[("accept-encoding", "gzip")], "").await;
    assert_eq!(page.header("content-encoding"), "gzip");
    assert!(page.body.len() < 20 * 1024, "{} bytes", page.body.len());
}

#[tokio::test]
async fn the_server_tells_its_version_and_engine() {
    let server = Server::start().await;
    let told = ask(server.http(), "GET /v1/server", &[], "").await;
    assert_eq!(told.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told.json()["engine"], "embedded");
    assert_eq!(told.json()["identities"], false);
}
