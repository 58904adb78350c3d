//! Groups over a real server: each record is handled, by one member at a time, and what is settled stays settled.

use std::collections::BTreeMap;
use std::time::Duration;

use streamway::proto::v1::consume_request::Kind;
use streamway::proto::v1::{
    DeliveryOrder, Extend, GroupSettings, Join, LeaseRequest, Notice, PoisonPolicy, Record, SettleRequest,
    Settlement, SettlementResult,
};
use tonic::Code;

use crate::harness::make::{published, record, records};
use crate::harness::member::{Member, Taken, create, get, groups, join, millis, only};
use crate::harness::{Server, read_all, refused};

async fn with_records(topic: &str, count: usize) -> Server {
    let server = Server::start().await;
    published(&mut server.client().await, topic, records("r", count)).await;
    server
}

fn offsets(taken: &[Taken]) -> Vec<u64> {
    taken.iter().map(|one| one.offset).collect()
}

/// P11, P12: settled records do not come again after a restart, and the others do.
#[tokio::test]
async fn what_is_settled_stays_settled_after_a_restart_and_after_kill_9() {
    let mut server = with_records("jobs", 10).await;
    create(&server, "jobs", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&server, "jobs", "workers", 6).await;
    let taken = member.take(6).await;
    assert_eq!(offsets(&taken), [0, 1, 2, 3, 4, 5]);
    assert_eq!(taken[3].text(), "r3");
    assert!(taken.iter().all(|one| one.delivery == 1), "{taken:?}");
    member.ack(&[taken[0].clone(), taken[2].clone()]).await;
    server.kill9().await;
    server.restart().await;
    let mut member = Member::open(&server, "jobs", "workers", 100).await;
    let again = member.take(8).await;
    assert_eq!(offsets(&again), [1, 3, 4, 5, 6, 7, 8, 9]);
    assert!(again[0].fence > taken[1].fence, "fences rise over restarts (P13)");
    member.ack(&again[..7]).await;
    member.leave().await;
    server.sigterm().await;
    server.restart().await;
    let mut member = Member::open(&server, "jobs", "workers", 100).await;
    assert_eq!(offsets(&member.take(1).await), [9]);
    member.assert_nothing_for(Duration::from_millis(200)).await;
    let status = get(&server, "jobs", "workers").await.status.unwrap();
    assert_eq!((status.lag_records, status.oldest_unsettled_offset, status.tail), (1, 9, 10), "{status:?}");
    assert_eq!((status.member_count, status.leased_records), (1, 1), "{status:?}");
}

/// P11, P13.
#[tokio::test]
async fn two_members_share_the_records_and_none_is_given_twice() {
    let server = with_records("shared", 200).await;
    let mut members = [
        Member::open(&server, "shared", "both", 50).await,
        Member::open(&server, "shared", "both", 50).await,
    ];
    let mut seen = BTreeMap::new();
    let mut credit = 50;
    while seen.len() < 200 {
        for (at, member) in members.iter_mut().enumerate() {
            let waiting = tokio::time::timeout(Duration::from_millis(50), member.read()).await;
            if let Ok(read) = waiting {
                assert!(read.unwrap(), "the call goes on");
            }
            let taken: Vec<_> = member.taken.drain(..).collect();
            member.ack(&taken).await;
            for one in taken {
                assert_eq!(seen.insert(one.offset, at), None, "{one:?}");
            }
        }
        credit += 50;
        for member in &members {
            member.credit(credit).await;
        }
    }
    for at in 0..2 {
        let share = seen.values().filter(|&&by| by == at).count();
        assert!(share >= 50, "member {at} handled {share}");
    }
    for member in members {
        member.leave().await;
    }
    let status = get(&server, "shared", "both").await.status.unwrap();
    assert_eq!((status.lag_records, status.member_count), (0, 0), "{status:?}");
}

fn keyed(key: &str, value: &str) -> Record {
    Record { key: key.to_owned().into(), ..record(value) }
}

