//! `nats-credentials`: what it answers.

use serde_json::Value;

use super::{run, stdout};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_answered_as_text_and_as_json_without_a_secret() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("new").to_str().unwrap().to_owned();
    let make = |more: &[&str]| {
        let args = ["nats-credentials", "--dir", &place, "--routes", "a:6222"];
        run(&server, &[&args[..], more].concat(), "")
    };
    for made in [true, false] {
        let answer: Value = serde_json::from_str(stdout(&make(&["-o", "json"]))).unwrap();
        assert_eq!(answer, serde_json::json!({ "place": place, "made": made }));
    }
    assert_eq!(stdout(&make(&[])), format!("credentials already in {place}\n"));
}
