//! Groups of a fleet: members at any replica share the records of a topic, and the owner of a group may be any replica.

use std::collections::BTreeSet;
use std::time::Duration;

use streamway::proto::v1::{
    CreateGroupRequest, DeleteGroupRequest, DeliveryOrder, GetGroupRequest, Group, GroupSettings,
    LeaseRequest, ListGroupsRequest, ListTopicsRequest, SettleRequest, Settlement, SettlementResult,
    UpdateGroupRequest,
};
use tonic::Code;

use crate::harness::make::{published, records};
use crate::harness::member::{Member, Taken, create, get, groups, millis, only};
use crate::harness::{Nats, Server, refused, signal};

pub async fn replica(nats: &Nats) -> Server {
    let url = nats.url();
    Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await
}

fn texts(taken: &[Taken]) -> BTreeSet<String> {
    taken.iter().map(Taken::text).collect()
}

/// P11, P13: each record goes to one member, and any replica settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_at_different_replicas_share_a_group() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    for n in 0..10 {
        let batch = records(&format!("{n}/"), 10);
        published(&mut replicas[n % 2].client().await, "jobs", batch).await;
    }
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut here = Member::open(&replicas[0], "jobs", "workers", 50).await;
    let mut there = Member::open(&replicas[1], "jobs", "workers", 50).await;
    let (taken, others) = (here.take(50).await, there.take(50).await);
    let all: BTreeSet<_> = texts(&taken).union(&texts(&others)).cloned().collect();
    assert_eq!(all.len(), 100, "no record came twice");
    here.ack(&taken).await;
    there.ack(&others[..49]).await;
    for replica in &replicas {
        let status = get(replica, "jobs", "workers").await.status.unwrap();
        assert_eq!((status.lag_records, status.leased_records, status.member_count), (1, 1, 2), "{status:?}");
    }
    // The last one by a unary call to the other replica.
    let last = &others[49];
    let settlement =
        Settlement { token: last.token.clone(), acks: vec![only(last.offset)], ..Settlement::default() };
    let request = SettleRequest { settlements: vec![settlement], ..SettleRequest::default() };
    let settled = groups(&replicas[0]).await.settle(request).await.unwrap().into_inner();
    assert!(
        settled.outcomes.iter().all(|outcome| outcome.result() == SettlementResult::Settled),
        "{settled:?}"
    );
    here.leave().await;
    there.leave().await;
    let status = get(&replicas[1], "jobs", "workers").await.status.unwrap();
    assert_eq!((status.lag_records, status.member_count), (0, 0), "{status:?}");
}

/// The calls of administration work at any replica, and each sees what the others did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_administered_at_any_replica() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 3)).await;
    for n in 0..5 {
        create(&replicas[n % 2], "jobs", &format!("g{n}"), GroupSettings::default()).await;
    }
    for replica in &replicas {
        let request = ListGroupsRequest { page_size: 2, ..ListGroupsRequest::default() };
        let first = groups(replica).await.list_groups(request.clone()).await.unwrap().into_inner();
        let names: Vec<_> = first.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["g0", "g1"]);
        let request = ListGroupsRequest { page_token: first.next_page_token, page_size: 100, ..request };
        let rest = groups(replica).await.list_groups(request).await.unwrap().into_inner();
        assert_eq!(rest.groups.len(), 3);
    }
    let mut group = get(&replicas[1], "jobs", "g0").await;
    group.settings = Some(GroupSettings { ack_deadline: Some(millis(5000)), ..group.settings.unwrap() });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["settings.ack_deadline".into()] });
    let request = UpdateGroupRequest { group: Some(group), update_mask };
    groups(&replicas[1]).await.update_group(request).await.unwrap();
    let settings = get(&replicas[0], "jobs", "g0").await.settings.unwrap();
    assert_eq!(settings.ack_deadline, Some(millis(5000)));
    let request =
        DeleteGroupRequest { topic: "jobs".into(), name: "g0".into(), ..DeleteGroupRequest::default() };
    groups(&replicas[0]).await.delete_group(request).await.unwrap();
    let request = GetGroupRequest { topic: "jobs".into(), name: "g0".into() };
    let gone = groups(&replicas[1]).await.get_group(request).await.unwrap_err();
    refused(&gone, Code::NotFound, "GROUP_NOT_FOUND");
    // The shards of groups are no topics for anybody.
    let listed =
        replicas[0].topics().await.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = listed.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["jobs"]);
}

/// P11, P12: a unary lease, a failure and an order by key with the owner elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_failures_work_with_the_owner_elsewhere() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 3)).await;
    let order = DeliveryOrder::Total.into();
    create(&replicas[0], "jobs", "ordered", GroupSettings { order, ..GroupSettings::default() }).await;
    let request = LeaseRequest {
        topic: "jobs".into(),
        group: "ordered".into(),
        max_records: 1,
        wait: Some(millis(5000)),
        ..LeaseRequest::default()
    };
    let leased = groups(&replicas[1]).await.lease(request).await.unwrap().into_inner();
    assert_eq!(leased.leases.len(), 1, "{leased:?}");
    let lease = &leased.leases[0];
    let offset = lease.batches[0].first_offset;
    let settlement =
        Settlement { token: lease.token.clone(), acks: vec![only(offset)], ..Settlement::default() };
    let request = SettleRequest { settlements: vec![settlement], ..SettleRequest::default() };
    groups(&replicas[1]).await.settle(request).await.unwrap();
    let mut member = Member::open(&replicas[1], "jobs", "ordered", 10).await;
    let taken = member.take(2).await;
    assert_eq!(taken.iter().map(Taken::text).collect::<Vec<_>>(), ["r1", "r2"]);
    member.nack(&taken[0], Some(0), "not today").await;
    let again = member.take(2).await;
    assert_eq!(
        again.iter().map(|one| (one.text(), one.delivery)).collect::<Vec<_>>(),
        [("r1".to_owned(), 2), ("r2".to_owned(), 1)]
    );
    member.ack(&again).await;
    member.leave().await;
}

