//! Administration of groups that work: settings, seeks, deletion, and the end of their topic.

use std::time::Duration;

use prost_types::FieldMask;
use streamway::proto::v1::{
    Boundary, DeleteGroupRequest, DeleteTopicRequest, Group, GroupSettings, GroupStart, LeaseRequest,
    SeekGroupRequest, Settlement, SettlementResult, TrimTopicRequest, UpdateGroupRequest, group_start::Start,
};
use tonic::Code;

use crate::harness::make::{published, records};
use crate::harness::member::{Member, create, get, groups, join, millis, only};
use crate::harness::{Server, refused, within};

async fn with_group(topic: &str, count: usize) -> Server {
    let server = Server::start().await;
    published(&mut server.client().await, topic, records("r", count)).await;
    create(&server, topic, "workers", GroupSettings::default()).await;
    server
}

async fn seek(server: &Server, topic: &str, start: Start) -> Result<Group, tonic::Status> {
    let to = Some(GroupStart { start: Some(start) });
    let request = SeekGroupRequest { topic: topic.into(), name: "workers".into(), to };
    groups(server).await.seek_group(request).await.map(|sought| sought.into_inner().group.unwrap())
}

#[tokio::test]
async fn a_seek_loses_all_leases_and_delivers_from_there() {
    let mut server = with_group("sought", 4).await;
    let mut member = Member::open(&server, "sought", "workers", 4).await;
    let taken = member.take(4).await;
    member.ack(&taken[..2]).await;
    let group = seek(&server, "sought", Start::Offset(1)).await.unwrap();
    assert_eq!(group.status.unwrap().lag_records, 3, "all from there on are unsettled");
    member.credit(100).await;
    let again = member.take(3).await;
    assert_eq!(again.iter().map(|one| one.offset).collect::<Vec<_>>(), [1, 2, 3]);
    let late = Settlement { token: taken[2].token.clone(), acks: vec![only(2)], ..Settlement::default() };
    let number = member.settle(late).await;
    assert_eq!(member.results(number, 1).await, [SettlementResult::LeaseLost]);
    assert!(!member.revoked.is_empty(), "told before the records were leased again");
    // To the tail: everything counts as settled, also after kill -9.
    seek(&server, "sought", Start::Boundary(Boundary::Latest.into())).await.unwrap();
    server.kill9().await;
    server.restart().await;
    let status = get(&server, "sought", "workers").await.status.unwrap();
    assert_eq!((status.lag_records, status.oldest_unsettled_offset), (0, 4), "{status:?}");
    let status = seek(&server, "sought", Start::Offset(5)).await.unwrap_err();
    refused(&status, Code::OutOfRange, "OFFSET_BEYOND_TAIL");
}

#[tokio::test]
async fn an_update_applies_to_leases_from_then_on() {
    let server = with_group("updated", 2).await;
    let settings = GroupSettings { ack_deadline: Some(millis(1000)), ..GroupSettings::default() };
    let group = Group {
        topic: "updated".into(),
        name: "workers".into(),
        settings: Some(settings),
        ..Group::default()
    };
    let mask = FieldMask { paths: vec!["settings.ack_deadline".into()] };
    let request = UpdateGroupRequest { group: Some(group), update_mask: Some(mask) };
    let updated = groups(&server).await.update_group(request).await.unwrap().into_inner().group.unwrap();
    let settings = updated.settings.unwrap();
    assert_eq!((settings.ack_deadline, settings.lease_max.unwrap().seconds), (Some(millis(1000)), 3600));
    let mut member = Member::open(&server, "updated", "workers", 100).await;
    let taken = member.take(2).await;
    member.ack(&taken[..1]).await;
    let again = member.take(1).await.remove(0);
    assert_eq!((again.offset, again.delivery), (1, 2), "the deadline is a second now");
}

#[tokio::test]
async fn members_of_a_deleted_group_and_of_a_deleted_topic_end() {
    let server = with_group("gone", 1).await;
    let mut member = Member::open(&server, "gone", "workers", 1).await;
    let taken = member.take(1).await;
    let (topic, name) = ("gone".to_owned(), "workers".to_owned());
    let delete = DeleteGroupRequest { topic, name, id: String::new() };
    groups(&server).await.delete_group(delete).await.unwrap();
    refused(&member.failure().await, Code::NotFound, "GROUP_NOT_FOUND");
    // A group of the same name is another one: it begins anew, and old tokens are lost.
    create(&server, "gone", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&server, "gone", "workers", 1).await;
    let again = member.take(1).await;
    assert_eq!(again[0].delivery, 1);
    let late = Settlement { token: taken[0].token.clone(), acks: vec![only(0)], ..Settlement::default() };
    let number = member.settle(late).await;
    assert_eq!(member.results(number, 1).await, [SettlementResult::LeaseLost]);

    let delete = DeleteTopicRequest { name: "gone".into(), epoch: String::new() };
    server.topics().await.delete_topic(delete).await.unwrap();
    let status = member.failure().await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    published(&mut server.client().await, "gone", records("new", 1)).await;
    let lease = LeaseRequest { topic: "gone".into(), group: "workers".into(), ..LeaseRequest::default() };
    let status = groups(&server).await.lease(lease).await.unwrap_err();
    refused(&status, Code::NotFound, "GROUP_NOT_FOUND");
}

/// P11: what a trim takes is counted and told.
#[tokio::test]
async fn records_that_are_trimmed_are_skipped_and_counted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for batch in 0..5 {
        published(&mut client, "trimmed", records(&batch.to_string(), 2)).await;
    }
    create(&server, "trimmed", "workers", GroupSettings::default()).await;
    let trim = TrimTopicRequest { name: "trimmed".into(), before_offset: 6, epoch: String::new() };
    server.topics().await.trim_topic(trim).await.unwrap();
    let mut member = Member::open(&server, "trimmed", "workers", 100).await;
    let taken = member.take(4).await;
    assert_eq!(taken.iter().map(|one| one.offset).collect::<Vec<_>>(), [6, 7, 8, 9]);
    member.ack(&taken).await;
    within(10, "the status", async {
        loop {
            let status = get(&server, "trimmed", "workers").await.status.unwrap();
            if (status.lag_records, status.skipped_records) == (0, 6) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lease_without_waiting_gets_what_is_there() {
    let server = with_group("now", 5).await;
    let mut client = groups(&server).await;
    let lease = LeaseRequest {
        topic: "now".into(),
        group: "workers".into(),
        max_records: 2,
        ..LeaseRequest::default()
    };
    let leased = client.lease(lease).await.unwrap().into_inner().leases;
    assert_eq!(
        leased.iter().flat_map(|lease| &lease.batches).map(|batch| batch.records.len()).sum::<usize>(),
        2
    );
}

#[tokio::test]
async fn a_member_cap_refuses_one_more() {
    let server = Server::with(&["--group-members-max", "2", "--groups-max", "1"]).await;
    published(&mut server.client().await, "capped", records("r", 1)).await;
    let first = Member::open(&server, "capped", "workers", 1).await;
    let _second = Member::open(&server, "capped", "workers", 1).await;
    let Err(status) = Member::join(&server, join("capped", "workers")).await else { panic!("joined") };
    refused(&status, Code::ResourceExhausted, "MEMBER_LIMIT");
    let Err(status) = Member::join(&server, join("capped", "others")).await else { panic!("joined") };
    refused(&status, Code::FailedPrecondition, "GROUP_LIMIT");
    first.leave().await;
    Member::open(&server, "capped", "workers", 1).await;
}
