//! Many groups: idle ones cost next to nothing, and a shard with many is taken over in bounded time and memory.

use std::hash::Hasher;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use siphasher::sip::SipHasher13;
use streamway::proto::v1::{
    CreateGroupRequest, DeliveryOrder, Group, GroupSettings, ListGroupsRequest, Record,
};

use crate::harness::make::{published, record};
use crate::harness::member::{Member, groups};
use crate::harness::{Server, soak, within};

const TOPIC: &str = "jobs";
/// Requests at a time.
const AT_ONCE: usize = 32;

async fn create(server: &Server, names: &[String], settings: &GroupSettings) {
    let client = groups(server).await;
    let created = stream::iter(names).map(|name| {
        let (mut client, settings) = (client.clone(), Some(settings.clone()));
        let group = Group { topic: TOPIC.into(), name: name.clone(), settings, ..Group::default() };
        async move { client.create_group(CreateGroupRequest { group: Some(group), start: None }).await }
    });
    let created: Vec<_> = created.buffer_unordered(AT_ONCE).collect().await;
    created.into_iter().for_each(|created| drop(created.expect("created")));
}

/// Processor time of a server so far, in hundredths of a second.
fn used(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    // comm (2) is in parentheses; utime and stime are 14 and 15: proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_groups_cost_little_processor_time() {
    let (count, time) = (5000, Duration::from_secs(15));
    let server = Server::start().await;
    published(&mut server.client().await, TOPIC, vec![record("one")]).await;
    let memory = server.resident_bytes();
    let names: Vec<String> = (0..count).map(|n| format!("group-{n}")).collect();
    create(&server, &names, &GroupSettings::default()).await;
    let (before, memory) = (used(&server), server.resident_bytes() - memory);
    // The time that is measured, in which the metrics are sampled three times.
    tokio::time::sleep(time).await;
    let share = (used(&server) - before) as f64 / 100.0 / time.as_secs_f64();
    println!("{count} idle groups: {:.2} % of a core, {} KiB", share * 100.0, memory >> 10);
    assert!(share < 0.2, "{share} of a core, in a debug build");
}

/// Shard of a group of the topic: docs/format.md.
fn shard_of(name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(TOPIC.as_bytes());
    hasher.write(&[0]);
    hasher.write(name.as_bytes());
    hasher.finish() % 16
}

/// Waits until each group has read all records, as far as it may.
async fn all_blocked(server: &Server, count: usize) {
    let mut client = groups(server).await;
    within(300, "blocked records", async {
        loop {
            let request =
                ListGroupsRequest { topic: TOPIC.into(), page_size: 1000, ..ListGroupsRequest::default() };
            let listed = client.list_groups(request).await.unwrap().into_inner().groups;
            assert_eq!(listed.len(), count);
            if listed.iter().all(|group| group.status.as_ref().unwrap().is_at_lookahead_max) {
                return;
            }
            // This paces the questions.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Joins each group, and takes its first record, behind which all others wait.
async fn join_all(server: &Server, names: &[String]) -> Vec<Member> {
    let joined = stream::iter(names).map(|name| async move {
        let mut member = Member::open(server, TOPIC, name, 1).await;
        assert_eq!(member.take(1).await[0].offset, 0);
        member
    });
    joined.buffer_unordered(AT_ONCE).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_of_many_groups_and_blocked_records_is_taken_over() {
    let (count, records) = (500, if soak() { 2000 } else { 100 });
    let mut server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..records / 100 {
        let one_key = Record { key: "k".into(), ..record("job") };
        published(&mut client, TOPIC, vec![one_key; 100]).await;
    }
    let names: Vec<String> =
        (0..).map(|n| format!("g{n}")).filter(|name| shard_of(name) == 0).take(count).collect();
    let settings = GroupSettings {
        order: DeliveryOrder::Key.into(),
        lookahead_max: records,
        ..GroupSettings::default()
    };
    create(&server, &names, &settings).await;
    let members = join_all(&server, &names).await;
    all_blocked(&server, count).await;
    server.kill9().await;
    drop(members);
    server.restart().await;
    let (memory, started) = (server.resident_bytes(), Instant::now());
    let members = join_all(&server, &names).await;
    let leased = started.elapsed();
    all_blocked(&server, count).await;
    println!(
        "{count} groups of a shard with {} blocked records: each leases again after {leased:?}, all is read after {:?}, \
         {} KiB",
        count as u64 * records,
        started.elapsed(),
        server.resident_bytes().saturating_sub(memory) >> 10
    );
    drop(members);
}
