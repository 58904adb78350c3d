//! RestoreTopic, call by call: a restore in parts, requests out of range, and the permission.

use streamway::proto::v1::{
    OffsetNumbering, Position, RestoreTopicRequest, RestoredBatch, RestoredFrom, StoredRequestId,
};
use tonic::Code;

use crate::harness::identities::{Setup, bearer, of, rule};
use crate::harness::make::{at, earliest, publish, published, record, subscribe, to_tail};
use crate::harness::{Reader, Seen, Server, refused};

const TOPIC: &str = "orders";

async fn read(server: &Server, position: &Position) -> Result<Vec<Seen>, tonic::Status> {
    let request = to_tail(subscribe(TOPIC, at(position)));
    Reader::open(&mut server.client().await, request).await?.rest().await
}

fn batch(first: u64, values: &[&str]) -> RestoredBatch {
    use prost::Message;
    let values = values.iter().map(|value| record(*value)).collect();
    let inner = streamway::proto::v1::RecordBatch {
        first_offset: first,
        publish_time: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        records: values,
        traceparent: String::new(),
    };
    let message = streamway::proto::v1::SubscribeResponse { batches: vec![inner], ..Default::default() };
    RestoredBatch { batch: message.encode_to_vec().into(), request_id: None }
}

/// A batch with a request id.
fn with_id(id: Vec<u8>, scope: Vec<u8>) -> RestoredBatch {
    let request_id = StoredRequestId { first_offset: 0, id: id.into(), scope: scope.into() };
    RestoredBatch { request_id: Some(request_id), ..batch(0, &["a"]) }
}

fn restore(first_offset: u64, cut: u64, batches: Vec<RestoredBatch>) -> RestoreTopicRequest {
    RestoreTopicRequest {
        name: TOPIC.into(),
        first_offset,
        restored_from: vec![RestoredFrom { epoch: "00000000000000aa".into(), cut }],
        numbering: OffsetNumbering::Dense.into(),
        batches,
    }
}

/// Until all of a backup is stored, nobody reads a part of it as the whole, nor publishes into it, even after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_restored_in_part_is_not_used() {
    let mut server = Server::start().await;
    let mut topics = server.topics().await;
    let old = |offset| Position { epoch: "00000000000000aa".into(), offset };
    let stored = topics.restore_topic(restore(5, 9, vec![batch(5, &["a", "b"])])).await.unwrap();
    assert_eq!(stored.into_inner().topic.unwrap().tail, 7);
    for killed in [false, true] {
        if killed {
            server.kill9().await;
            server.restart().await;
        }
        for position in [5, 7, 8, 9].map(old) {
            let status = read(&server, &position).await.unwrap_err();
            refused(&status, Code::Unavailable, "TOPIC_RESTORING");
        }
        // What can never be right is refused at once.
        let status = read(&server, &old(10)).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "EPOCH_CHANGED");
        let mut client = server.client().await;
        let status = client.publish(publish(TOPIC, vec![record("x")])).await.unwrap_err();
        refused(&status, Code::Unavailable, "TOPIC_RESTORING");
        let open = client.subscribe(subscribe(TOPIC, earliest())).await;
        let status = match open {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        };
        refused(&status, Code::Unavailable, "TOPIC_RESTORING");
    }
    let mut topics = server.topics().await;
    // Another part, or another backup, is refused and changes nothing.
    for (request, code, reason) in [
        (restore(5, 9, vec![batch(8, &["d"])]), Code::FailedPrecondition, "EXPECTED_OFFSET_MISMATCH"),
        (restore(5, 9, vec![batch(7, &["c", "d", "e"])]), Code::InvalidArgument, "INVALID_FIELD"),
        (
            restore(5, 9, vec![RestoredBatch { batch: vec![7; 9].into(), request_id: None }]),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (restore(5, 10, vec![]), Code::AlreadyExists, "TOPIC_ALREADY_EXISTS"),
    ] {
        refused(&topics.restore_topic(request).await.unwrap_err(), code, reason);
    }
    // What is there is skipped, and the rest is stored.
    let rest = vec![batch(5, &["a", "b"]), batch(7, &["c"]), batch(8, &["d"])];
    let here = topics.restore_topic(restore(5, 9, rest.clone())).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((here.earliest_offset, here.tail), (5, 9));
    let again = topics.restore_topic(restore(5, 9, rest)).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(again.tail, 9);
    let found = read(&server, &old(6)).await.unwrap();
    assert_eq!(
        found.iter().map(|seen| (seen.offset, seen.text())).collect::<Vec<_>>(),
        [(6, "b".to_owned()), (7, "c".to_owned()), (8, "d".to_owned())]
    );
    assert_eq!(published(&mut server.client().await, TOPIC, vec![record("e")]).await.first_offset, 9);
}

