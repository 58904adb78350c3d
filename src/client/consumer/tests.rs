//! Tests of the decisions of a consumer, without a server.

use std::time::Instant;

use bytes::BytesMut;
use prost::Message;

use super::core::Core;
use super::options::ConsumerOptions;
use super::received::Rejection;
use crate::proto::v1;
use crate::proto::v1::consume_request::Kind;
use crate::proto::v1::{
    Credit, DeliveryOrder, Group, GroupSettings, Joined, OffsetRange, Outcome, Record, Revocation,
    Settlement, SettlementResult,
};
use crate::record::{Batch, BatchLimits, Offset, UnixMicros, block};
use crate::wire::{ConsumeResponse, Lease};

const MINUTE: Option<prost_types::Duration> = Some(prost_types::Duration { seconds: 60, nanos: 0 });

fn only(offset: u64) -> OffsetRange {
    OffsetRange { start: offset, end: offset + 1 }
}

/// A lease of records from `first` on with these keys.
fn lease(fence: u64, first: u64, keys: &[&str]) -> ConsumeResponse {
    let records: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| {
            Record { key: key.to_string().into(), value: "v".into(), ..Record::default() }.encode_to_vec()
        })
        .collect();
    let fields = block::records_fields(records.iter().map(Vec::as_slice));
    let batch = Batch::check(fields, BatchLimits::default()).unwrap();
    let mut out = BytesMut::new();
    block::encode(Offset::new(first), UnixMicros(1), &batch, &mut out);
    let rest =
        v1::Lease { fence, token: fence.to_string().into(), time_left: MINUTE, ..v1::Lease::default() };
    ConsumeResponse {
        leases: vec![Lease { batches: vec![out.freeze()], rest }],
        ..ConsumeResponse::default()
    }
}

/// A consumer that has joined a group.
fn core(order: DeliveryOrder, concurrency: usize) -> Core {
    let options = ConsumerOptions { concurrency, ..ConsumerOptions::new("t", "g") };
    let mut core = Core::new(&options);
    core.joined(&joined(order, vec![]), Instant::now());
    core
}

fn joined(order: DeliveryOrder, held: Vec<v1::Lease>) -> Joined {
    let settings = Some(GroupSettings { order: order.into(), ..GroupSettings::default() });
    Joined { group: Some(Group { settings, ..Group::default() }), held, ..Joined::default() }
}

fn receive(core: &mut Core, message: &ConsumeResponse) {
    core.receive(message, Instant::now()).unwrap();
}

/// Offsets of the records whose handlers begin.
fn started(core: &mut Core) -> Vec<u64> {
    std::iter::from_fn(|| core.start()).map(|record| record.offset().get()).collect()
}

fn sent(core: &mut Core) -> (Vec<Settlement>, Option<Credit>) {
    let (mut settlements, mut credit) = (Vec::new(), None);
    while core.has_request() {
        match core.request() {
            Some(Kind::Settlement(settlement)) => settlements.push(settlement),
            Some(Kind::Credit(more)) => credit = Some(more),
            other => panic!("{other:?}"),
        }
    }
    (settlements, credit)
}

fn answer(number: u64, offset: u64, result: SettlementResult) -> ConsumeResponse {
    let outcomes = vec![Outcome { number, range: Some(only(offset)), result: result.into() }];
    let rest = v1::ConsumeResponse { outcomes, ..v1::ConsumeResponse::default() };
    ConsumeResponse { rest, ..ConsumeResponse::default() }
}

#[test]
fn records_of_a_key_are_handled_one_after_another() {
    let mut core = core(DeliveryOrder::Key, 8);
    receive(&mut core, &lease(1, 0, &["a", "b", "a", "", ""]));
    assert_eq!(started(&mut core), [0, 1, 3, 4], "those without a key are in no order");
    core.finish(1, 1, Ok(()));
    assert!(started(&mut core).is_empty());
    core.finish(1, 0, Ok(()));
    assert_eq!(started(&mut core), [2]);
    let mut total = self::core(DeliveryOrder::Total, 8);
    receive(&mut total, &lease(1, 0, &["a", "b"]));
    assert_eq!(started(&mut total), [0]);
}

