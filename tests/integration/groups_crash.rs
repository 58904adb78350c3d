//! Groups under kill -9: members that fail, return, leave and are cut off share a topic while their server is killed at
//! random moments, and the judge finds that each record was handled as P11 to P14 say.

use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::{
    CreateGroupRequest, CreateTopicRequest, DeliveryOrder, GetGroupRequest, Group, GroupSettings,
    GroupStatus, Record, Topic, group_service_client::GroupServiceClient,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::group_history::judge::{Summary, judge};
use crate::group_history::worker::Worker;
use crate::group_history::{Event, Recorder};
use crate::harness::make::{publish, record};
use crate::harness::{Seen, Server, read_all, seed, soak, within};

pub const TOPIC: &str = "jobs";
pub const GROUP: &str = "workers";
/// Small files, so that checkpoints happen during the kills.
const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
/// Back-off of the publisher while its server is down, or far ahead of the group.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Confirmations that the publisher is ahead of at most.
const AHEAD_MAX: u64 = 2000;
const KEYS: usize = 20;

pub async fn create(server: &Server, order: DeliveryOrder) {
    let topic = Topic { name: TOPIC.into(), ..Topic::default() };
    server.topics().await.create_topic(CreateTopicRequest { topic: Some(topic) }).await.unwrap();
    let settings = GroupSettings {
        order: order.into(),
        ack_deadline: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        session_grace: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
        ..GroupSettings::default()
    };
    let group =
        Group { topic: TOPIC.into(), name: GROUP.into(), settings: Some(settings), ..Group::default() };
    let mut client = GroupServiceClient::new(server.channel().await);
    client.create_group(CreateGroupRequest { group: Some(group), start: None }).await.unwrap();
}

async fn status(server: &Server) -> GroupStatus {
    let mut client = GroupServiceClient::new(server.channel().await);
    let request = GetGroupRequest { topic: TOPIC.into(), name: GROUP.into() };
    client.get_group(request).await.unwrap().into_inner().group.unwrap().status.unwrap()
}

/// Publishes at least so many records of some keys, and further ones until it is told to stop; each batch until it is
/// stored. It stays less than `ahead_max` ahead of what is settled.
pub async fn publishing(
    mut client: crate::harness::StreamClient,
    recorder: Recorder,
    mut rng: Rng,
    (records, ahead_max): (u64, u64),
    stop: watch::Receiver<bool>,
) {
    let publisher = rng.u32(..);
    let mut published = 0;
    let mut number = 0;
    while published < records || !*stop.borrow() {
        if published > recorder.settled() + ahead_max {
            // This paces the load; it does not wait for a condition.
            tokio::time::sleep(BACK_OFF).await;
            continue;
        }
        number += 1;
        let of_key = |key: usize| Record { key: format!("k{key}").into(), ..record("job") };
        let records: Vec<_> = (0..rng.usize(1..40)).map(|_| of_key(rng.usize(..KEYS))).collect();
        published += records.len() as u64;
        let mut request = publish(TOPIC, records);
        request.request_id = format!("{publisher}-{number}");
        while client.publish(request.clone()).await.is_err() {
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

/// Kills the server at random moments while members work, and has the judge decide.
async fn kills(order: DeliveryOrder) -> Summary {
    let (rounds, records, started) = (rounds(), records(), std::time::Instant::now());
    let mut rng = Rng::with_seed(seed());
    let mut server = Server::with(&SMALL).await;
    create(&server, order).await;
    let recorder = Recorder::default();
    let ((enough, enough_seen), (calm, careful), (done, stop)) =
        (watch::channel(false), watch::channel(false), watch::channel(false));
    let mut publishers = JoinSet::new();
    let client = server.client().await;
    publishers.spawn(publishing(client, recorder.clone(), rng.fork(), (records, AHEAD_MAX), enough_seen));
    let mut workers = JoinSet::new();
    for _ in 0..3 {
        let worker = Worker {
            servers: vec![server.listen()],
            topic: TOPIC.into(),
            group: GROUP.into(),
            rng: rng.fork(),
            recorder: recorder.clone(),
            delay_max: Duration::ZERO,
            careful: careful.clone(),
            stop: stop.clone(),
        };
        workers.spawn(worker.work());
    }
    for _ in 0..rounds {
        recorder.reach(rng.u64(1..600)).await;
        server.kill9().await;
        recorder.next_process();
        server.restart().await;
    }
    enough.send_replace(true);
    // Handled badly at times, and without further kills.
    within(records / 500 + 180, "the publisher", publishers.join_all()).await;
    calm.send_replace(true);
    within(180, "the end of the work", async {
        while status(&server).await.lag_records > 0 {
            tokio::time::sleep(BACK_OFF).await;
        }
    })
    .await;
    done.send_replace(true);
    within(20, "the workers", workers.join_all()).await;
    // What nobody waits for any more is settled all the same.
    let end = status(&server).await;
    assert_eq!((end.lag_records, end.oldest_unsettled_offset), (0, end.tail), "{end:?}");
    let topic = read_all(&mut server.client().await, TOPIC).await;
    let summary = judged(order, &recorder, &topic);
    println!("{order:?}, {rounds} kills, {:?}: {summary:?}", started.elapsed());
    assert!(summary.records as u64 >= records, "the load was real: {summary:?}");
    summary
}

/// Judges what the members of a group with this order saw of a topic.
pub fn judged(order: DeliveryOrder, recorder: &Recorder, topic: &[Seen]) -> Summary {
    let key = |record: &Record| match order {
        DeliveryOrder::Key => Some(String::from_utf8_lossy(&record.key).into_owned()),
        DeliveryOrder::Total => Some(String::new()),
        _ => None,
    };
    let topic: Vec<_> = topic.iter().map(|seen| (seen.offset, key(&seen.record))).collect();
    let events = recorder.events();
    judge(&events, &topic).unwrap_or_else(|reason| panic!("{reason}\n{}", told(&events, &reason)))
}

/// Events of the record that a reason names.
fn told(events: &[Event], reason: &str) -> String {
    let named = reason.split("offset ").nth(1).and_then(|rest| rest.split([' ', ':', ',']).next());
    let Some(named) = named else { return String::new() };
    let of_record = events.iter().map(|event| format!("{event:?}\n"));
    of_record.filter(|event| event.contains(&format!("offset: {named} }}"))).collect()
}

/// Kills in a usual run, and in a long one.
fn rounds() -> u64 {
    if soak() { 100 } else { 10 }
}

/// Records in a usual run, and in a long one.
fn records() -> u64 {
    if soak() { 1_000_000 } else { 100_000 }
}

/// P11, P12, P13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_forgets_nothing_and_repeats_nothing_that_was_settled() {
    let summary = kills(DeliveryOrder::None).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}

/// P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_keeps_the_order_of_each_key() {
    let summary = kills(DeliveryOrder::Key).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}

/// P14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_keeps_a_total_order() {
    let summary = kills(DeliveryOrder::Total).await;
    assert!(summary.leased > summary.records, "the load was real: {summary:?}");
}
