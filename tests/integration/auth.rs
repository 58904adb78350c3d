//! Authentication and authorisation: refusals and reloads.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};
use streamway::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, ListTopicsRequest, PublishRequest, Topic,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::identities::{Setup, bearer, claims, of, publish_as, rule, unix_now, until};
use crate::harness::jwt::{Signer, hs256, unsigned};
use crate::harness::make::{earliest, ingest, open, publish, record, records, subscribe};
use crate::harness::{Reader, StreamClient, detail, read_all, refused};

#[tokio::test]
async fn calls_without_an_identity_are_refused_except_health() {
    let setup = Setup::new(&["ops"], &rule(r#"["*"]"#, r#"["*"]"#, r#"["publish","subscribe","admin"]"#));
    let server = setup.start(&[]).await;
    let mut client = server.client().await;
    let mut topics = server.topics().await;
    let unauthenticated = |status: Status| refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    unauthenticated(client.publish(publish("t", records("x", 1))).await.unwrap_err());
    unauthenticated(client.subscribe(subscribe("t", earliest())).await.unwrap_err());
    unauthenticated(client.ingest(tokio_stream::empty()).await.unwrap_err());
    unauthenticated(client.exchange(tokio_stream::empty()).await.unwrap_err());
    unauthenticated(topics.list_topics(ListTopicsRequest::default()).await.unwrap_err());
    for header in ["Bearer wrong", "Bearer ops-secretx", "Basic ops-secret", "ops-secret", "Bearer"] {
        let mut request = Request::new(publish("t", records("x", 1)));
        request.metadata_mut().insert("authorization", header.parse().unwrap());
        unauthenticated(client.publish(request).await.unwrap_err());
    }
    let mut twice = of("ops", publish("t", records("x", 1)));
    twice.metadata_mut().append("authorization", "Bearer ops-secret".parse().unwrap());
    unauthenticated(client.publish(twice).await.unwrap_err());
    // Harness readiness has asked health already; once more by itself.
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(server.channel().await).check(request).await.unwrap();
    publish_as(&server, "ops", "t").await.unwrap();
}

/// P5: nobody answers another principal's publish with a receipt of its own, or learns that an id was used.
#[tokio::test]
async fn a_request_id_of_another_principal_is_another_publish() {
    let policy = rule(r#"["one", "other", "anonymous"]"#, r#"["*"]"#, r#"["publish", "subscribe"]"#);
    let setup = Setup::new(&["one", "other"], &policy);
    let mut server = setup.start(&[]).await;
    let with_id = |value: &str| PublishRequest {
        request_id: "import-1".into(),
        ..publish("shared", vec![record(value)])
    };
    for round in 0..2 {
        let mut client = server.client().await;
        for (at, name) in [Some("one"), Some("other"), None].into_iter().enumerate() {
            let request = with_id(name.unwrap_or("nobody"));
            let request = name.map_or(Request::new(request.clone()), |name| of(name, request));
            let receipt = client.publish(request).await.unwrap().into_inner().receipt.unwrap();
            assert_eq!((receipt.duplicate, receipt.first_offset), (round > 0, at as u64), "{name:?}");
        }
        let status = client.publish(of("one", with_id("else"))).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED");
        // The principal of an id is stored with it.
        server.sigterm().await;
        server.restart().await;
    }
    let seen = read_all(&mut server.client().await, "shared").await;
    assert_eq!(seen.iter().map(|seen| seen.text()).collect::<Vec<_>>(), ["one", "other", "nobody"]);
}

#[tokio::test]
async fn forged_and_expired_jwts_are_refused_and_valid_ones_accepted() {
    let (rsa, ec, ed) = (Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d"));
    let mut setup = Setup::new(&[], &rule(r#"["billing"]"#, r#"["orders"]"#, r#"["publish"]"#));
    setup.jwks(&[&rsa, &ec, &ed]);
    let server = setup.start(&[]).await;
    let mut client = server.client().await;
    let good = claims(unix_now() + 600);
    for signer in [&rsa, &ec, &ed] {
        client.publish(bearer(&signer.sign(&good), publish("orders", records("x", 1)))).await.unwrap();
    }
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        claims
    };
    for (what, token) in [
        ("alg none", unsigned("none", "r", &good)),
        ("HS256 with the public key", hs256(rsa.jwk()["n"].as_str().unwrap().as_bytes(), "r", &good)),
        ("another audience", ed.sign(&with("aud", json!("other")))),
        ("another issuer", ed.sign(&with("iss", json!("https://evil")))),
        ("expired", ed.sign(&with("exp", json!(unix_now() - 1)))),
        ("not valid yet", ed.sign(&with("nbf", json!(unix_now() + 60)))),
        ("an unknown kid", Signer::eddsa("unknown").sign(&good)),
        ("another's key", Signer::eddsa("d").sign(&good)),
        ("garbage", "a.b.c".to_owned()),
        ("oversized", ed.sign(&with("pad", json!("x".repeat(9000))))),
    ] {
        let status = client.publish(bearer(&token, publish("orders", records("x", 1)))).await;
        let status = status.expect_err(what);
        refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
        assert!(!status.message().contains(&token) && status.message().len() < 200, "{what}");
    }
}

/// A wrong signature is cheap to send and dear to check: so many are checked, and who is known passes.
#[tokio::test]
async fn checks_of_invalid_tokens_are_limited_and_valid_ones_still_accepted() {
    let signer = Signer::rs256("r");
    let mut setup = Setup::new(&["ops"], &rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#));
    setup.jwks(&[&signer]);
    let server =
        setup.start(&["--auth-connection-failures-per-s", "1", "--auth-peer-failures-per-s", "4"]).await;
    let good = signer.sign(&claims(unix_now() + 600));
    let mut honest = server.client().await;
    honest.publish(bearer(&good, publish("t", records("x", 1)))).await.unwrap();
    // Another's signature below claims that were not signed.
    let signature = good.rsplit('.').next().unwrap();
    let forged = |i| {
        let token = signer.sign(&claims(unix_now() + 700 + i));
        format!("{}.{signature}", token.rsplit_once('.').unwrap().0)
    };
    let tokens: Vec<String> = (0..200).map(forged).collect();
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(server.client().await);
    }
    // All at once, so that even a slow machine exceeds the limits: first that of one connection, which is below the address's.
    let begun = Instant::now();
    let attempt = async |token, mut client: StreamClient| {
        client.publish(bearer(token, publish("t", records("x", 1)))).await.unwrap_err()
    };
    let (first, rest) = tokens.split_at(20);
    let on_one = join_all(first.iter().map(|token| attempt(token, clients[0].clone()))).await;
    let on_all =
        rest.iter().zip(clients.iter().cycle()).map(|(token, client)| attempt(token, client.clone()));
    let (mut checked, mut refusals) = (0, Vec::new());
    for status in on_one.into_iter().chain(join_all(on_all).await) {
        match status.code() {
            Code::Unauthenticated => checked += 1,
            _ => refusals.push(status),
        }
    }
    let most = 5 + 4 * (begun.elapsed().as_secs() + 1);
    assert!(checked <= most, "{checked} of 200 were checked, at most {most}");
    // On the same connections, and on another of the same address.
    for client in clients.iter_mut().chain([&mut honest]) {
        client.publish(bearer(&good, publish("t", records("x", 1)))).await.unwrap();
        client.publish(of("ops", publish("t", records("x", 1)))).await.unwrap();
    }
    let connection = refusals.iter().any(|status| status.message().contains("from this connection"));
    let address = refusals.iter().find(|status| status.message().contains("from this address"));
    assert!(connection, "{refusals:?}");
    let status = address.expect("one of the address");
    refused(status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert!(
        status.message().contains("at most 4 a second")
            && status.message().contains("--auth-peer-failures-per-s")
    );
    let details = detail(status);
    assert!(details.retry_info().is_some() && details.quota_failure().is_some(), "{details:?}");
}

/// `/metrics` asks nobody who they are.
#[tokio::test]
async fn metrics_name_topics_behind_a_policy_only_on_demand() {
    let setup = Setup::new(&["ops"], &rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#));
    for (flags, is_named) in [(&[][..], false), (&["--telemetry-topics-max", "5"], true)] {
        let server = setup.start(flags).await;
        publish_as(&server, "ops", "merger-with-acme").await.unwrap();
        let text = crate::harness::vitals::metrics(&server).await;
        assert!(text.contains("streamway_"), "{text}");
        assert_eq!(text.contains("merger-with-acme"), is_named, "{flags:?}: {text}");
        assert_eq!(text.contains("topic=\"_other\""), !is_named, "{flags:?}");
    }
}

#[tokio::test]
async fn actions_that_no_rule_allows_are_denied_whether_the_topic_exists_or_not() {
    let policy = rule(r#"["writer"]"#, r#"["orders", "orders.*"]"#, r#"["publish"]"#)
        + &rule(r#"["reader"]"#, r#"["orders"]"#, r#"["subscribe"]"#)
        + &rule(r#"["ops"]"#, r#"["*"]"#, r#"["admin", "publish"]"#);
    let setup = Setup::new(&["writer", "reader", "ops", "nobody"], &policy);
    let server = setup.start(&[]).await;
    let (mut client, mut topics) = (server.client().await, server.topics().await);
    let denied = |status: &Status| refused(status, Code::PermissionDenied, "PERMISSION_DENIED");
    for topic in ["orders", "orders.eu", "secrets"] {
        publish_as(&server, if topic == "secrets" { "ops" } else { "writer" }, topic).await.unwrap();
    }
    // There or not: the same answer.
    for (there, absent) in [("secrets", "nothing"), ("orderss", "ordersx")] {
        let [there, absent] =
            [publish_as(&server, "writer", there).await, publish_as(&server, "writer", absent).await]
                .map(|answer| answer.unwrap_err());
        denied(&there);
        denied(&absent);
        let (a, b) = (detail(&there), detail(&absent));
        assert_eq!(format!("{:?}", a.error_info()), format!("{:?}", b.error_info()));
        assert!(a.resource_info().is_none() && b.resource_info().is_none());
    }
    denied(&client.subscribe(of("writer", subscribe("orders", earliest()))).await.unwrap_err());
    denied(&publish_as(&server, "reader", "orders").await.unwrap_err());
    let first = |topic: &str| tokio_stream::iter([ingest(publish(topic, records("x", 1)))]);
    denied(&client.ingest(of("reader", first("orders"))).await.unwrap_err());
    client.ingest(of("writer", first("orders"))).await.unwrap();
    let mut exchange = client.exchange(of("reader", tokio_stream::iter([open("orders")]))).await.unwrap();
    denied(&exchange.get_mut().message().await.unwrap_err());
    // An Exchange may not read by its right to write.
    let mut both = open("orders");
    if let Some(streamway::proto::v1::exchange_request::Kind::Open(open)) = &mut both.kind {
        open.subscribe = Some(subscribe("secrets", earliest()));
    }
    let mut exchange = client.exchange(of("writer", tokio_stream::iter([both]))).await.unwrap();
    denied(&exchange.get_mut().message().await.unwrap_err());
    // Administration.
    let named = |name: &str| Some(Topic { name: name.into(), ..Topic::default() });
    denied(
        &topics
            .create_topic(of("writer", CreateTopicRequest { topic: named("orders.new") }))
            .await
            .unwrap_err(),
    );
    let delete = |name: &str| DeleteTopicRequest { name: name.into(), epoch: String::new() };
    denied(&topics.delete_topic(of("writer", delete("orders"))).await.unwrap_err());
    for (who, name, may) in
        [("reader", "orders", true), ("reader", "secrets", false), ("nobody", "orders", false)]
    {
        let found = topics.get_topic(of(who, GetTopicRequest { name: name.into() })).await;
        assert_eq!(found.as_ref().map_err(Status::code).is_ok(), may, "{who} {name}: {found:?}");
    }
    topics.delete_topic(of("ops", delete("secrets"))).await.unwrap();
    // Names that look like paths or encodings are no names, and open nothing.
    for name in
        ["../orders", "orders/../secrets", "ORDERS", "orders%2e", "orders%2Eeu", "/orders", "orders\0"]
    {
        refused(
            &publish_as(&server, "writer", name).await.unwrap_err(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        );
    }
}

#[tokio::test]
async fn lists_show_only_the_callers_topics_and_pages_lose_none() {
    let policy = rule(r#"["ops"]"#, r#"["*"]"#, r#"["admin", "publish"]"#)
        + &rule(r#"["some"]"#, r#"["*3", "*7"]"#, r#"["subscribe"]"#);
    let setup = Setup::new(&["ops", "some", "none"], &policy);
    let server = setup.start(&[]).await;
    for i in 0..40 {
        publish_as(&server, "ops", &format!("t{i:02}")).await.unwrap();
    }
    let mut topics = server.topics().await;
    let mut all = async |who: &str, page_size: u32| {
        let (mut names, mut pages, mut page_token) = (Vec::new(), 0, String::new());
        loop {
            let request = ListTopicsRequest { page_size, page_token, prefix: String::new() };
            let page = topics.list_topics(of(who, request)).await.unwrap().into_inner();
            assert!(page.topics.len() <= page_size as usize);
            names.extend(page.topics.into_iter().map(|topic| topic.name));
            (pages, page_token) = (pages + 1, page.next_page_token);
            if page_token.is_empty() {
                return (names, pages);
            }
        }
    };
    let expected = ["t03", "t07", "t13", "t17", "t23", "t27", "t33", "t37"];
    for (size, pages) in [(1, 8), (3, 3), (8, 1), (100, 1)] {
        let (names, found) = all("some", size).await;
        assert_eq!((names.as_slice(), found), (expected.map(str::to_owned).as_slice(), pages), "{size}");
    }
    assert_eq!(all("ops", 15).await.0.len(), 40);
    assert_eq!(all("none", 15).await.0.len(), 0);
}

#[tokio::test]
async fn changed_rules_apply_while_the_server_runs() {
    let narrow = rule(r#"["a"]"#, r#"["one"]"#, r#"["publish"]"#);
    let setup = Setup::new(&["a", "b"], &narrow);
    let server = setup.start(&[]).await;
    publish_as(&server, "a", "one").await.unwrap();
    assert!(publish_as(&server, "b", "one").await.is_err());
    setup.policy(&rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#));
    until("widened", async || publish_as(&server, "b", "two").await.is_ok()).await;
    setup.policy("[[rule]]\nprincipls = []");
    until("a warning", async || server.log().contains("principls")).await;
    publish_as(&server, "b", "two").await.unwrap();
    setup.policy(&narrow);
    until("narrowed", async || publish_as(&server, "b", "one").await.is_err()).await;
    setup.tokens(&["b"]);
    until("withdrawn", async || {
        publish_as(&server, "a", "one").await.is_err_and(|status| status.code() == Code::Unauthenticated)
    })
    .await;
}

#[tokio::test]
async fn anonymous_callers_get_what_the_policy_grants_them_by_name() {
    let policy = rule(r#"["anonymous"]"#, r#"["news"]"#, r#"["subscribe"]"#)
        + &rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#);
    let setup = Setup::new(&["ops"], &policy);
    let server = setup.start(&[]).await;
    publish_as(&server, "ops", "news").await.unwrap();
    let mut client = server.client().await;
    let mut reader = Reader::open(&mut client, subscribe("news", earliest())).await.unwrap();
    assert_eq!(reader.take(1).await.len(), 1);
    let status = client.publish(publish("news", records("x", 1))).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    // A wrong token is not made good by what anybody may.
    let status = client.subscribe(bearer("wrong", subscribe("news", earliest()))).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
}

/// A server that logs all there is to log into a file, until it is dropped.
struct Talkative(std::process::Child);

impl Drop for Talkative {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn no_token_is_ever_logged() {
    let signer = Signer::eddsa("d");
    let mut setup = Setup::new(&["ops"], &rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#));
    setup.jwks(&[&signer]);
    let log = setup.path("log");
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(setup.path("data"))
        .args(&setup.args)
        .env("RUST_LOG", "trace")
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn();
    let _server = Talkative(child.unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    until("a start", async || said().contains("\"serving\"")).await;
    let line = said().lines().find(|line| line.contains("\"listening\"")).unwrap().to_owned();
    let listen = serde_json::from_str::<Value>(&line).unwrap()["listen"].as_str().unwrap().to_owned();
    let mut client = crate::harness::StreamClient::connect(format!("http://{listen}")).await.unwrap();
    let jwt = signer.sign(&claims(unix_now() + 600));
    client.publish(bearer("ops-secret", publish("t", records("x", 1)))).await.unwrap();
    client.publish(bearer(&jwt, publish("t", records("x", 1)))).await.unwrap();
    for token in ["wrong-secret", &format!("{jwt}x")] {
        client.publish(bearer(token, publish("t", records("x", 1)))).await.unwrap_err();
    }
    until("all of it", async || said().matches("without a valid identity").count() == 2).await;
    let said = said();
    assert!(said.contains("h2::"), "the transport's own words too");
    for token in ["ops-secret", "wrong-secret", &jwt, jwt.rsplit('.').next().unwrap()] {
        assert!(!said.contains(token), "{token} in the log");
    }
}

fn serve_fails(args: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(args)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_server_with_incomplete_identities_does_not_start() {
    let setup = Setup::new(&["ops"], "[[rule]]\nactions = [\"write\"]");
    let path = |name: &str| setup.path(name).to_string_lossy().into_owned();
    let (tokens, policy) = (path("tokens"), path("policy"));
    assert!(serve_fails(&["--auth-tokens", &tokens]).contains("auth_policy"));
    let said = serve_fails(&["--auth-tokens", &tokens, "--auth-policy", &policy]);
    assert!(
        said.contains("rule 1: unknown action") && said.contains("rule 1: principals is missing"),
        "{said}"
    );
    assert!(serve_fails(&["--auth-policy", "/nonexistent"]).contains("/nonexistent"));
    setup.write("tokens", "ops = \"ops-secret\"");
    let said = serve_fails(&["--auth-tokens", &tokens, "--auth-policy", &policy]);
    assert!(!said.contains("ops-secret"), "{said}");
}

#[tokio::test]
async fn a_token_of_the_token_command_is_accepted() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_streamway")).args(["token", "made"]).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let (token, line) = output.trim_end().split_once('\n').unwrap();
    let setup = Setup::new(&[], &rule(r#"["made"]"#, r#"["t"]"#, r#"["publish"]"#));
    setup.write("tokens", line);
    let server = setup.start(&[]).await;
    let mut client = server.client().await;
    client.publish(bearer(token, publish("t", vec![record("x")]))).await.unwrap();
}
