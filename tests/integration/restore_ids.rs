//! Request ids across a restore (P5): a publish that is repeated after its topic was deleted and restored stores nothing.

use std::process::{Command, Output, Stdio};

use streamway::proto::v1::{DeleteTopicRequest, ListRequestIdsRequest, PublishRequest, Receipt};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::identities::{Setup, of, rule};
use crate::harness::make::{publish, records};
use crate::harness::{Nats, Server, StreamClient, refused};

const TOPIC: &str = "orders";

async fn copied(token: Option<&str>, from: &str, to: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(["copy", from, to]).stdin(Stdio::null());
    if let Some(token) = token {
        command.env("STREAMWAY_TOKEN", format!("{token}-secret"));
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn with_id(id: &str, text: &str) -> PublishRequest {
    PublishRequest { request_id: id.into(), ..publish(TOPIC, records(text, 3)) }
}

async fn send(client: &mut StreamClient, request: PublishRequest) -> Receipt {
    client.publish(request).await.unwrap().into_inner().receipt.unwrap()
}

async fn delete(server: &Server) {
    let request = DeleteTopicRequest { name: TOPIC.into(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(request).await.unwrap();
}

async fn outlive(server: &mut Server) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("all.backup").to_str().unwrap().to_owned();
    let mut client = server.client().await;
    let mut stored = Vec::new();
    for n in 0..20 {
        stored.push(send(&mut client, with_id(&format!("id-{n}"), &format!("{n}-"))).await);
    }
    copied(None, &server.url(), &file).await;
    let late = send(&mut client, with_id("late", "late")).await;
    delete(server).await;
    copied(None, &file, &server.url()).await;
    for is_killed in [false, true] {
        if is_killed {
            server.kill9().await;
            server.restart().await;
        }
        let mut client = server.client().await;
        for (n, first) in stored.iter().enumerate() {
            let again = send(&mut client, with_id(&format!("id-{n}"), &format!("{n}-"))).await;
            assert_eq!((again.duplicate, again.first_offset), (true, first.first_offset));
            assert_ne!(again.next.unwrap().epoch, first.next.as_ref().unwrap().epoch);
        }
        let status = client.publish(with_id("id-3", "other")).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "REQUEST_ID_REUSED");
    }
    // What is not in the backup is stored again.
    let again = send(&mut server.client().await, with_id("late", "late")).await;
    assert_eq!((again.duplicate, again.first_offset), (false, late.first_offset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_outlive_a_deletion_on_one_machine() {
    outlive(&mut Server::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_outlive_a_deletion_in_a_fleet() {
    let nats = Nats::single("");
    let url = nats.url();
    let mut server =
        Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await;
    outlive(&mut server).await;
}

/// Only who may restore a topic sees its request ids. A backup of others is made without them, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_without_the_permission_has_no_request_ids() {
    let rules = [
        rule(r#"["billing"]"#, r#"["*"]"#, r#"["publish", "subscribe"]"#),
        rule(r#"["root"]"#, r#"["*"]"#, r#"["publish", "subscribe", "admin"]"#),
    ];
    let setup = Setup::new(&["billing", "root"], &rules.concat());
    let (server, dir) = (setup.start(&[]).await, TempDir::new().unwrap());
    let mut client = server.client().await;
    client.publish(of("billing", with_id("id", "x"))).await.unwrap();
    let request = || ListRequestIdsRequest { name: TOPIC.into(), ..ListRequestIdsRequest::default() };
    let mut topics = server.topics().await;
    let status = topics.list_request_ids(of("billing", request())).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let listed = topics.list_request_ids(of("root", request())).await.unwrap().into_inner();
    assert_eq!((listed.request_ids.len(), listed.next_page_token.as_str()), (1, ""));
    let epoch = "00000000000000aa".to_owned();
    let status = topics.list_request_ids(of("root", ListRequestIdsRequest { epoch, ..request() })).await;
    refused(&status.unwrap_err(), Code::FailedPrecondition, "EPOCH_CHANGED");
    let page_token = "x".to_owned();
    let status = topics.list_request_ids(of("root", ListRequestIdsRequest { page_token, ..request() })).await;
    refused(&status.unwrap_err(), Code::InvalidArgument, "INVALID_FIELD");
    let (poor, rich) = (dir.path().join("poor"), dir.path().join("rich"));
    let (poor, rich) = (poor.to_str().unwrap(), rich.to_str().unwrap());
    let warned = copied(Some("billing"), &server.url(), poor).await;
    assert!(String::from_utf8_lossy(&warned.stderr).contains("without request ids"), "{warned:?}");
    let silent = copied(Some("root"), &server.url(), rich).await;
    assert!(!String::from_utf8_lossy(&silent.stderr).contains("warning"), "{silent:?}");
    for (file, duplicate) in [(rich, true), (poor, false)] {
        let request = DeleteTopicRequest { name: TOPIC.into(), ..DeleteTopicRequest::default() };
        topics.delete_topic(of("root", request)).await.unwrap();
        copied(Some("root"), file, &server.url()).await;
        let again = client.publish(of("billing", with_id("id", "x"))).await.unwrap().into_inner();
        assert_eq!(again.receipt.unwrap().duplicate, duplicate);
    }
}
