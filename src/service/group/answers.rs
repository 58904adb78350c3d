//! Answers to members: leases, outcomes and what else happened to them, as messages.

use std::time::Duration;

use super::{described, settings};
use crate::group::logic::{Fence, Outcome, Span};
use crate::group::{Held, Lag, Leased, Member};
use crate::proto::v1;
use crate::record::block::Blocks;
use crate::telemetry::{METRICS, trace};
use crate::wire::Lease;

/// Answers a Join.
pub(super) fn joined(member: &Member) -> v1::Joined {
    v1::Joined {
        session: member.session().0.to_be_bytes().to_vec().into(),
        group: Some(described::identity(member.info())),
        held: member.held().iter().map(held).collect(),
    }
}

fn held(held: &Held) -> v1::Lease {
    v1::Lease {
        token: held.token.clone(),
        fence: held.fence.0,
        time_left: Some(duration(held.left)),
        ranges: ranges(&held.spans),
        ..v1::Lease::default()
    }
}

/// Most records of a lease. A client may name any number of offsets as its own.
const LEASE_RECORDS_MAX: u64 = 1000;

/// Number of offsets in spans, which is that of records where each offset has one.
fn count(spans: impl IntoIterator<Item = Span>) -> u64 {
    spans.into_iter().map(|span| (span.end - span.start).min(LEASE_RECORDS_MAX)).sum()
}

/// Makes the message of a lease of a group around its stored batches.
pub(super) fn lease(leased: Leased, topic: &str, group: &str) -> Lease {
    if trace::is_on() {
        traced(&leased, topic, group);
    }
    METRICS.groups.leased.add(leased.records);
    METRICS.groups.redelivered.add(count(leased.redeliveries.iter().map(|(span, _)| *span)));
    let redeliveries = leased.redeliveries.iter();
    let redeliveries =
        redeliveries.map(|&(span, delivery)| v1::Redelivery { range: Some(range(span)), delivery });
    let rest = v1::Lease {
        token: leased.token,
        fence: leased.fence.0,
        time_left: Some(duration(leased.left)),
        redeliveries: redeliveries.collect(),
        ..v1::Lease::default()
    };
    Lease { batches: leased.batches, rest }
}

/// Records a span for each sampled batch of a lease.
fn traced(leased: &Leased, topic: &str, group: &str) {
    for block in leased.batches.iter().flat_map(|run| Blocks::new(run)).map_while(Result::ok) {
        if !block.may_be_traced() {
            continue;
        }
        if let Ok(traceparent) = std::str::from_utf8(block.traceparent()) {
            let first = block.first.get();
            let records = Span::new(first, first + block.count());
            let again = leased
                .redeliveries
                .iter()
                .filter(|(span, _)| records.is_some_and(|records| records.intersect(*span).is_some()));
            let delivery = again.map(|(_, delivery)| *delivery).max().unwrap_or(1);
            trace::leased(topic, group, delivery, traceparent, first, block.time().0);
        }
    }
}

/// Answers a settlement.
pub(super) fn outcomes(number: u64, outcomes: &[(Span, Outcome)]) -> impl Iterator<Item = v1::Outcome> {
    let of = |wanted| outcomes.iter().filter(move |(_, outcome)| *outcome == wanted).map(|(span, _)| *span);
    METRICS.groups.settled.add(count(of(Outcome::Settled)));
    METRICS.groups.lost.add(count(of(Outcome::LeaseLost)));
    outcomes.iter().map(move |&(span, outcome)| {
        let result = match outcome {
            Outcome::Settled => v1::SettlementResult::Settled,
            Outcome::LeaseLost => v1::SettlementResult::LeaseLost,
            Outcome::OutOfKeyOrder => v1::SettlementResult::OutOfKeyOrder,
        };
        v1::Outcome { number, range: Some(range(span)), result: result.into() }
    })
}

/// Answers an Extend.
pub(super) fn extension(number: u64, left: Option<Duration>) -> v1::Extension {
    v1::Extension { number, time_left: left.map(duration) }
}

/// Tells which records a member has lost.
pub(super) fn revocation(fence: Fence, spans: &[Span]) -> v1::Revocation {
    METRICS.groups.revoked.add(count(spans.iter().copied()));
    v1::Revocation { fence: fence.0, ranges: ranges(spans) }
}

/// Tells how far a group is behind.
pub(super) fn lag(lag: Lag) -> v1::GroupLag {
    v1::GroupLag { records: lag.records, age: lag.age.map(duration) }
}

fn ranges(spans: &[Span]) -> Vec<v1::OffsetRange> {
    spans.iter().copied().map(range).collect()
}

const fn range(span: Span) -> v1::OffsetRange {
    v1::OffsetRange { start: span.start, end: span.end }
}

fn duration(duration: Duration) -> prost_types::Duration {
    settings::duration(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