/// P9: requests out of range are refused, and create nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_restore_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let mut topics = server.topics().await;
    let with = |change: &dyn Fn(&mut RestoreTopicRequest)| {
        let mut request = restore(0, 9, vec![]);
        change(&mut request);
        request
    };
    let from = |epoch: &str, cut| RestoredFrom { epoch: epoch.into(), cut };
    let many = (0..17).map(|n| from(&format!("{n:016x}"), 9)).collect::<Vec<_>>();
    for (request, reason) in [
        (with(&|r| r.name = "Not a name".into()), "INVALID_FIELD"),
        (with(&|r| r.restored_from.clear()), "INVALID_FIELD"),
        (with(&|r| r.restored_from = many.clone()), "INVALID_FIELD"),
        (with(&|r| r.restored_from[0].epoch.clear()), "INVALID_FIELD"),
        (with(&|r| r.restored_from[0].epoch = "zz".into()), "INVALID_FIELD"),
        (with(&|r| r.restored_from.push(from("00000000000000bb", 10))), "INVALID_FIELD"),
        (with(&|r| r.restored_from.push(from("00000000000000aa", 1))), "INVALID_FIELD"),
        (with(&|r| r.restored_from[0].cut = u64::MAX), "INVALID_FIELD"),
        (with(&|r| r.restored_from[0].cut = (1 << 62) + 1), "INVALID_FIELD"),
        (with(&|r| r.first_offset = 10), "INVALID_FIELD"),
        (with(&|r| r.numbering = 0), "INVALID_FIELD"),
        (with(&|r| r.numbering = 77), "INVALID_FIELD"),
        (with(&|r| r.numbering = OffsetNumbering::Sparse.into()), "INVALID_FIELD"),
        (
            with(&|r| {
                r.numbering = OffsetNumbering::Sparse.into();
                r.restored_from[0].cut = 2048;
            }),
            "OFFSET_NUMBERING_DIFFERS",
        ),
        (
            with(&|r| r.batches = vec![RestoredBatch { batch: vec![255; 50].into(), request_id: None }]),
            "INVALID_FIELD",
        ),
        (with(&|r| r.batches = vec![batch(0, &["a"]), batch(8, &["b", "c"])]), "INVALID_FIELD"),
        (with(&|r| r.batches = vec![with_id(vec![1], vec![0; 15])]), "INVALID_FIELD"),
        (with(&|r| r.batches = vec![with_id(Vec::new(), vec![0; 16])]), "INVALID_FIELD"),
        (with(&|r| r.batches = vec![with_id(vec![1; 129], vec![0; 16])]), "INVALID_FIELD"),
    ] {
        let what = format!("{request:?}");
        let status = topics.restore_topic(request).await.expect_err(&what);
        let wanted = if reason == "INVALID_FIELD" { Code::InvalidArgument } else { Code::FailedPrecondition };
        refused(&status, wanted, reason);
    }
    let listed = topics.list_topics(streamway::proto::v1::ListTopicsRequest::default()).await.unwrap();
    assert!(listed.into_inner().topics.is_empty());
    // The largest offsets that there are, in a topic with the longest name.
    let cut = 1 << 62;
    let name = "n".repeat(128);
    let large = RestoreTopicRequest {
        name: name.clone(),
        ..restore(cut - 2, cut, vec![batch(cut - 2, &["y", "z"])])
    };
    let here = topics.restore_topic(large).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((here.earliest_offset, here.tail), (cut - 2, cut));
    assert_eq!(published(&mut server.client().await, &name, vec![record("x")]).await.first_offset, cut);
}

/// Restoring needs the permission `admin` on the topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_administrator_restores() {
    let rules = [
        rule(r#"["writer"]"#, r#"["*"]"#, r#"["publish", "subscribe"]"#),
        rule(r#"["admin"]"#, r#"["orders"]"#, r#"["admin"]"#),
    ]
    .concat();
    let identities = Setup::new(&["writer", "admin"], &rules);
    let server = identities.start(&[]).await;
    let mut topics = server.topics().await;
    let asked = || restore(1, 2, vec![batch(1, &["a"])]);
    let status = topics.restore_topic(of("writer", asked())).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let status = topics.restore_topic(bearer("nobody", asked())).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
    topics.restore_topic(of("admin", asked())).await.unwrap();
}
