//! Long calls end with the token or the permission that they began with, and say where to resume.

use std::time::{Duration, Instant};

use streamway::proto::example::MyRequest;
use streamway::proto::example::my_service_client::MyServiceClient;
use streamway::proto::v1::Notice;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::harness::identities::{Setup, bearer, claims, of, publish_as, rule, unix_now};
use crate::harness::jwt::Signer;
use crate::harness::make::{earliest, numbered, open, publish, records, subscribe};
use crate::harness::{Server, metadata, refused, within};

/// The end of a subscription and of an Exchange that were begun with `token`.
async fn ends(server: &Server, token: &str, trigger: impl FnOnce()) {
    let mut client = server.client().await;
    let mut deliveries =
        client.subscribe(bearer(token, subscribe("orders", earliest()))).await.unwrap().into_inner();
    let requests = (1..=100).map(|n| numbered(n, publish("", records("e", 1))));
    let requests = std::iter::once(open("orders")).chain(requests).collect::<Vec<_>>();
    let stream = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut answers = client.exchange(bearer(token, stream)).await.unwrap().into_inner();
    let mut receipts = Vec::new();
    while receipts.len() < 100 {
        receipts.extend(within(10, "receipts", answers.message()).await.unwrap().unwrap().receipts);
    }
    let mut next = None;
    let mut delivered = 0;
    while delivered < 100 {
        let message = within(10, "deliveries", deliveries.message()).await.unwrap().unwrap();
        delivered += message.batches.iter().map(|batch| batch.records.len()).sum::<usize>();
        next = message.next;
    }
    trigger();
    let status = within(20, "the Exchange's end", async {
        loop {
            match answers.message().await {
                Ok(Some(answer)) => assert_ne!(answer.notice(), Notice::Draining),
                Ok(None) => panic!("it ends with a status"),
                Err(status) => return status,
            }
        }
    })
    .await;
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    let durable = receipts.last().unwrap().receipt.clone().unwrap().next.unwrap();
    let told = metadata(&status);
    assert_eq!(
        (&told["resume_epoch"], &told["resume_offset"]),
        (&durable.epoch, &durable.offset.to_string())
    );
    let status = within(20, "the subscription's end", async {
        loop {
            match deliveries.message().await {
                Ok(Some(message)) => next = message.next,
                Ok(None) => panic!("it ends with a status"),
                Err(status) => return status,
            }
        }
    })
    .await;
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    let (next, told) = (next.unwrap(), metadata(&status));
    assert_eq!((&told["resume_epoch"], &told["resume_offset"]), (&next.epoch, &next.offset.to_string()));
    assert_eq!(next.offset, durable.offset, "nothing acknowledged is lost");
}

#[tokio::test]
async fn long_calls_end_with_their_token_and_say_where_to_resume() {
    let signer = Signer::eddsa("d");
    let mut setup = Setup::new(&[], &rule(r#"["billing"]"#, r#"["orders"]"#, r#"["publish", "subscribe"]"#));
    setup.jwks(&[&signer]);
    let server = setup.start(&[]).await;
    let begun = Instant::now();
    ends(&server, &signer.sign(&claims(unix_now() + 4)), || {}).await;
    assert!(begun.elapsed() > Duration::from_secs(2), "not before its time");
    // Resuming with a new one reads all that was acknowledged.
    let request = bearer(&signer.sign(&claims(unix_now() + 600)), crate::harness::make::history("orders"));
    let mut history = server.client().await.subscribe(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(message) = history.message().await.unwrap() {
        seen += message.batches.iter().map(|batch| batch.records.len()).sum::<usize>();
    }
    assert_eq!(seen, 100);
}

#[tokio::test]
async fn calls_without_a_topic_end_with_their_token_too() {
    let signer = Signer::eddsa("d");
    let mut setup = Setup::new(&[], &rule(r#"["billing"]"#, r#"["orders"]"#, r#"["publish"]"#));
    setup.jwks(&[&signer]);
    let server = setup.start(&[]).await;
    let jwt = signer.sign(&claims(unix_now() + 2));
    let asked = tokio_stream::once(MyRequest { name: "a".into() }).chain(tokio_stream::pending());
    let mut tutorial = MyServiceClient::new(server.channel().await);
    let mut answers =
        tutorial.bidirectional_streaming_rpc_method(bearer(&jwt, asked)).await.unwrap().into_inner();
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let asked = bearer(&jwt, tokio_stream::pending());
    let mut files = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().message, "Response for a");
    let status = within(10, "the end", answers.message()).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    let end = within(10, "the end", files.message()).await;
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn long_calls_end_when_their_permission_or_their_token_is_withdrawn() {
    let policy = rule(r#"["a", "b"]"#, r#"["orders"]"#, r#"["publish", "subscribe"]"#);
    for withdraw in [
        (|setup: &Setup| setup.policy(&rule(r#"["b"]"#, r#"["orders"]"#, r#"["publish", "subscribe"]"#)))
            as fn(&Setup),
        |setup: &Setup| setup.tokens(&["b"]),
    ] {
        let setup = Setup::new(&["a", "b"], &policy);
        let server = setup.start(&[]).await;
        let mut other = server.client().await;
        let mut kept = other.subscribe(of("b", subscribe("other", earliest()))).await;
        assert!(kept.is_err());
        kept = other.subscribe(of("b", subscribe("orders", earliest()))).await;
        let mut kept = kept.unwrap().into_inner();
        ends(&server, "a-secret", || withdraw(&setup)).await;
        // A subscriber whose permission is unchanged reads on.
        published_by(&server, "b", "orders").await;
        let mut records = 0;
        while records < 101 {
            let message = within(10, "deliveries", kept.message()).await.unwrap().unwrap();
            records += message.batches.iter().map(|batch| batch.records.len()).sum::<usize>();
        }
    }
}

async fn published_by(server: &Server, name: &str, topic: &str) {
    publish_as(server, name, topic).await.unwrap();
}
