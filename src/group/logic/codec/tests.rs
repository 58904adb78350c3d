//! Round trips and damaged bytes.

use proptest::prelude::*;

use super::{Undecodable, decode, encode};
use crate::group::logic::{
    About, Command, CommandId, Done, Effect, Fence, GroupId, GroupName, GroupState, HandedLease, KeyHash,
    Mark, Order, Piece, Poison, SessionId, Settings, Span, Term,
};
use crate::record::{Epoch, TopicName, UnixMicros};

fn spans() -> impl Strategy<Value = Vec<Span>> {
    proptest::collection::vec((0..1_u64 << 40, 1..1_u64 << 20), 0..5).prop_map(|steps| {
        let mut at = 0;
        let next = |(gap, len)| {
            let start = at + gap;
            at = start + len;
            Span { start, end: at }
        };
        steps.into_iter().map(next).collect()
    })
}

fn marks() -> impl Strategy<Value = Vec<(Span, Mark)>> {
    (spans(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(spans, deliveries, due, fence)| {
        let mark = Mark { deliveries, due: UnixMicros(due), delay_ms: due / 7, void_to: Fence(fence) };
        spans.into_iter().map(|span| (span, mark)).collect()
    })
}

fn piece() -> impl Strategy<Value = Piece> {
    (spans(), marks(), any::<u64>(), any::<bool>(), any::<u32>()).prop_map(|(open, marks, n, flag, small)| {
        Piece {
            about: About {
                topic: TopicName::parse("orders").unwrap(),
                epoch: Epoch::new(n),
                name: GroupName::parse("b").unwrap(),
                created: UnixMicros(n),
                past_terms: Term(n % 1000),
                settings: Settings {
                    order: if flag { Order::Key } else { Order::Total },
                    poison: if flag { Poison::Hold } else { Poison::ParkKey },
                    backoff_ms: vec![n, 1],
                    deliveries_max: small,
                    dead_letter_topic: flag.then(|| TopicName::parse("dead").unwrap()),
                    ..Settings::default()
                },
            },
            head: n,
            void_to: Fence(n),
            dead_lettered: n,
            skipped: 1,
            parked_records: 2,
            redriven_to: 9,
            parked: open.clone(),
            open,
            marks,
            parked_keys: vec![KeyHash(n)],
        }
    })
}

fn effects() -> impl Strategy<Value = Effect> {
    let group = GroupId(u64::MAX);
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(t, number)| Effect::Own {
            after: CommandId { term: Term(t), number },
            owner: number / 2
        }),
        Just(Effect::Renew),
        (any::<u32>(), any::<bool>(), piece()).prop_map(move |(part, is_last, piece)| {
            Effect::State { group, part, is_last, piece: Box::new(piece) }
        }),
        Just(Effect::Removed { group }),
        (spans(), any::<u64>(), 0..3_usize).prop_map(move |(spans, records, how)| {
            Effect::Settled {
                group,
                how: [Done::Acked, Done::DeadLettered, Done::Skipped][how],
                records,
                spans,
            }
        }),
        marks().prop_map(move |marks| Effect::Failed { group, marks }),
        (spans(), any::<u64>()).prop_map(move |(spans, n)| Effect::Returned {
            group,
            void_to: Fence(n),
            spans
        }),
        any::<u64>().prop_map(move |to| Effect::Sought { group, to, void_to: Fence(to) }),
        (spans(), any::<Option<u64>>()).prop_map(move |(spans, key)| Effect::Parked {
            group,
            key: key.map(KeyHash),
            records: 3,
            spans
        }),
        (spans(), any::<u64>()).prop_map(move |(spans, n)| Effect::Reopened {
            group,
            void_to: Fence(n),
            redriven_to: n,
            spans
        }),
        any::<u64>().prop_map(move |n| Effect::Unparked { group, void_to: Fence(n) }),
        (spans(), any::<u128>()).prop_map(move |(spans, session)| Effect::Handover {
            leases: vec![HandedLease {
                group,
                session: SessionId(session),
                fence: Fence(5),
                left_ms: 6,
                spans
            }]
        }),
    ]
}

proptest! {
    #[test]
    fn commands_round_trip_and_every_cut_is_refused(
        effect in effects(), term in 0..1_u64 << 24, number in 1..u64::MAX,
    ) {
        let command = Command { id: CommandId { term: Term(term), number }, effect };
        let bytes = encode(&command);
        prop_assert_eq!(decode(&bytes), Ok(command));
        for end in 0..bytes.len() {
            prop_assert!(decode(&bytes[..end]).is_err(), "cut at {}", end);
        }
        prop_assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_mean_one_command(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(command) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&command)), Ok(command));
        }
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let renew = Command { id: CommandId { term: Term(1), number: 1 }, effect: Effect::Renew };
    let mut bytes = encode(&renew);
    bytes[0] = 3;
    assert_eq!(decode(&bytes), Err(Undecodable::Version(3)));
    bytes[..2].copy_from_slice(&[2, 99]);
    assert!(matches!(decode(&bytes), Err(Undecodable::Malformed(_))));
}

/// The format is stored, so that these bytes must be read for ever.
#[test]
fn the_bytes_of_a_version_do_not_change() {
    let id = CommandId { term: Term(2), number: 300 };
    let spans = vec![Span { start: 10, end: 12 }, Span { start: 15, end: 16 }];
    let settled = Effect::Settled { group: GroupId(7), how: Done::Acked, records: 3, spans };
    let command = Command { id, effect: settled };
    let mut bytes = encode(&command);
    assert_eq!(bytes, [2, 5, 2, 0xac, 2, 7, 3, 2, 10, 2, 3, 1]);
    bytes[0] = 1;
    assert_eq!(decode(&bytes), Ok(command));
}

/// Servers that could not restore groups wrote no number of past terms.
#[test]
fn a_group_of_version_1_is_read() {
    let about = About {
        topic: TopicName::parse("orders").unwrap(),
        epoch: Epoch::new(1),
        name: GroupName::parse("b").unwrap(),
        created: UnixMicros(77),
        past_terms: Term(0),
        settings: Settings { order: Order::Key, ..Settings::default() },
    };
    let piece = GroupState::new(about, 5).parts().remove(0);
    let effect = Effect::State { group: GroupId(7), part: 0, is_last: true, piece: Box::new(piece) };
    let command = Command { id: CommandId { term: Term(1), number: 2 }, effect };
    let mut bytes = encode(&command);
    let at = bytes.windows(3).position(|window| window == [77, 0, 1]).expect("created, past terms, order");
    bytes.remove(at + 1);
    assert!(decode(&bytes).is_err(), "of version 2, it is damaged");
    bytes[0] = 1;
    assert_eq!(decode(&bytes), Ok(command));
}
