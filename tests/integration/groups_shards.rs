//! Faults of what stores groups: files of the embedded engine that an operator damaged or removed, and messages between
//! replicas that this version does not know.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use streamway::proto::v1::{GetGroupRequest, Group, GroupSettings, ListGroupsRequest, ResetGroupsRequest};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::groups_fleet::replica;
use crate::harness::make::{published, record, records};
use crate::harness::member::{Member, create, get, groups, join};
use crate::harness::owner::stream;
use crate::harness::{Nats, Server, read_all, refused, within};

const TOPIC: &str = "jobs";
/// Name of the group. It is in the commands of its shard, and in no other file of the log.
const GROUP: &str = "workers-of-a-name-like-no-other";
const SMALL: [&str; 4] = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];

/// Files under `root` that contain the name of the group.
fn files_of_the_group(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            if bytes.windows(GROUP.len()).any(|window| window == GROUP.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// A stopped server with a group whose commands are in a segment, and not in the journal any more.
async fn stopped(dir: &Path) -> Server {
    let mut server = Server::on(dir, &SMALL).await;
    let mut client = server.client().await;
    published(&mut client, TOPIC, records("r", 10)).await;
    create(&server, TOPIC, GROUP, GroupSettings::default()).await;
    let mut member = Member::open(&server, TOPIC, GROUP, 10).await;
    let taken = member.take(10).await;
    member.ack(&taken[..5]).await;
    member.leave().await;
    for n in 0..40_u8 {
        published(&mut client, "other", vec![record(vec![n; 100_000])]).await;
    }
    server.sigterm().await;
    server
}

async fn get_group(server: &Server) -> Result<Group, Status> {
    let request = GetGroupRequest { topic: TOPIC.into(), name: GROUP.into() };
    groups(server).await.get_group(request).await.map(|got| got.into_inner().group.unwrap())
}

/// P10: the groups of the shard are DATA_LOSS, for every call; nothing is created in its place, and topics are served.
async fn assert_lost(server: &Server) {
    let status = get_group(server).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let status = Member::join(server, join(TOPIC, GROUP)).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let mut client = server.client().await;
    assert!(read_all(&mut client, TOPIC).await.len() >= 10);
    published(&mut client, TOPIC, records("more", 1)).await;
}

#[tokio::test]
async fn groups_in_a_damaged_file_are_data_loss_and_topics_are_served() {
    let dir = TempDir::new().unwrap();
    let mut server = stopped(dir.path()).await;
    let files = files_of_the_group(dir.path());
    assert!(!files.is_empty());
    for file in &files {
        let mut bytes = std::fs::read(file).unwrap();
        let at =
            bytes.windows(GROUP.len()).position(|window| window == GROUP.as_bytes()).expect("it is there");
        bytes[at] ^= 0x10;
        std::fs::write(file, bytes).unwrap();
    }
    server.restart_to_ports().await;
    within(60, "the end of the start", async {
        while get_group(&server).await.is_err_and(|status| status.code() == Code::Unavailable) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_lost(&server).await;
    assert_reset(&server).await;
    server.kill9().await;
    server.restart().await;
    assert_eq!(get(&server, TOPIC, GROUP).await.status.unwrap().lag_records, 11);
}

/// A reset gives up damaged groups and no others, and groups can be created in their place.
async fn assert_reset(server: &Server) {
    let mut service = groups(server).await;
    let listed = service.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    let [damaged] = &listed.unreachable[..] else { panic!("{listed:?}") };
    for other in ["", "jobs", "~groups-16", "~groups-7", "groups-07"] {
        let request = ResetGroupsRequest { internal_topic: other.into() };
        let status = service.reset_groups(request).await.unwrap_err();
        refused(&status, Code::InvalidArgument, "INVALID_FIELD");
    }
    let request = |name: &str| ResetGroupsRequest { internal_topic: name.into() };
    for other in (0..16).map(|shard| format!("~groups-{shard:02}")).filter(|name| name != damaged) {
        let status = service.reset_groups(request(&other)).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "GROUPS_NOT_DAMAGED");
    }
    assert_lost(server).await;
    service.reset_groups(request(damaged)).await.unwrap();
    let listed = service.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    assert!(listed.groups.is_empty() && listed.unreachable.is_empty(), "{listed:?}");
    refused(&get_group(server).await.unwrap_err(), Code::NotFound, "GROUP_NOT_FOUND");
    create(server, TOPIC, GROUP, GroupSettings::default()).await;
    let status = service.reset_groups(request(damaged)).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "GROUPS_NOT_DAMAGED");
    let mut member = Member::open(server, TOPIC, GROUP, 1).await;
    let taken = member.take(1).await;
    member.ack(&taken).await;
    member.leave().await;
}

/// A start is refused, as for the records of any topic; and a repair tells what it gives up.
#[tokio::test]
async fn groups_in_a_removed_file_refuse_the_start_and_a_repair_tells_that_they_are_lost() {
    let dir = TempDir::new().unwrap();
    let mut server = stopped(dir.path()).await;
    let files = files_of_the_group(dir.path());
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::remove_file(&files[0]).unwrap();
    server.start_again();
    assert!(!server.ended().await.success());
    let log = server.log();
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(log.contains("segment is missing") && log.contains(name), "{log}");
    let repair = Command::new(env!("CARGO_BIN_EXE_streamway"))
        .args(["check", "--repair"])
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&repair.stdout).into_owned();
    assert_eq!(repair.status.code(), Some(3), "{told}");
    assert!(told.contains("lost: topic ~groups-"), "{told}");
    server.restart().await;
    refused(&get_group(&server).await.unwrap_err(), Code::NotFound, "GROUP_NOT_FOUND");
    create(&server, TOPIC, GROUP, GroupSettings::default()).await;
    let mut member = Member::open(&server, TOPIC, GROUP, 10).await;
    let taken = member.take(10).await;
    member.ack(&taken).await;
    member.leave().await;
}

/// Subject of an address on the bus between replicas.
fn subject(address: &str) -> String {
    format!("streamway_replicas.{address}")
}

/// Address of the replica of another version.
const PEER: &str = "00000000000000fe";

/// A replica of another version, as the owner of a shard sees it.
struct Peer {
    client: async_nats::Client,
    inbox: async_nats::Subscriber,
    owner: String,
}

impl Peer {
    /// Says hello to the owner, with a field that it does not know.
    async fn greet(nats: &Nats, owner: &Server) -> Self {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let stream = stream(owner);
        let shard = stream.rsplit('-').next().unwrap().parse::<u64>().unwrap();
        let context = async_nats::jetstream::new(client.clone());
        let epoch =
            context.get_stream(&stream).await.unwrap().cached_info().config.metadata["streamway.epoch"]
                .clone();
        let inbox = client.subscribe(subject(PEER)).await.unwrap();
        client.flush().await.unwrap();
        let hello = json!({"from": PEER, "speaks": ["of", "later"]}).to_string();
        let asked = client.request(subject(&format!("shard-{shard}-{epoch}")), hello.into()).await;
        let welcome: Value = serde_json::from_slice(&asked.expect("the owner answers").payload).unwrap();
        Self { client, inbox, owner: welcome["to"].as_str().unwrap().to_owned() }
    }

    async fn send(&self, letter: Value) {
        let (to, from) = (subject(&self.owner), subject(PEER));
        self.client.publish_with_reply(to, from, letter.to_string().into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// The next letter of the owner that holds frames, or says that it is the last one.
    async fn frames(&mut self) -> Value {
        within(20, "a letter of the owner", async {
            loop {
                let letter = self.inbox.next().await.expect("connected");
                let letter: Value = serde_json::from_slice(&letter.payload).unwrap();
                if letter["frames"] != json!([]) || letter["is_last"] == true {
                    return letter;
                }
            }
        })
        .await
    }
}

fn letter(number: u64, frames: Value) -> Value {
    json!({
        "number": number, "sent": number, "heard": 0, "is_last": false, "frames": frames, "later": {"field": 1}
    })
}

/// A newer replica sends what the owner does not know. The owner serves others, and the newer one after it asked anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_newer_replica_harm_no_member() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, TOPIC, records("r", 20)).await;
    create(&replicas[0], TOPIC, GROUP, GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], TOPIC, GROUP, 10).await;
    let taken = member.take(10).await;
    let mut peer = Peer::greet(&nats, &replicas[0]).await;
    // What is known, with fields that are not, is answered.
    let describe =
        json!([{"Call": [1, {"Describe": [{"topic": TOPIC, "group": GROUP, "realm": "later"}, false]}]}]);
    peer.send(letter(1, describe)).await;
    let answer = peer.frames().await;
    assert!(answer["frames"][0]["Answer"][1]["Ok"]["Info"].is_object(), "{answer}");
    // What is not known is refused, and the link goes on.
    peer.send(letter(2, json!([{"Later": {"stream": 1}}, {"Call": [2, {"Rename": {"to": "later"}}]}]))).await;
    let answer = peer.frames().await;
    assert_eq!(answer["frames"][0], json!({"Answer": [2, {"Err": "Unsupported"}]}), "{answer}");
    for (n, unknown) in [
        json!([{"Call": [2, {"Rename": {"to": "later"}}]}]),
        json!([{"Later": {"stream": 1}}]),
        json!("no frames"),
        json!([{"Settle": {"stream": u64::MAX, "number": 1, "token": "bad", "settlement": null}}]),
    ]
    .into_iter()
    .enumerate()
    {
        let other = Peer::greet(&nats, &replicas[0]).await;
        other.send(letter(1, unknown)).await;
        member.ack(&taken[n..=n]).await;
    }
    member.ack(&taken[4..]).await;
    member.credit(20).await;
    let rest = member.take(10).await;
    assert_eq!(rest[0].text(), "r10");
    member.ack(&rest).await;
    member.assert_nothing_for(Duration::from_millis(200)).await;
    let status = get(&replicas[1], TOPIC, GROUP).await.status.unwrap();
    assert_eq!((status.lag_records, status.member_count), (0, 1), "{status:?}");
    member.leave().await;
}