/// P14: while the first record of a key is held or failed, later ones go to nobody else.
#[tokio::test]
async fn records_of_a_key_are_handled_in_order_by_one_member_at_a_time() {
    let server = Server::start().await;
    let sent = ["a0", "b0", "a1", "b1", "a2"].map(|name| keyed(&name[..1], name));
    published(&mut server.client().await, "keys", sent.to_vec()).await;
    let order = DeliveryOrder::Key.into();
    create(&server, "keys", "ordered", GroupSettings { order, ..GroupSettings::default() }).await;
    let mut first = Member::open(&server, "keys", "ordered", 1).await;
    let a0 = first.take(1).await.remove(0);
    assert_eq!(a0.text(), "a0");
    let mut second = Member::open(&server, "keys", "ordered", 10).await;
    let of_b = second.take(2).await;
    assert_eq!(of_b.iter().map(Taken::text).collect::<Vec<_>>(), ["b0", "b1"]);
    second.assert_nothing_for(Duration::from_millis(150)).await;
    // Out of order within what a member holds itself.
    let number = second
        .settle(Settlement {
            token: of_b[1].token.clone(),
            acks: vec![only(of_b[1].offset)],
            ..Settlement::default()
        })
        .await;
    assert_eq!(second.results(number, 1).await, [SettlementResult::OutOfKeyOrder]);
    second.ack(&of_b).await;
    first.nack(&a0, None, "no").await;
    // Both may get it, but nobody a later one before it.
    first.leave().await;
    let again = second.take(1).await.remove(0);
    assert_eq!((again.text().as_str(), again.delivery), ("a0", 2));
    second.ack(&[again]).await;
    let rest = second.take(2).await;
    assert_eq!(rest.iter().map(Taken::text).collect::<Vec<_>>(), ["a1", "a2"]);
}

#[tokio::test]
async fn a_refused_record_comes_again_after_its_delay_with_a_higher_fence() {
    let server = with_records("delays", 1).await;
    let backoff = vec![millis(300), millis(50)];
    create(&server, "delays", "slow", GroupSettings { backoff, ..GroupSettings::default() }).await;
    let mut member = Member::open(&server, "delays", "slow", 10).await;
    let mut before = member.take(1).await.remove(0);
    for (delivery, delay) in [(2, 300), (3, 50), (4, 50)] {
        let begun = tokio::time::Instant::now();
        member.nack(&before, None, "").await;
        let again = member.take(1).await.remove(0);
        assert!(begun.elapsed() >= Duration::from_millis(delay), "{:?}", begun.elapsed());
        assert_eq!(again.delivery, delivery);
        assert!(again.fence > before.fence, "P13");
        before = again;
    }
    // The old token is lost.
    let begun = tokio::time::Instant::now();
    member.nack(&before, Some(100), "").await;
    let again = member.take(1).await.remove(0);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let stale = Settlement { token: before.token.clone(), acks: vec![only(0)], ..Settlement::default() };
    let number = member.settle(stale).await;
    assert_eq!(member.results(number, 1).await, [SettlementResult::LeaseLost]);
    member.ack(&[again]).await;
}

