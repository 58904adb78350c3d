//! AdminService: who is connected, and sending them away.

use std::process::{Command, Output, Stdio};

use prost_types::Duration;
use rustix::process::Signal;
use serde_json::Value;
use streamway::proto::v1::admin_service_client::AdminServiceClient;
use streamway::proto::v1::end_calls_request::Target;
use streamway::proto::v1::{
    Call, EndCallsRequest, LiftBanRequest, ListBansRequest, ListCallsRequest, ListConnectionsRequest,
    lift_ban_request,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::identities::{Setup, bearer, of, publish_as, rule, until};
use crate::harness::make::{earliest, open, publish, records, subscribe};
use crate::harness::{Nats, Server, metadata, refused, within};

type Admin = AdminServiceClient<Channel>;

/// A server where `oncall` operates, and `billing` publishes and subscribes.
async fn setup(more: &[&str]) -> (Setup, Server) {
    let policy = rule(r#"["billing", "audit"]"#, r#"["*"]"#, r#"["publish", "subscribe"]"#)
        + "[[rule]]\nprincipals = [\"oncall\"]\nactions = [\"operate\"]\n";
    let setup = Setup::new(&["oncall", "billing", "audit"], &policy);
    let server = setup.start(more).await;
    (setup, server)
}

async fn admin(server: &Server) -> Admin {
    AdminServiceClient::new(server.channel().await)
}

/// Lists the calls of a principal but those of Publish, of which one that was answered may not be gone yet.
async fn calls(admin: &mut Admin, principal: &str) -> Vec<Call> {
    let mut request = ListCallsRequest { principal: principal.into(), page_size: 1, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = admin.list_calls(of("oncall", request.clone())).await.unwrap().into_inner();
        assert!(page.calls.len() <= 1 && !page.replica.unwrap().host.is_empty());
        all.extend(page.calls.into_iter().filter(|call| !call.method.ends_with("/Publish")));
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

fn end(target: Target, ban: Option<i64>) -> EndCallsRequest {
    let ban_duration = ban.map(|seconds| Duration { seconds, nanos: 0 });
    EndCallsRequest { target: Some(target), ban_duration }
}

/// Reads a subscription to its end.
async fn ended(mut stream: tonic::Streaming<streamway::proto::v1::SubscribeResponse>) -> Status {
    within(20, "the end of the stream", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    })
    .await
}

#[tokio::test]
async fn open_calls_are_listed_with_who_makes_them_and_what_they_transfer() {
    let (_setup, server) = setup(&[]).await;
    let (mut client, mut admin) = (server.client().await, admin(&server).await);
    for _ in 0..3 {
        client.publish(of("billing", publish("orders", records("x", 10)))).await.unwrap();
    }
    let mut stream =
        client.subscribe(of("billing", subscribe("orders", earliest()))).await.unwrap().into_inner();
    let mut read = 0;
    while read < 30 {
        let delivery = stream.message().await.unwrap().unwrap();
        read += delivery.batches.iter().map(|batch| batch.records.len()).sum::<usize>();
    }
    let _exchange = client.exchange(of("audit", tokio_stream::iter([open("trail")]))).await;
    let found = calls(&mut admin, "billing").await;
    let [call] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((&*call.principal, &*call.subscribe_topic, &*call.publish_topic), ("billing", "orders", ""));
    assert_eq!((&*call.method, call.lag, call.tls), ("streamway.v1.StreamService/Subscribe", Some(0), false));
    assert!(call.user_agent.starts_with("tonic/") && call.peer_address.starts_with("127.0.0.1:"), "{call:?}");
    assert!(call.sent_bytes > 30 && call.received_bytes > 5 && call.age.is_some(), "{call:?}");
    let own = calls(&mut admin, "oncall").await;
    assert_eq!(own.len(), 1, "the call that lists is open too: {own:#?}");

    let request = of("oncall", ListConnectionsRequest::default());
    let page = admin.list_connections(request).await.unwrap().into_inner();
    let connection = page.connections.iter().find(|found| found.id == call.connection_id).unwrap();
    assert!(connection.total_calls >= 4 && connection.open_calls >= 1, "{connection:?}");
    assert!(connection.sent_bytes > call.sent_bytes && connection.received_bytes > 100, "{connection:?}");
    let instance = page.replica.unwrap().instance;
    assert!(page.connections.iter().all(|found| found.id.starts_with(&instance)));
    drop(stream);
    until("the call is gone", async || calls(&mut admin.clone(), "billing").await.is_empty()).await;
}

#[tokio::test]
async fn only_who_may_operate_sees_and_ends_clients() {
    let (_setup, server) = setup(&[]).await;
    let mut admin = admin(&server).await;
    let all = end(Target::Principal("billing".into()), None);
    let status = admin.end_calls(of("billing", all.clone())).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let status = admin.list_calls(of("audit", ListCallsRequest::default())).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let status = admin.list_bans(bearer("wrong", ListBansRequest::default())).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    // Operating gives no topic.
    let status = publish_as(&server, "oncall", "orders").await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let none = admin.end_calls(of("oncall", all)).await.unwrap().into_inner();
    assert_eq!((none.ended_calls, none.closed_connections, none.ban), (0, 0, None));
}

#[tokio::test]
async fn an_ended_call_is_told_where_to_resume_and_others_go_on() {
    let (_setup, server) = setup(&[]).await;
    let (mut client, mut admin) = (server.client().await, admin(&server).await);
    client.publish(of("billing", publish("orders", records("x", 5)))).await.unwrap();
    let one = client.subscribe(of("billing", subscribe("orders", earliest()))).await.unwrap().into_inner();
    let mut other =
        client.subscribe(of("audit", subscribe("orders", earliest()))).await.unwrap().into_inner();
    let id = calls(&mut admin, "billing").await[0].id.clone();
    let done = admin.end_calls(of("oncall", end(Target::CallId(id.clone()), None))).await.unwrap();
    assert_eq!(done.into_inner().ended_calls, 1);
    let status = ended(one).await;
    refused(&status, Code::PermissionDenied, "DISCONNECTED_BY_OPERATOR");
    let told = metadata(&status);
    assert!(told.contains_key("resume_offset") && !told.contains_key("ban_seconds"), "{told:?}");
    other.message().await.unwrap().unwrap();
    let again = admin.end_calls(of("oncall", end(Target::CallId(id), None))).await.unwrap_err();
    refused(&again, Code::NotFound, "CLIENT_NOT_FOUND");
    // The caller may call again, on the same connection.
    client.publish(of("billing", publish("orders", records("x", 1)))).await.unwrap();

    let connection = calls(&mut admin, "audit").await[0].connection_id.clone();
    let ending = end(Target::ConnectionId(connection.clone()), None);
    let done = admin.end_calls(of("oncall", ending)).await.unwrap().into_inner();
    assert_eq!((done.ended_calls, done.closed_connections), (1, 1));
    refused(&ended(other).await, Code::PermissionDenied, "DISCONNECTED_BY_OPERATOR");
    until("the connection is closed", async || {
        let request = of("oncall", ListConnectionsRequest::default());
        let page = admin.clone().list_connections(request).await.unwrap().into_inner();
        page.connections.iter().all(|found| found.id != connection)
    })
    .await;
}

/// What a unary call does may be done already, so it is not cut off: its answer says how it ended.
#[tokio::test]
async fn a_unary_call_that_is_ended_is_still_answered() {
    let nats = tokio::task::spawn_blocking(|| Nats::single("")).await.unwrap();
    let url = nats.url();
    let more = ["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"];
    let (_setup, server) = setup(&more).await;
    let mut admin = admin(&server).await;
    publish_as(&server, "billing", "orders").await.unwrap();
    nats.servers[0].signal(Signal::STOP);
    let mut client = server.client().await;
    let call =
        tokio::spawn(async move { client.publish(of("billing", publish("orders", records("x", 1)))).await });
    until("the call waits", async || {
        let request = ListCallsRequest { principal: "billing".into(), ..ListCallsRequest::default() };
        let page = admin.clone().list_calls(of("oncall", request)).await.unwrap().into_inner();
        page.calls.iter().any(|call| call.method.ends_with("/Publish") && call.publish_topic == "orders")
    })
    .await;
    let ending = end(Target::Principal("billing".into()), None);
    let done = admin.end_calls(of("oncall", ending)).await.unwrap().into_inner();
    assert!(done.ended_calls >= 1, "{done:?}");
    nats.servers[0].signal(Signal::CONT);
    within(20, "its answer", call).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_ban_refuses_its_principal_until_it_is_lifted() {
    let (_setup, server) = setup(&[]).await;
    let (mut client, mut admin) = (server.client().await, admin(&server).await);
    client.publish(of("billing", publish("orders", records("x", 5)))).await.unwrap();
    let stream = client.subscribe(of("billing", subscribe("orders", earliest()))).await.unwrap().into_inner();
    let ban = end(Target::Principal("billing".into()), Some(600));
    let done = admin.end_calls(of("oncall", ban)).await.unwrap().into_inner();
    assert!(done.ended_calls >= 1 && done.ban.is_some(), "{done:?}");
    let refusal = publish_as(&server, "billing", "orders").await.unwrap_err();
    for status in [ended(stream).await, refusal] {
        refused(&status, Code::PermissionDenied, "DISCONNECTED_BY_OPERATOR");
        let left: u64 = metadata(&status)["ban_seconds"].parse().unwrap();
        assert!((1..=600).contains(&left), "{left}");
    }
    publish_as(&server, "audit", "orders").await.unwrap();
    let bans = admin.list_bans(of("oncall", ListBansRequest::default())).await.unwrap().into_inner().bans;
    assert_eq!(bans.len(), 1, "{bans:?}");
    let lift = LiftBanRequest { target: Some(lift_ban_request::Target::Principal("billing".into())) };
    for expected in [true, false] {
        let lifted = admin.lift_ban(of("oncall", lift.clone())).await.unwrap().into_inner().lifted;
        assert_eq!(lifted, expected);
    }
    publish_as(&server, "billing", "orders").await.unwrap();
    // An operator who bans everybody, from this address too, can still lift it.
    let ban = end(Target::Address("127.0.0.1".into()), Some(86_400));
    let done = admin.end_calls(of("oncall", ban)).await.unwrap().into_inner();
    assert!(done.closed_connections >= 2, "{done:?}");
    let mut admin = self::admin(&server).await;
    refused(
        &publish_as(&server, "audit", "t").await.unwrap_err(),
        Code::PermissionDenied,
        "DISCONNECTED_BY_OPERATOR",
    );
    let lift = LiftBanRequest { target: Some(lift_ban_request::Target::Address("::ffff:127.0.0.1".into())) };
    assert!(admin.lift_ban(of("oncall", lift)).await.unwrap().into_inner().lifted);
    publish_as(&server, "audit", "t").await.unwrap();
}

/// A command on several topics that is sent away has the same exit code as on one.
#[tokio::test]
async fn a_banned_command_on_several_topics_is_sent_away() {
    let (_setup, server) = setup(&[]).await;
    let ban = end(Target::Principal("billing".into()), Some(600));
    admin(&server).await.end_calls(of("oncall", ban)).await.unwrap();
    for topics in [&["a"][..], &["a", "b"]] {
        let args = [&["topics", "describe"], topics].concat();
        let output = streamway(&server, "billing", &args).await;
        assert_eq!(output.status.code(), Some(77), "{output:?}");
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_change_nothing() {
    let (_setup, server) = setup(&[]).await;
    let mut admin = admin(&server).await;
    let principal = || Target::Principal("billing".into());
    for request in [
        EndCallsRequest::default(),
        end(Target::Principal(String::new()), None),
        end(Target::Principal("x".repeat(513)), None),
        end(Target::Address("nowhere".into()), None),
        end(principal(), Some(0)),
        end(principal(), Some(-1)),
        end(principal(), Some(86_401)),
        end(principal(), Some(i64::MAX)),
        end(Target::CallId("x".into()), Some(60)),
    ] {
        let status = admin.end_calls(of("oncall", request.clone())).await.expect_err("refused");
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    }
    let own = calls(&mut admin, "oncall").await[0].connection_id.clone();
    for id in
        ["", "-", "x", "99999999-0", &own.replace('-', "--"), &format!("{own}-1-1"), &format!("{own}0000")]
    {
        for target in [Target::ConnectionId(id.into()), Target::CallId(id.into())] {
            let status = admin.end_calls(of("oncall", end(target, None))).await.unwrap_err();
            refused(&status, Code::NotFound, "CLIENT_NOT_FOUND");
        }
    }
    let instance = own.split('-').next().unwrap();
    for token in ["x", "-", "00000000-0-0", &format!("{instance}-"), &format!("{instance}-1"), "\u{0}"] {
        let request = ListCallsRequest { page_token: token.into(), ..Default::default() };
        let status = admin.list_calls(of("oncall", request)).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
        let request = ListBansRequest { page_token: token.into(), ..Default::default() };
        refused(
            &admin.list_bans(of("oncall", request)).await.unwrap_err(),
            Code::InvalidArgument,
            "INVALID_FIELD",
        );
    }
    for far in [u64::MAX, 0] {
        let token = format!("{instance}-{far}-{far}");
        let request = ListConnectionsRequest { page_size: u32::MAX, page_token: token };
        admin.list_connections(of("oncall", request)).await.unwrap();
    }
    assert!(
        admin.list_bans(of("oncall", ListBansRequest::default())).await.unwrap().into_inner().bans.is_empty()
    );
    // Where nobody has an identity, a ban of all of them is refused.
    let open = Server::start().await;
    let mut admin = AdminServiceClient::new(open.channel().await);
    let status = admin.end_calls(end(Target::Principal("anonymous".into()), Some(60))).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_FIELD");
}

async fn streamway(server: &Server, token: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(["--server", &server.url()]).args(args).env("STREAMWAY_TOKEN", format!("{token}-secret"));
    command.stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    within(60, "the command", running).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_command_line_lists_and_ends_and_a_subscriber_stops() {
    let (_setup, server) = setup(&[]).await;
    publish_as(&server, "billing", "orders").await.unwrap();
    let following = streamway(&server, "billing", &["subscribe", "orders", "--follow"]);
    let ending = async {
        let listed = async || {
            let out =
                streamway(&server, "oncall", &["clients", "list", "--principal", "billing", "-o", "json"])
                    .await;
            assert!(out.status.success(), "{out:?}");
            let lines = String::from_utf8(out.stdout).unwrap();
            lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        };
        // A call is listed from its headers on, and has a topic once its request is there.
        let call = loop {
            let mut calls = listed().await.into_iter().map(|mut line| line["call"].take());
            if let Some(call) = calls.find(|call| call["subscribeTopic"] == "orders") {
                break call;
            }
        };
        assert_eq!(call["principal"], "billing");
        let id = call["id"].as_str().unwrap();
        let out = streamway(&server, "oncall", &["clients", "end", "--call", id]).await;
        assert!(out.status.success(), "{out:?}");
        let again = streamway(&server, "oncall", &["clients", "end", "--call", id]).await;
        assert_eq!(again.status.code(), Some(1), "{again:?}");
    };
    let (followed, ()) = tokio::join!(following, ending);
    let said = String::from_utf8_lossy(&followed.stderr);
    assert_eq!(followed.status.code(), Some(77), "{said}");
    assert!(said.contains("DISCONNECTED_BY_OPERATOR"), "{said}");
    let table = streamway(&server, "oncall", &["clients", "list"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("ListCalls"), "{table:?}");
    let denied = streamway(&server, "billing", &["clients", "list"]).await;
    assert_eq!((denied.status.code(), &denied.stdout[..]), (Some(1), &b""[..]), "{denied:?}");
    for args in [
        &["clients", "end"][..],
        &["clients", "end", "--call", "x", "--ban", "1m"],
        &["clients", "end", "--principal", "x", "--ban", "0s"],
        &["clients", "end", "--principal", "x", "--ban", "86401s"],
    ] {
        let refused = streamway(&server, "oncall", args).await;
        assert_eq!((refused.status.code(), &refused.stdout[..]), (Some(2), &b""[..]), "{refused:?}");
    }
}
