//! Reading: where a start lies, what a block holds, and waiting for more. Topics are listed.

use std::time::Duration;

use super::fixtures::{Engine, append, append_each, batch, create, flatten, name, read_all};
use crate::record::block::Blocks;
use crate::record::{Offset, UnixMicros};
use crate::storage::{Error, Retention, Start};

pub async fn starts_are_found(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "starts").await;
    assert_eq!(topic.resolve(Start::Last(5)).await.unwrap(), topic.tail());
    assert_eq!(topic.resolve(Start::Time(UnixMicros(0))).await.unwrap(), topic.tail());
    let receipts = append_each(&*topic, (0..120).map(|i| batch(&[i * 2, i * 2 + 1], 4_000)).collect()).await;
    let times: Vec<_> = receipts.iter().map(|receipt| receipt.time).collect();
    assert!(times.is_sorted());
    for at in [0, 1, 17, 60, 118, 119] {
        let want = times.iter().position(|time| *time >= times[at]).unwrap();
        let found = topic.resolve(Start::Time(times[at])).await.unwrap();
        assert_eq!(found, receipts[want].first, "{at}");
    }
    assert_eq!(topic.resolve(Start::Time(UnixMicros(0))).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Time(UnixMicros(u64::MAX))).await.unwrap(), topic.tail());
    assert_eq!(topic.resolve(Start::Earliest).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Latest).await.unwrap(), topic.tail());
    for last in [1_usize, 2, 5, 100, 239, 240] {
        let from = topic.resolve(Start::Last(last as u64)).await.unwrap();
        assert_eq!(read_all(&*topic, from).await.unwrap().len(), last);
    }
    assert_eq!(topic.resolve(Start::Last(1_000_000)).await.unwrap(), receipts[0].first);
    assert_eq!(topic.resolve(Start::Last(0)).await.unwrap(), topic.tail());
    let beyond = topic.resolve(Start::At(topic.tail().plus(1))).await;
    assert!(matches!(beyond, Err(Error::BeyondTail { tail, .. }) if tail == topic.tail()), "{beyond:?}");
}

/// A position after a record is the place of the next one, whatever its offset.
pub async fn offsets_between_records_round_up(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "between").await;
    let receipts = append_each(&*topic, (0..10).map(|i| batch(&[i * 2, i * 2 + 1], 0)).collect()).await;
    for (at, receipt) in receipts.iter().enumerate() {
        let from = topic.resolve(Start::At(receipt.next.offset)).await.unwrap();
        let rest = read_all(&*topic, from).await.unwrap();
        assert_eq!(rest.iter().map(|(_, payload)| *payload).collect::<Vec<_>>(), {
            ((at as u64 + 1) * 2..20).collect::<Vec<_>>()
        });
        assert_eq!(read_all(&*topic, receipt.next.offset).await.unwrap(), rest);
        if let Some(chunk) = topic.read_cached(receipt.next.offset, 1) {
            assert_eq!(flatten(&chunk.runs)[0], rest[0]);
        }
    }
}

pub async fn blocks_keep_trace_and_time(engine: &Engine) {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let log = engine.open().await;
    let topic = create(&*log, "traced").await;
    let before = UnixMicros::now();
    let receipts =
        append(&*topic, vec![batch(&[1, 2], 0).with_traceparent(TRACE), batch(&[3], 0)]).await.receipts;
    let chunk = topic.read(Offset::ZERO, 1 << 20).await.unwrap();
    let runs: Vec<u8> = chunk.runs.iter().flat_map(|run| run.iter().copied()).collect();
    let blocks: Vec<_> = Blocks::new(&runs).map(Result::unwrap).collect();
    assert_eq!(
        blocks.iter().map(|block| block.first).collect::<Vec<_>>(),
        [receipts[0].first, receipts[1].first]
    );
    assert_eq!((blocks[0].traceparent(), blocks[1].traceparent()), (TRACE.as_bytes(), &b""[..]));
    assert_eq!(blocks[0].time(), receipts[0].time);
    assert!((before..=UnixMicros::now()).contains(&blocks[0].time()));
}

pub async fn waiting_ends_with_a_record_or_the_topic(engine: &Engine) {
    let log = engine.open().await;
    let topic = create(&*log, "waiting").await;
    for deleted in [false, true] {
        let tail = topic.tail();
        let waiting = tokio::spawn({
            let topic = topic.clone();
            async move { topic.wait_beyond(tail).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        if deleted {
            log.delete(&name("waiting"), None).await.unwrap();
        } else {
            append(&*topic, vec![batch(&[1], 0)]).await;
        }
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(topic.is_deleted() == deleted && (deleted || topic.tail() > tail));
    }
}

pub async fn topics_are_listed_and_updated(engine: &Engine) {
    let log = engine.open().await;
    for text in ["list.b", "list.a", "list.c.d", "list_a", "list.a-1"] {
        create(&*log, text).await;
    }
    let page = async |prefix: &str, after: Option<&str>, limit| {
        let topics = log.list(prefix, after, limit).await.unwrap();
        topics.into_iter().map(|info| info.name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page("list.", None, 10).await, ["list.a", "list.a-1", "list.b", "list.c.d"]);
    assert_eq!(page("list.", Some("list.a"), 2).await, ["list.a-1", "list.b"]);
    assert_eq!(page("list.", Some("list.c.d"), 2).await, Vec::<String>::new());
    let topic = log.get(&name("list.b")).await.unwrap();
    append(&*topic, vec![batch(&[1, 2], 0)]).await;
    let retention = Retention { max_age: Some(Duration::from_secs(3600)), ..Retention::default() };
    let info = log.update(&name("list.b"), retention).await.unwrap();
    assert_eq!((info.retention, info.epoch), (retention, topic.epoch()));
    let listed = log.list("list.b", None, 1).await.unwrap().remove(0);
    assert_eq!((listed.retention, listed.tail, listed.earliest), (retention, topic.tail(), Offset::ZERO));
    assert!(listed.stored_bytes > 0 && listed.last_publish.is_some());
    assert!(listed.updated >= listed.created);
    assert_eq!(log.update(&name("list.z"), retention).await.err(), Some(Error::TopicNotFound));
}
