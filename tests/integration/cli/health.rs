//! `healthcheck`: which server it asks, and its exit codes.

use super::{command, run};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_has_the_exit_codes_of_grpc_health_probe() {
    let server = Server::start().await;
    let admin = server.admin().to_string();
    let code = |args: &[&str]| run(&server, &[&["healthcheck"], args].concat(), "").status.code().unwrap();
    assert_eq!(code(&["--addr", &admin]), 0);
    assert_eq!(code(&["--addr", &admin, "--service", "streamway.v1.StreamService"]), 0);
    assert_eq!(code(&["--no-such-flag"]), 1);
    let after_a_value = run(&server, &["--server", "http://x:1", "healthcheck", "--no-such-flag"], "");
    assert_eq!(after_a_value.status.code(), Some(1));
    assert_eq!(code(&["--addr", "127.0.0.1:1"]), 2);
    assert_eq!(code(&["--addr", &admin, "--service", "nope"]), 3);
    // Its container's configuration is where the server is.
    let mut command = command(&server, &["healthcheck"]);
    command.env("STREAMWAY_ADMIN_LISTEN", format!("0.0.0.0:{}", server.admin().port()));
    assert!(command.output().unwrap().status.success());
}

/// A flag wins over a variable, and the container's own address over that of another server.
#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_asks_the_server_that_is_named() {
    let server = Server::start().await;
    let (here, nobody) = (server.url(), "http://127.0.0.1:1");
    let ask = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = command(&server, args);
        command.env_remove("STREAMWAY_SERVER").envs(variables.iter().copied());
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(ask(&[], &["healthcheck", "--server", &here]), 0);
    assert_eq!(ask(&[], &["--server", &here, "healthcheck"]), 0);
    assert_eq!(ask(&[("STREAMWAY_SERVER", &here)], &["healthcheck"]), 0);
    assert_eq!(ask(&[("STREAMWAY_SERVER", nobody)], &["healthcheck"]), 2, "not the server of this machine");
    assert_eq!(ask(&[("STREAMWAY_SERVER", &here)], &["healthcheck", "--server", nobody]), 2);
    let admin = server.admin().to_string();
    let both = [("STREAMWAY_SERVER", nobody), ("STREAMWAY_ADMIN_LISTEN", &admin)];
    assert_eq!(ask(&both, &["healthcheck"]), 0);
    assert_eq!(ask(&both, &["healthcheck", "--server", nobody]), 2);
    assert_eq!(ask(&[("STREAMWAY_SERVER", nobody)], &["healthcheck", "--addr", &admin]), 0);
    let fleet = format!("{here},{nobody}");
    assert_eq!(ask(&[], &["healthcheck", "--server", &fleet]), 2, "all of several must be ready");
    let of_unknown = ["healthcheck", "--server", &fleet, "--service", "nope"];
    assert_eq!(ask(&[], &of_unknown), 3, "the highest of 3 and 2");
    assert_eq!(ask(&[], &["healthcheck", "--server", &here, "--tls"]), 1, "plaintext, and TLS");
    let json = run(&server, &["healthcheck", "--server", &here, "-o", "json"], "");
    assert_eq!(super::stdout(&json), format!("{{\"server\":\"{here}\",\"status\":\"SERVING\"}}\n"));
}
