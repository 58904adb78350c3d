//! Settlements in a fleet in which the owner of the group is elsewhere: through another replica, twice, too late, after a
//! seek and after the owner's crash; and members that take nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use streamway::proto::v1::group_start::Start;
use streamway::proto::v1::{
    DeliveryOrder, GroupSettings, GroupStart, LeaseRequest, LeaseResponse, Record, SeekGroupRequest,
    SettleRequest, Settlement, SettlementResult,
};

use crate::groups_fleet::replica;
use crate::harness::make::{published, record, records};
use crate::harness::member::{Member, Taken, create, get, groups, join, millis, only};
use crate::harness::{Nats, Server, within};

const TOPIC: &str = "jobs";
const GROUP: &str = "workers";

/// Two replicas, of which the first is the owner of the group, and so many records.
async fn fleet(nats: &Nats, count: usize, settings: GroupSettings) -> [Server; 2] {
    let replicas = [replica(nats).await, replica(nats).await];
    published(&mut replicas[0].client().await, TOPIC, records("r", count)).await;
    create(&replicas[0], TOPIC, GROUP, settings).await;
    replicas
}

fn quick() -> GroupSettings {
    GroupSettings { ack_deadline: Some(millis(1000)), ..GroupSettings::default() }
}

/// Acknowledges a record by a unary call.
async fn settle(server: &Server, one: &Taken) -> SettlementResult {
    let acks = vec![only(one.offset)];
    let settlement = Settlement { token: one.token.clone(), acks, ..Settlement::default() };
    let request = SettleRequest { settlements: vec![settlement], ..SettleRequest::default() };
    let settled = groups(server).await.settle(request).await.expect("answered").into_inner();
    assert_eq!(settled.outcomes.len(), 1, "{settled:?}");
    settled.outcomes[0].result()
}

/// P12: a repeat, through whatever replica, is confirmed and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_are_confirmed_through_any_replica_and_again() {
    let nats = Nats::single("");
    let replicas = fleet(&nats, 2, GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], TOPIC, GROUP, 2).await;
    let taken = member.take(2).await;
    for (one, through) in [(&taken[0], [0, 1]), (&taken[1], [1, 0])] {
        for at in through {
            assert_eq!(settle(&replicas[at], one).await, SettlementResult::Settled, "{one:?}");
            assert_eq!(settle(&replicas[at], one).await, SettlementResult::Settled, "{one:?}, again");
        }
    }
    member.ack(&taken).await;
    let status = get(&replicas[1], TOPIC, GROUP).await.status.unwrap();
    assert_eq!((status.lag_records, status.leased_records), (0, 0), "{status:?}");
    member.leave().await;
}

/// P13: a lease that ran out at the owner elsewhere settles nothing once the record was leased again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_after_the_deadline_is_lost_through_any_replica() {
    let nats = Nats::single("");
    let replicas = fleet(&nats, 1, quick()).await;
    let mut late = Member::open(&replicas[1], TOPIC, GROUP, 1).await;
    let first = late.take(1).await;
    let mut other = Member::open(&replicas[0], TOPIC, GROUP, 1).await;
    let second = other.take(1).await;
    assert_eq!((second[0].offset, second[0].delivery), (first[0].offset, 2), "{second:?}");
    for replica in &replicas {
        assert_eq!(settle(replica, &first[0]).await, SettlementResult::LeaseLost);
    }
    while late.revoked.is_empty() {
        assert!(late.read().await.unwrap(), "its member is told");
    }
    assert_eq!(late.revoked[0].start, first[0].offset);
    assert_eq!(settle(&replicas[1], &second[0]).await, SettlementResult::Settled);
    other.leave().await;
    late.leave().await;
}

/// P12, P13: a seek voids the leases of members at all replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_after_a_seek_is_lost_through_any_replica() {
    let nats = Nats::single("");
    let replicas = fleet(&nats, 2, GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], TOPIC, GROUP, 4).await;
    let taken = member.take(2).await;
    member.ack(&taken[..1]).await;
    let to = Some(GroupStart { start: Some(Start::Offset(taken[0].offset)) });
    let request = SeekGroupRequest { topic: TOPIC.into(), name: GROUP.into(), to };
    groups(&replicas[1]).await.seek_group(request).await.unwrap();
    for replica in &replicas {
        assert_eq!(settle(replica, &taken[1]).await, SettlementResult::LeaseLost);
    }
    let again = member.take(2).await;
    assert_eq!(again.iter().map(|one| one.offset).collect::<Vec<_>>(), [taken[0].offset, taken[1].offset]);
    assert!(again[0].fence > taken[1].fence, "{again:?}");
    member.ack(&again).await;
    member.leave().await;
}