/// P11, P12: the owner is drained; its members at the other replica go on there, and nothing that was settled comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_on_when_the_owner_is_drained() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 20)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], "jobs", "workers", 10).await;
    let taken = member.take(10).await;
    let session = member.joined.session.clone();
    replicas[0].sigterm().await;
    let status = member.failure().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let again = crate::harness::member::join("jobs", "workers");
    let mut member =
        Member::join(&replicas[1], streamway::proto::v1::Join { session, ..again }).await.expect("joined");
    // What it holds can still be settled, and the rest comes.
    member.ack(&taken).await;
    member.credit(20).await;
    let rest = member.take(10).await;
    let expected: BTreeSet<_> = (10..20).map(|n| format!("r{n}")).collect();
    assert_eq!(texts(&rest), expected);
    assert!(rest[0].fence > taken[9].fence, "fences rise over owners (P13)");
    member.ack(&rest).await;
    member.leave().await;
}

/// P11, P12: the owner is killed; another replica follows, and nothing that was settled comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_follows_when_the_owner_is_killed() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 20)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], "jobs", "workers", 10).await;
    let taken = member.take(10).await;
    member.ack(&taken[..5]).await;
    replicas[0].kill9().await;
    let status = member.failure().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let mut member = Member::open(&replicas[1], "jobs", "workers", 20).await;
    let rest = member.take(15).await;
    assert_eq!(texts(&rest), (5..20).map(|n| format!("r{n}")).collect(), "{rest:?}");
    assert!(rest[0].fence > taken[9].fence, "fences rise over owners (P13)");
    member.ack(&rest).await;
    member.assert_nothing_for(Duration::from_millis(200)).await;
    member.leave().await;
}

/// P7: calls on groups whose owner is killed wait for the next owner, also those that the killed one has received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_the_next_owner() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    published(&mut replicas[0].client().await, "jobs", records("r", 4)).await;
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let request = LeaseRequest {
        topic: "jobs".into(),
        group: "workers".into(),
        max_records: 2,
        wait: Some(millis(20_000)),
        ..LeaseRequest::default()
    };
    let leased = groups(&replicas[1]).await.lease(request.clone()).await.unwrap().into_inner();
    let (token, offset) = (leased.leases[0].token.clone(), leased.leases[0].batches[0].first_offset);
    // The stopped owner answers none of these calls.
    signal(replicas[0].pid(), "STOP");
    let settlement = Settlement { token, acks: vec![only(offset)], ..Settlement::default() };
    let settle = SettleRequest { settlements: vec![settlement], ..SettleRequest::default() };
    let get = GetGroupRequest { topic: "jobs".into(), name: "workers".into() };
    let (mut settles, mut gets, mut leases, mut creates) = (
        groups(&replicas[1]).await,
        groups(&replicas[1]).await,
        groups(&replicas[1]).await,
        groups(&replicas[1]).await,
    );
    let calls = async {
        let other = Group { topic: "jobs".into(), name: "workers".into(), ..Group::default() };
        let new = CreateGroupRequest { group: Some(other), start: None };
        tokio::join!(
            settles.settle(settle),
            gets.get_group(get),
            leases.lease(request),
            creates.create_group(new)
        )
    };
    let killed = async {
        // The calls are on their way. Later ones would only make the test weaker.
        tokio::time::sleep(Duration::from_millis(300)).await;
        replicas[0].kill9().await;
    };
    let ((settled, got, leased, exists), ()) = tokio::join!(calls, killed);
    let outcomes = settled.expect("settled").into_inner().outcomes;
    assert!(outcomes.iter().all(|one| one.result() == SettlementResult::Settled), "{outcomes:?}");
    assert_eq!(got.expect("answered").into_inner().group.unwrap().name, "workers");
    assert_eq!(leased.expect("answered").into_inner().leases.len(), 1);
    refused(&exists.expect_err("there is one"), Code::AlreadyExists, "GROUP_EXISTS");
}

/// What is settled behind an open range is no lag, also for an owner that has not read the topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_after_a_handover_counts_only_what_is_not_settled() {
    let nats = Nats::single("");
    let mut replicas = [replica(&nats).await, replica(&nats).await];
    for n in 0..3 {
        published(&mut replicas[0].client().await, "jobs", records(&format!("{n}/"), 10)).await;
    }
    create(&replicas[0], "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&replicas[0], "jobs", "workers", 100).await;
    let taken = member.take(30).await;
    let (open, done): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|one| ["0/1", "0/2", "1/9", "2/0"].contains(&one.text().as_str()));
    member.ack(&done).await;
    assert_eq!(open.len(), 4);
    member.leave().await;
    replicas[0].sigterm().await;
    let status = get(&replicas[1], "jobs", "workers").await.status.unwrap();
    assert_eq!((status.lag_records, status.oldest_unsettled_offset), (4, open[0].offset), "{status:?}");
    let mut member = Member::open(&replicas[1], "jobs", "workers", 100).await;
    assert_eq!(texts(&member.take(4).await), texts(&open));
    member.leave().await;
}
