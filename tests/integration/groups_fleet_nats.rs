//! Groups of a fleet, seen from NATS: streams that an operator purges or deletes, and replicas of other versions.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use streamway::proto::v1::{
    CreateGroupRequest, GetGroupRequest, Group, GroupSettings, ListGroupsRequest, ResetGroupsRequest,
};
use tonic::{Code, Status};

use crate::groups_fleet::replica;
use crate::harness::make::{published, records};
use crate::harness::member::{Member, create, groups};
use crate::harness::{Nats, Server, refused, within};

async fn get(server: &Server) -> Result<Group, Status> {
    let request = GetGroupRequest { topic: "jobs".into(), name: "workers".into() };
    groups(server).await.get_group(request).await.map(|answer| answer.into_inner().group.unwrap())
}

/// Name of the only stream that stores groups.
async fn stream_of_groups(context: &async_nats::jetstream::Context) -> String {
    let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    let mut of_groups = names.into_iter().filter(|name| name.contains("groups-"));
    let name = of_groups.next().expect("one shard");
    assert_eq!(of_groups.next(), None);
    name
}

async fn context(nats: &Nats) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap())
}

/// P10: what somebody purges while its owner works is not forgotten silently, neither by the owner nor by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_are_purged_while_they_have_an_owner_are_data_loss() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 4)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], "jobs", "workers", 2).await;
    member.take(2).await;
    let context = context(&nats).await;
    let stream = context.get_stream(stream_of_groups(&context).await).await.unwrap();
    stream.purge().await.unwrap();
    let status = within(60, "the end of the member", member.failure()).await;
    refused(&status, Code::DataLoss, "DATA_DAMAGED");
    for replica in &replicas {
        refused(&get(replica).await.unwrap_err(), Code::DataLoss, "DATA_DAMAGED");
    }
    replicas[0].kill9().await;
    replicas[0].restart().await;
    for replica in &replicas {
        refused(&get(replica).await.unwrap_err(), Code::DataLoss, "DATA_DAMAGED");
    }
    assert_reset(&replicas).await;
}

/// A damaged shard is given up through one replica, and all create groups in its place then.
async fn assert_reset(replicas: &[Server; 2]) {
    let mut service = groups(&replicas[1]).await;
    let listed = service.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    let [damaged] = &listed.unreachable[..] else { panic!("{listed:?}") };
    let request = || ResetGroupsRequest { internal_topic: damaged.clone() };
    service.reset_groups(request()).await.unwrap();
    for replica in replicas {
        refused(&get(replica).await.unwrap_err(), Code::NotFound, "GROUP_NOT_FOUND");
    }
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], "jobs", "workers", 4).await;
    let taken = member.take(4).await;
    member.ack(&taken).await;
    for replica in replicas {
        assert_eq!(get(replica).await.unwrap().status.unwrap().lag_records, 0);
        let status = groups(replica).await.reset_groups(request()).await.unwrap_err();
        refused(&status, Code::FailedPrecondition, "GROUPS_NOT_DAMAGED");
    }
}

/// P10: a stream that somebody deletes just after it was created is not begun anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_whose_new_stream_is_deleted_are_data_loss() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 4)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let context = context(&nats).await;
    context.delete_stream(stream_of_groups(&context).await).await.unwrap();
    within(60, "the loss", async {
        while !matches!(get(&replicas[0]).await, Err(status) if status.code() == Code::DataLoss) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    for replica in &replicas {
        refused(&get(replica).await.unwrap_err(), Code::DataLoss, "DATA_DAMAGED");
        let group = Group { topic: "jobs".into(), name: "workers".into(), ..Group::default() };
        let request = CreateGroupRequest { group: Some(group), start: None };
        let status = groups(replica).await.create_group(request).await.unwrap_err();
        refused(&status, Code::DataLoss, "DATA_DAMAGED");
    }
    assert_reset(&replicas).await;
}

/// The next frames that an owner sends.
async fn frames(inbox: &mut Subscriber) -> Vec<Value> {
    let letter = within(10, "a letter", inbox.next()).await.expect("open");
    let letter: Value = serde_json::from_slice(&letter.payload).unwrap();
    letter["frames"].as_array().unwrap().clone()
}

/// A replica of a newer version asks for what its owner does not know: it is told so, and its other requests are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_newer_replicas_are_refused_one_by_one() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 4)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut heard = client.subscribe("streamway_replicas.>").await.unwrap();
    client.flush().await.unwrap();
    get(&replicas[1]).await.unwrap();
    let shard = within(10, "the first message", async {
        loop {
            let subject = heard.next().await.expect("open").subject;
            if subject.contains("shard-") {
                return subject;
            }
        }
    })
    .await;
    let own = "0123456789abcdef";
    let mut inbox = client.subscribe(format!("streamway_replicas.{own}")).await.unwrap();
    let mut forged = client.subscribe("answers").await.unwrap();
    for from in ["a.b", ">", "shard-1-2"] {
        let hello = json!({ "from": from }).to_string();
        client.publish_with_reply(shard.clone(), "answers", hello.into()).await.unwrap();
    }
    let hello = json!({ "from": own }).to_string();
    client.publish_with_reply(shard, "answers", hello.into()).await.unwrap();
    let welcome = within(10, "the welcome", forged.next()).await.unwrap();
    let to: Value = serde_json::from_slice(&welcome.payload).unwrap();
    let to = format!("streamway_replicas.{}", to["to"].as_str().unwrap());
    let calls = json!([
        { "Merge": { "stream": 9 } },
        { "Call": [5, { "Merge": ["workers", 1] }] },
        { "Call": [6, { "List": [null, null, 5] }] },
    ]);
    let letter = json!({ "number": 1, "sent": 1, "heard": 0, "is_last": false, "frames": calls });
    client.publish(to, letter.to_string().into()).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        answers.extend(frames(&mut inbox).await.into_iter().filter(|frame| frame.get("Answer").is_some()));
    }
    assert!(answers.contains(&json!({ "Answer": [5, { "Err": "Unsupported" }] })), "{answers:?}");
    let listed = answers.iter().find(|answer| answer["Answer"][0] == 6).expect("answered");
    assert_eq!(listed["Answer"][1]["Ok"]["Infos"][0]["name"], "workers", "{listed}");
    assert!(
        futures_util::FutureExt::now_or_never(forged.next()).is_none(),
        "addresses that are none get no answer"
    );
}