/// P12: what a member was leased by an owner that crashed counts until it is leased again, and comes no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_after_the_owners_crash_counts_until_the_record_is_leased_again() {
    let nats = Nats::single("");
    let mut replicas = fleet(&nats, 10, GroupSettings::default()).await;
    let mut member = Member::open(&replicas[1], TOPIC, GROUP, 10).await;
    let taken = member.take(10).await;
    member.ack(&taken[..2]).await;
    replicas[0].kill9().await;
    member.failure().await;
    // Nobody is there to be leased anything when the next owner judges these.
    for one in &taken[..4] {
        let settled = within(60, "the next owner", async {
            loop {
                let acks = vec![only(one.offset)];
                let settlement = Settlement { token: one.token.clone(), acks, ..Settlement::default() };
                let request = SettleRequest { settlements: vec![settlement], ..SettleRequest::default() };
                match groups(&replicas[1]).await.settle(request).await {
                    Ok(settled) => return settled.into_inner().outcomes[0].result(),
                    Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}"),
                }
            }
        });
        assert_eq!(settled.await, SettlementResult::Settled, "{one:?}");
    }
    let mut next = Member::open(&replicas[1], TOPIC, GROUP, 10).await;
    let rest = next.take(6).await;
    assert_eq!(
        rest.iter().map(|one| one.offset).collect::<BTreeSet<_>>(),
        taken[4..].iter().map(|one| one.offset).collect::<BTreeSet<_>>()
    );
    // It was leased again.
    assert_eq!(settle(&replicas[1], &taken[9]).await, SettlementResult::LeaseLost);
    assert_eq!(settle(&replicas[1], &taken[0]).await, SettlementResult::Settled, "a repeat");
    next.ack(&rest).await;
    next.assert_nothing_for(Duration::from_millis(200)).await;
    next.leave().await;
}

async fn lease(server: &Server, wait: i64) -> LeaseResponse {
    let request = LeaseRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        max_records: 1,
        wait: Some(millis(wait)),
        ..LeaseRequest::default()
    };
    groups(server).await.lease(request).await.unwrap().into_inner()
}

fn taken(leased: &LeaseResponse) -> Option<Taken> {
    let lease = leased.leases.first()?;
    let batch = &lease.batches[0];
    let record = batch.records[0].clone();
    let (offset, token, fence) = (batch.first_offset, lease.token.clone(), lease.fence);
    Some(Taken { offset, record, token, fence, delivery: 1 })
}

/// P14: single leases through all replicas in turn keep the total order, with the owner at one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_leases_through_all_replicas_keep_the_total_order() {
    let nats = Nats::single("");
    let settings = GroupSettings { order: DeliveryOrder::Total.into(), ..GroupSettings::default() };
    let replicas = fleet(&nats, 6, settings).await;
    for n in 0..6 {
        let (here, there) = (&replicas[n % 2], &replicas[(n + 1) % 2]);
        let one = taken(&lease(here, 5000).await).expect("the next record");
        assert_eq!(one.text(), format!("r{n}"));
        assert_eq!(taken(&lease(there, 100).await).map(|one| one.text()), None, "one at a time");
        assert_eq!(settle(there, &one).await, SettlementResult::Settled);
    }
    assert_eq!(taken(&lease(&replicas[1], 100).await).map(|one| one.text()), None);
}

/// P11: members without credit, at whatever replica, hold up nobody, and get their share once they give some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_credit_holds_up_nobody() {
    let nats = Nats::single("");
    let replicas = [replica(&nats).await, replica(&nats).await];
    for order in [DeliveryOrder::None, DeliveryOrder::Key, DeliveryOrder::Total] {
        let topic = format!("jobs-{}", order.as_str_name().to_lowercase());
        let keyed = |n: usize| Record { key: format!("k{}", n % 7).into(), ..record(format!("r{n}")) };
        published(&mut replicas[0].client().await, &topic, (0..50).map(keyed).collect()).await;
        let settings = GroupSettings { order: order.into(), ..GroupSettings::default() };
        create(&replicas[0], &topic, GROUP, settings).await;
        let mut idle = Vec::new();
        for replica in &replicas {
            idle.push(Member::join(replica, join(&topic, GROUP)).await.unwrap());
        }
        let mut busy = Member::open(&replicas[1], &topic, GROUP, 50).await;
        let came = busy.take(50).await;
        assert_eq!(came.iter().map(Taken::text).collect::<BTreeSet<_>>().len(), 50, "{order:?}");
        busy.ack(&came).await;
        let status = get(&replicas[1], &topic, GROUP).await.status.unwrap();
        assert_eq!((status.lag_records, status.member_count), (0, 3), "{order:?}: {status:?}");
        busy.leave().await;
        published(&mut replicas[0].client().await, &topic, (50..60).map(keyed).collect()).await;
        for mut member in idle {
            member.assert_nothing_for(Duration::from_millis(50)).await;
            member.credit(5).await;
            let taken = member.take(5).await;
            // What it settles gives its credit back.
            member.leave().await;
            assert_eq!(taken.len(), 5, "{order:?}");
        }
    }
}
