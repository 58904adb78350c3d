//! Quotas of a principal and of all callers together, and the answers to those that exceed them.

use std::time::{Duration, Instant};

use streamway::proto::v1::{CreateTopicRequest, DeleteTopicRequest, Topic};
use tonic::{Code, Status};

use crate::harness::identities::{Setup, of, publish_as, rule, until};
use crate::harness::make::{earliest, ingest, latest, numbered, open, publish, records, subscribe};
use crate::harness::{Server, detail, refused, within};

#[tokio::test]
async fn a_used_up_quota_refuses_with_its_limit_and_recovers() {
    let policy = rule(r#"["*"]"#, r#"["*"]"#, r#"["publish", "subscribe"]"#)
        + "[[quota]]\nprincipals = [\"small\"]\npublish_records_per_s = 10\nsubscriptions_max = 1\n";
    let setup = Setup::new(&["small", "large"], &policy);
    let server = setup.start(&[]).await;
    let mut client = server.client().await;
    // Full, then 10 in debt: one second.
    client.publish(of("small", publish("q", records("x", 20)))).await.unwrap();
    let status = client.publish(of("small", publish("q", records("x", 1)))).await.unwrap_err();
    refused(&status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    let details = detail(&status);
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "principal:small");
    assert!(violation.description.contains("publish_records_per_s"), "{violation:?}");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::from_millis(100) && delay <= Duration::from_secs(1), "{delay:?}");
    client.publish(of("large", publish("q", records("x", 500)))).await.unwrap();
    tokio::time::sleep(delay).await;
    client.publish(of("small", publish("q", records("x", 1)))).await.unwrap();

    let first = client.subscribe(of("small", subscribe("q", earliest()))).await.unwrap();
    let status = client.subscribe(of("small", subscribe("q", earliest()))).await.unwrap_err();
    refused(&status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert!(detail(&status).retry_info().is_some() && detail(&status).quota_failure().is_some());
    drop(first);
    until("given back", async || {
        server.client().await.subscribe(of("small", subscribe("q", earliest()))).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_slowed_down_to_its_quota_and_loses_nothing() {
    let server = Server::with(&["--quota-publish-records-per-s", "100"]).await;
    let mut client = server.client().await;
    for streaming in ["exchange", "ingest"] {
        // Lets the bucket fill, so that both begin alike.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let begun = Instant::now();
        if streaming == "exchange" {
            let requests = (1..=40).map(|n| numbered(n, publish("", records("x", 10))));
            let requests: Vec<_> = std::iter::once(open("slow")).chain(requests).collect();
            let mut answers = client.exchange(tokio_stream::iter(requests)).await.unwrap().into_inner();
            let mut receipts = 0;
            while let Some(answer) = within(20, "receipts", answers.message()).await.unwrap() {
                receipts += answer.receipts.len();
            }
            assert_eq!(receipts, 40);
        } else {
            let requests: Vec<_> = (1..=40).map(|_| ingest(publish("slow", records("x", 10)))).collect();
            let summary = client.ingest(tokio_stream::iter(requests)).await.unwrap().into_inner();
            assert_eq!(summary.records, 400);
        }
        // 400 records: the first 100 at once, the others at 100 a second, the last into debt.
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(2500)..Duration::from_secs(10)).contains(&took),
            "{streaming}: {took:?}"
        );
        println!("{streaming}: 400 records at 100 a second took {took:?}");
    }
}

const FEW_TOPICS: &str = "[[quota]]\nprincipals = [\"small\"]\ntopics_max = 2\n";

fn is_one_too_many(status: &Status) {
    refused(status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    let details = detail(status);
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "principal:small");
    assert!(violation.description.contains("topics_max"), "{violation:?}");
}

#[tokio::test]
async fn a_principal_creates_no_more_topics_than_its_quota() {
    let policy = rule(r#"["small"]"#, r#"["own.*"]"#, r#"["publish", "subscribe", "admin"]"#)
        + &rule(r#"["large"]"#, r#"["*"]"#, r#"["publish"]"#)
        + FEW_TOPICS;
    let setup = Setup::new(&["small", "large"], &policy);
    let server = setup.start(&[]).await;
    let (mut client, mut topics) = (server.client().await, server.topics().await);
    // Another's topics count where they are among those it could have created.
    publish_as(&server, "large", "other").await.unwrap();
    publish_as(&server, "large", "own.0").await.unwrap();
    publish_as(&server, "small", "own.1").await.unwrap();
    let create =
        |name: &str| CreateTopicRequest { topic: Some(Topic { name: name.into(), ..Topic::default() }) };
    is_one_too_many(&publish_as(&server, "small", "own.2").await.unwrap_err());
    is_one_too_many(&topics.create_topic(of("small", create("own.2"))).await.unwrap_err());
    let status = client.subscribe(of("small", subscribe("own.2", latest()))).await.unwrap_err();
    is_one_too_many(&status);
    let opened = client.exchange(of("small", tokio_stream::iter([open("own.2")]))).await;
    let status = match opened {
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    is_one_too_many(&status);
    let sent = tokio_stream::iter([ingest(publish("own.2", records("x", 1)))]);
    is_one_too_many(&client.ingest(of("small", sent)).await.unwrap_err());
    // Existing topics are used as before, and deleted ones make room.
    publish_as(&server, "small", "own.0").await.unwrap();
    let delete = DeleteTopicRequest { name: "own.1".into(), ..DeleteTopicRequest::default() };
    topics.delete_topic(of("small", delete)).await.unwrap();
    topics.create_topic(of("small", create("own.2"))).await.unwrap();
    is_one_too_many(&publish_as(&server, "small", "own.3").await.unwrap_err());
}

#[tokio::test]
async fn topics_created_at_once_do_not_exceed_the_quota() {
    let policy = rule(r#"["*"]"#, r#"["*"]"#, r#"["publish"]"#) + FEW_TOPICS;
    let setup = Setup::new(&["small"], &policy);
    let server = setup.start(&[]).await;
    let names: Vec<_> = (0..20).map(|i| format!("t{i}")).collect();
    let created = names.iter().map(|name| publish_as(&server, "small", name));
    let created = futures_util::future::join_all(created).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 2);
    created.into_iter().filter_map(Result::err).for_each(|status| is_one_too_many(&status));
}