#[tokio::test]
async fn a_record_that_fails_too_often_goes_to_the_dead_letter_topic() {
    let server = with_records("poison", 3).await;
    let settings = GroupSettings {
        deliveries_max: 2,
        dead_letter_topic: "graves".into(),
        poison: PoisonPolicy::DeadLetter.into(),
        ..GroupSettings::default()
    };
    create(&server, "poison", "workers", settings).await;
    let mut member = Member::open(&server, "poison", "workers", 10).await;
    let taken = member.take(3).await;
    member.ack(&taken[..1]).await;
    member.nack(&taken[1], None, "first").await;
    let again = member.take(1).await.remove(0);
    assert_eq!((again.offset, again.delivery), (1, 2));
    member.nack(&again, None, "the last straw").await;
    member.ack(&taken[2..]).await;
    let mut client = server.client().await;
    let dead = crate::harness::within(20, "the copy", async {
        loop {
            let status = get(&server, "poison", "workers").await.status.unwrap();
            if status.dead_lettered_records == 1 && status.lag_records == 0 {
                return read_all(&mut client, "graves").await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].text(), "r1");
    let header = |name: &str| dead[0].record.headers.get(name).cloned().unwrap_or_default();
    assert_eq!(header("streamway-topic"), "poison");
    assert_eq!(header("streamway-group"), "workers");
    assert_eq!(header("streamway-offset"), "1");
    assert_eq!(header("streamway-deliveries"), "2");
    assert_eq!(header("streamway-reason"), "the last straw");
    member.assert_nothing_for(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_session_is_taken_up_again_with_what_it_holds() {
    let server = with_records("sessions", 4).await;
    let grace = GroupSettings { session_grace: Some(millis(20_000)), ..GroupSettings::default() };
    create(&server, "sessions", "workers", grace).await;
    let mut member = Member::open(&server, "sessions", "workers", 3).await;
    let taken = member.take(3).await;
    let session = member.joined.session.clone();
    // The connection is cut off; another member gets what nobody holds.
    drop(member);
    let mut other = Member::open(&server, "sessions", "workers", 10).await;
    assert_eq!(offsets(&other.take(1).await), [3]);
    other.assert_nothing_for(Duration::from_millis(100)).await;
    let again = Join { session: session.clone(), ..join("sessions", "workers") };
    let mut member = Member::join(&server, again.clone()).await.unwrap();
    let held: Vec<_> = member.joined.held.iter().flat_map(|lease| lease.ranges.clone()).collect();
    assert_eq!(held.iter().map(|range| range.end - range.start).sum::<u64>(), 3, "{held:?}");
    member.ack(&taken[..2]).await;
    // The newest call of a session wins.
    let newest = Member::join(&server, again.clone()).await.unwrap();
    refused(&member.failure().await, Code::FailedPrecondition, "SESSION_TAKEN");
    newest.leave().await;
    assert_eq!(offsets(&other.take(1).await), [2], "leaving gives back at once");
    let Err(status) = Member::join(&server, again).await else { panic!("joined") };
    refused(&status, Code::FailedPrecondition, "SESSION_ENDED");
}

#[tokio::test]
async fn a_member_that_is_silent_loses_its_lease_unless_it_extends_it() {
    let server = with_records("deadlines", 2).await;
    let ack_deadline = Some(millis(1000));
    create(&server, "deadlines", "workers", GroupSettings { ack_deadline, ..GroupSettings::default() }).await;
    let mut member = Member::open(&server, "deadlines", "workers", 2).await;
    let taken = member.take(2).await;
    let extend = Extend { number: 9, token: taken[0].token.clone(), time: Some(millis(30_000)) };
    if taken[0].token == taken[1].token {
        // One lease: all of it is extended or none.
        let returned =
            Settlement { token: taken[1].token.clone(), returns: vec![only(1)], ..Settlement::default() };
        let number = member.settle(returned).await;
        assert_eq!(member.results(number, 1).await, [SettlementResult::Settled]);
    }
    member.send(Kind::Extend(extend)).await;
    member.credit(10).await;
    // What was given back comes again uncounted, and is lost after its deadline, which counts.
    let mut deliveries = vec![];
    while deliveries.last() != Some(&2) {
        let one = member.take(1).await.remove(0);
        assert_eq!(one.offset, 1, "the extended lease goes on");
        deliveries.push(one.delivery);
    }
    member.ack(&taken[..1]).await;
}

/// Restarts the server by a drain, and returns the session of a member that is told in-band.
async fn drained(server: &mut Server, mut member: Member) -> prost::bytes::Bytes {
    let told = tokio::spawn(async move {
        let status = member.failure().await;
        (member, status)
    });
    server.sigterm().await;
    let (member, status) = told.await.unwrap();
    assert_eq!(member.notices, [i32::from(Notice::Draining)], "told in-band first");
    refused(&status, Code::Unavailable, "SERVER_DRAINING");
    server.restart().await;
    member.joined.session
}

/// P8, P11, P12, P13: a member that takes its session up again after a drain goes on with what it holds, and nobody else
/// gets it.
#[tokio::test]
async fn members_keep_what_they_hold_over_drains() {
    let mut server = with_records("drained", 4).await;
    create(&server, "drained", "workers", GroupSettings::default()).await;
    let mut member = Member::open(&server, "drained", "workers", 4).await;
    let taken = member.take(4).await;
    for settled in 0..2 {
        member.ack(&taken[settled..=settled]).await;
        let session = drained(&mut server, member).await;
        let mut other = Member::open(&server, "drained", "workers", 10).await;
        other.assert_nothing_for(Duration::from_millis(100)).await;
        other.leave().await;
        member = Member::join(&server, Join { session, ..join("drained", "workers") }).await.unwrap();
        let held: Vec<_> = member.joined.held.iter().flat_map(|lease| lease.ranges.clone()).collect();
        let rest = streamway::proto::v1::OffsetRange { start: settled as u64 + 1, end: 4 };
        assert_eq!(held, [rest], "{:?}", member.joined);
        assert_eq!(member.joined.held[0].fence, taken[0].fence, "{:?}", member.joined);
    }
    let status = get(&server, "drained", "workers").await.status.unwrap();
    assert_eq!((status.member_count, status.leased_records, status.lag_records), (1, 2, 2), "{status:?}");
    // Its first token is as good as the one that the last Joined gave.
    member.nack(&taken[2], None, "tried").await;
    let returned = Settlement { token: member.joined.held[0].token.clone(), ..Settlement::default() };
    let number = member.settle(Settlement { returns: vec![only(3)], ..returned }).await;
    assert_eq!(member.results(number, 1).await, [SettlementResult::Settled]);
    member.credit(10).await;
    let mut again = member.take(2).await;
    again.sort_by_key(|one| one.offset);
    assert_eq!(again.iter().map(|one| (one.offset, one.delivery)).collect::<Vec<_>>(), [(2, 2), (3, 1)]);
}

/// P11: what no session takes up again after a drain comes again once the grace is over, uncounted.
#[tokio::test]
async fn what_nobody_takes_up_again_after_a_drain_is_free_after_the_grace() {
    let mut server = with_records("left", 2).await;
    let session_grace = Some(millis(1000));
    create(&server, "left", "workers", GroupSettings { session_grace, ..GroupSettings::default() }).await;
    let mut member = Member::open(&server, "left", "workers", 2).await;
    let taken = member.take(2).await;
    let session = drained(&mut server, member).await;
    let begun = tokio::time::Instant::now();
    let mut other = Member::open(&server, "left", "workers", 10).await;
    other.ack(&taken[..1]).await;
    let again = other.take(1).await.remove(0);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((again.offset, again.delivery), (1, 1));
    let Err(status) = Member::join(&server, Join { session, ..join("left", "workers") }).await else {
        panic!("joined")
    };
    refused(&status, Code::FailedPrecondition, "SESSION_ENDED");
}

#[tokio::test]
async fn records_are_leased_and_settled_without_an_open_call() {
    let server = with_records("unary", 5).await;
    create(&server, "unary", "cron", GroupSettings::default()).await;
    let mut client = groups(&server).await;
    let lease = |max_records: u32, wait: i64| LeaseRequest {
        topic: "unary".into(),
        group: "cron".into(),
        max_records,
        wait: Some(millis(wait)),
        ..LeaseRequest::default()
    };
    let leased = client.lease(lease(3, 5000)).await.unwrap().into_inner().leases;
    let settlements: Vec<_> = leased
        .iter()
        .enumerate()
        .map(|(number, lease)| Settlement {
            number: number as u64,
            token: lease.token.clone(),
            acks: lease
                .batches
                .iter()
                .map(|batch| {
                    let start = batch.first_offset;
                    streamway::proto::v1::OffsetRange { start, end: start + batch.records.len() as u64 }
                })
                .collect(),
            ..Settlement::default()
        })
        .collect();
    let request = SettleRequest { settlements, ..SettleRequest::default() };
    for _ in 0..2 {
        // Safe to repeat.
        let settled = client.settle(request.clone()).await.unwrap().into_inner();
        let results = settled.outcomes.iter().map(|outcome| outcome.result());
        assert!(results.into_iter().all(|result| result == SettlementResult::Settled), "{settled:?}");
    }
    let rest = client.lease(lease(1000, 5000)).await.unwrap().into_inner().leases;
    let count: usize = rest.iter().flat_map(|lease| &lease.batches).map(|batch| batch.records.len()).sum();
    assert_eq!(count, 2);
    // Nothing comes: the answer waits as long as it was asked to, and is empty.
    let begun = tokio::time::Instant::now();
    assert!(client.lease(lease(1, 200)).await.unwrap().into_inner().leases.is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(200));
    // A record that is published meanwhile ends the wait.
    let mut publisher = server.client().await;
    let (leased, _) =
        tokio::join!(client.lease(lease(1, 20_000)), published(&mut publisher, "unary", records("x", 1)));
    assert_eq!(leased.unwrap().into_inner().leases.len(), 1);
}

#[tokio::test]
async fn credit_bounds_what_a_member_holds_and_never_falls() {
    let server = with_records("credit", 20).await;
    let mut member = Member::open(&server, "credit", "workers", 3).await;
    member.take(3).await;
    // A lower total is ignored.
    member.credit(1).await;
    member.assert_nothing_for(Duration::from_millis(150)).await;
    member.credit(5).await;
    assert_eq!(offsets(&member.take(2).await), [3, 4]);
    member.assert_nothing_for(Duration::from_millis(100)).await;
}
