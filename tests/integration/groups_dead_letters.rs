//! Dead letters across the crash of the owner between the copy of a record and its settlement.

use std::time::Duration;

use streamway::proto::v1::{DeadLetter, GroupSettings, Settlement};

use crate::harness::make::{earliest, history, published, records, subscribe};
use crate::harness::member::{Member, create, get, only};
use crate::harness::proxy::Proxy;
use crate::harness::{Nats, Reader, Server, within};

const TOPIC: &str = "jobs";
const DEAD: &str = "dead";
const GROUP: &str = "workers";
/// Delay of the owner's connection to NATS, in each direction: the time between the copy and its settlement is twice as long.
const WAY: Duration = Duration::from_millis(500);

/// Kills the owner after it has stored a copy, and before it can have settled the record. Returns the number of copies once
/// the next owner has settled it.
async fn copies(window: &str) -> usize {
    let nats = Nats::single("");
    let link = Proxy::to(([127, 0, 0, 1], nats.servers[0].port).into()).await;
    let replica = async |url: String| {
        let args = ["--engine", "jetstream", "--nats-replicas", "1", "--storage-request-id-window", window];
        Server::with(&[&args[..], &["--nats-url", &url]].concat()).await
    };
    let (mut owner, next) = (replica(format!("nats://{}", link.at)).await, replica(nats.url()).await);
    let mut client = next.client().await;
    published(&mut client, TOPIC, records("r", 2)).await;
    let settings = GroupSettings { dead_letter_topic: DEAD.into(), ..GroupSettings::default() };
    create(&owner, TOPIC, GROUP, settings).await;
    let mut member = Member::open(&owner, TOPIC, GROUP, 2).await;
    let taken = member.take(2).await;
    member.ack(&taken[1..]).await;
    link.delay(WAY);
    let mut copied = Reader::open(&mut client, subscribe(DEAD, earliest())).await.unwrap().sparse();
    let dead = DeadLetter { range: Some(only(taken[0].offset)), reason: "no number".into() };
    let token = taken[0].token.clone();
    member.settle(Settlement { token, dead_letters: vec![dead], ..Settlement::default() }).await;
    let first = within(30, "the copy", copied.records()).await.unwrap().expect("it goes on");
    owner.kill9().await;
    assert_eq!(first.len(), 1);
    let settled = async {
        loop {
            let status = get_maybe(&next).await;
            if status == Some(0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(60, "the next owner settles the record", settled).await;
    let status = get(&next, TOPIC, GROUP).await.status.unwrap();
    assert_eq!((status.lag_records, status.dead_lettered_records), (0, 1), "{status:?}");
    let mut all = Reader::open(&mut client, history(DEAD)).await.unwrap().sparse();
    let all = all.rest().await.unwrap();
    for copy in &all {
        assert_eq!(copy.text(), "r0");
        assert_eq!(
            copy.record.headers["streamway-offset"],
            taken[0].offset.to_string(),
            "it names its source"
        );
    }
    all.len()
}

/// Records that are not settled; none while no replica can tell.
async fn get_maybe(server: &Server) -> Option<u64> {
    let request = streamway::proto::v1::GetGroupRequest { topic: TOPIC.into(), name: GROUP.into() };
    let answer = crate::harness::member::groups(server).await.get_group(request).await.ok()?;
    answer.into_inner().group?.status.map(|status| status.lag_records)
}

/// P5, P11: the next owner publishes the copy again, which is stored once within the window of request ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_stored_once_if_the_owner_dies_before_the_settlement() {
    assert_eq!(copies("10m").await, 1);
}

/// P11: after the window there are two copies, which both name the record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_stored_again_if_the_window_of_request_ids_passed_before_the_settlement() {
    assert_eq!(copies("1s").await, 2);
}
