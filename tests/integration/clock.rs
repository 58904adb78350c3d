//! The wall clock of a running server jumps a day ahead and back: order, retention by age and request ids are not
//! affected (P2, P5).

use std::time::Duration;

use streamway::proto::v1::{CreateTopicRequest, GetTopicRequest, PublishRequest, Retention, Topic};
use tempfile::TempDir;

use crate::harness::make::{micros, publish, published, records};
use crate::harness::preload::Preload;
use crate::harness::{Server, StreamClient, read_all, within};

const TOPIC: &str = "clock";
const DAY: i64 = 86_400;

async fn with_id(client: &mut StreamClient, id: &str) -> streamway::proto::v1::Receipt {
    let request = PublishRequest { request_id: id.into(), ..publish(TOPIC, records(id, 2)) };
    client.publish(request).await.expect("accepted").into_inner().receipt.expect("a receipt")
}

async fn create(server: &Server, name: &str, retention: Retention) {
    let topic = Topic { name: name.into(), retention: Some(retention), ..Topic::default() };
    let create = CreateTopicRequest { topic: Some(topic) };
    server.topics().await.create_topic(create).await.expect("created");
}

/// Waits until retention has examined all topics, using a topic that keeps a single record.
async fn looked_after(server: &Server, witness: &str) {
    create(server, witness, Retention { max_records: 1, ..Retention::default() }).await;
    for i in 0..2 {
        published(&mut server.client().await, witness, records(&i.to_string(), 1)).await;
    }
    let mut topics = server.topics().await;
    let looked = async {
        loop {
            let get = GetTopicRequest { name: witness.into() };
            let topic = topics.get_topic(get).await.unwrap().into_inner().topic.unwrap();
            if topic.earliest_offset > 0 {
                return;
            }
            // There is no event for this in another process.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(30, "retention", looked).await;
}

#[tokio::test]
async fn a_wall_clock_that_jumps_a_day_breaks_no_order_and_forgets_nothing() {
    let (preload, dir) = (Preload::new(), TempDir::new().unwrap());
    let mut server = Server::under(preload.command(), dir.path(), &[]).await;
    let hour = prost_types::Duration { seconds: 3600, nanos: 0 };
    create(&server, TOPIC, Retention { max_age: Some(hour), ..Retention::default() }).await;
    let (mut first, mut times) = (Vec::new(), Vec::new());
    let jumps = [0, DAY, 0, -DAY, 2 * DAY, 0];
    for (i, jump) in jumps.into_iter().enumerate() {
        preload.set_clock(jump);
        let mut client = server.client().await;
        let receipt = with_id(&mut client, &format!("id{i}")).await;
        assert!(!receipt.duplicate && receipt.first_offset == 2 * i as u64, "{receipt:?}");
        times.push(micros(receipt.publish_time.as_ref().expect("a time")));
        first.push(receipt.first_offset);
        looked_after(&server, &format!("witness{i}")).await;
        assert_eq!(read_all(&mut client, TOPIC).await.len(), 2 * (i + 1), "nothing is old");
        for (earlier, first) in first.iter().enumerate() {
            let again = with_id(&mut client, &format!("id{earlier}")).await;
            assert!(again.duplicate && again.first_offset == *first, "{again:?} after a jump to {jump} s");
        }
    }
    assert!(times.is_sorted(), "publish_time never decreases: {times:?}");
    assert!(times[1] - times[0] >= (DAY - 60) * 1_000_000, "the jump was seen: {times:?}");
    server.kill9().await;
    server.restart().await;
    let mut client = server.client().await;
    assert_eq!(read_all(&mut client, TOPIC).await.len(), 2 * jumps.len());
    let receipt = with_id(&mut client, "after").await;
    let after = micros(receipt.publish_time.as_ref().expect("a time"));
    assert!(!receipt.duplicate && after >= times[times.len() - 1], "also across a restart");
    server.sigterm().await;
}