/// P14: what follows a record that was refused is handled after it, also what the server sent before it knew.
#[test]
fn what_follows_a_refused_record_is_given_back() {
    let mut core = core(DeliveryOrder::Key, 8);
    receive(&mut core, &lease(1, 0, &["a", "a"]));
    assert_eq!(started(&mut core), [0]);
    core.finish(1, 0, Err(Rejection::retry("x")));
    receive(&mut core, &lease(2, 5, &["a", "b"]));
    assert_eq!(started(&mut core), [6], "another key goes on");
    let settlements = sent(&mut core).0;
    assert_eq!((&settlements[0].nacks[0].range, &settlements[0].returns), (&Some(only(0)), &vec![only(1)]));
    assert_eq!(settlements[1].returns, [only(5)]);
    receive(&mut core, &answer(settlements[0].number, 0, SettlementResult::Settled));
    receive(&mut core, &lease(3, 0, &["a", "a"]));
    assert_eq!((started(&mut core), core.summary().refused), (vec![0], 1));
}

#[test]
fn the_result_of_a_handler_whose_lease_is_lost_is_dropped() {
    let mut core = core(DeliveryOrder::None, 1);
    receive(&mut core, &lease(1, 0, &["", ""]));
    let record = core.start().unwrap();
    let revocations = vec![Revocation { fence: 1, ranges: vec![OffsetRange { start: 0, end: 2 }] }];
    let rest = v1::ConsumeResponse { revocations, ..v1::ConsumeResponse::default() };
    receive(&mut core, &ConsumeResponse { rest, ..ConsumeResponse::default() });
    assert!(record.is_lost());
    core.finish(1, 0, Ok(()));
    assert!(started(&mut core).is_empty(), "what has not begun is not begun");
    assert!(sent(&mut core).0.is_empty());
    assert_eq!(core.summary().lost, 1);
}

#[test]
fn credit_is_what_may_be_held_and_a_stop_gives_the_rest_back() {
    let mut core = core(DeliveryOrder::None, 2);
    assert_eq!(sent(&mut core).1.unwrap().records, 3, "two at work and one ahead");
    receive(&mut core, &lease(1, 0, &["", "", ""]));
    assert_eq!((started(&mut core), sent(&mut core).1.map(|credit| credit.records)), (vec![0, 1], None));
    core.finish(1, 0, Ok(()));
    let (settlements, credit) = sent(&mut core);
    assert_eq!((&settlements[0].acks, credit), (&vec![only(0)], None));
    core.stop();
    let settlements = sent(&mut core).0;
    assert_eq!(settlements[0].returns, [only(2)], "what has not begun is given back");
    core.finish(1, 1, Ok(()));
    assert_eq!(sent(&mut core).1, None, "and nothing more is requested");
}

/// A session outlives its call: what was not answered is sent again under the new token.
#[test]
fn a_new_call_of_the_session_goes_on_where_the_last_one_broke() {
    let mut core = core(DeliveryOrder::None, 2);
    receive(&mut core, &lease(1, 0, &["", "", ""]));
    let records = [core.start().unwrap(), core.start().unwrap()];
    core.finish(1, 0, Ok(()));
    let number = sent(&mut core).0[0].number;
    let ranges = vec![OffsetRange { start: 1, end: 2 }, OffsetRange { start: 7, end: 9 }];
    let held = v1::Lease { fence: 1, token: "new".into(), time_left: MINUTE, ranges, ..v1::Lease::default() };
    core.joined(&joined(DeliveryOrder::None, vec![held]), Instant::now());
    assert!(!records[1].is_lost());
    let (settlements, credit) = sent(&mut core);
    assert_eq!(
        (settlements[0].number, &settlements[0].acks, &settlements[0].token[..]),
        (number, &vec![only(0)], &b"new"[..])
    );
    assert_eq!(settlements[1].returns, [OffsetRange { start: 7, end: 9 }], "what never came is given back");
    assert!(credit.is_some());
    assert!(started(&mut core).is_empty(), "the third record is not held any more");
    receive(&mut core, &answer(number, 0, SettlementResult::Settled));
    assert_eq!(core.summary().acknowledged, 1);
}
