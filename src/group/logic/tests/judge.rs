//! The judge of a group's history. It orders leases by their fences.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::logic::{Fence, GroupState, HandedLease, SessionId};

/// What is known of one record.
#[derive(Clone, Debug, Default)]
struct History {
    /// Highest fence under which an owner of the newest term leased it.
    newest: Fence,
    /// Session and fence of the lease that has not ended, as far as anybody was told.
    holder: Option<(SessionId, Fence)>,
    /// True from a handover of the lease on: it goes on in the next term.
    is_handed_over: bool,
    /// True while the holder is cut off, so that nobody tells it what it loses.
    is_cut_off: bool,
    /// Fences whose acknowledgement was sent.
    acked: BTreeSet<Fence>,
    /// Those that the current owner got and did not refuse.
    pending: BTreeSet<Fence>,
    /// Fences under which its member gave it up after such an acknowledgement.
    given_up: BTreeSet<Fence>,
    /// Highest fence at the time of the first confirmation.
    confirmed: Option<Fence>,
    /// True if it may be settled without an acknowledgement: by its copy in the dead letter topic, or by a seek.
    is_exempt: bool,
}

/// The judge.
#[derive(Clone, Debug, Default)]
pub(super) struct Judge {
    records: BTreeMap<u64, History>,
    /// Number of judged leases of records and confirmations, so that a test can see that it tested something.
    pub leased: u64,
    pub confirmed: u64,
    pub late: u64,
}

impl Judge {
    /// A record was leased. `earlier` are the earlier records of its lane, and `state` is what is durable.
    pub(super) fn lease(
        &mut self,
        offset: u64,
        lease: (Fence, SessionId),
        is_current: bool,
        earlier: &[u64],
        state: &GroupState,
    ) -> Result<(), String> {
        let (fence, session) = lease;
        let newest = self.records.entry(offset).or_default().newest;
        if !is_current {
            // A former owner's lease may arrive late; it has the lower fence wherever there is another one.
            self.late += 1;
            return Ok(());
        }
        self.leased += 1;
        if fence <= newest {
            return Err(format!("{offset}: fence {fence:?} does not rise over {newest:?}"));
        }
        if let Some(at) = self.records[&offset].confirmed
            && fence > at
        {
            return Err(format!("P12: {offset} was confirmed at {at:?}, and leased with {fence:?}"));
        }
        if state.progress.is_settled(offset) {
            return Err(format!("P12: {offset} is settled, and leased with {fence:?}"));
        }
        if let Some((other, old)) = self.records[&offset].holder
            && (old.term() == fence.term() || self.records[&offset].is_handed_over)
            && !self.records[&offset].is_cut_off
        {
            return Err(format!(
                "P13: {offset} is leased with {fence:?} while {other:?} holds it with {old:?}"
            ));
        }
        for before in earlier {
            let is_held = self.records.get(before).and_then(|record| record.holder);
            let is_handed_over = self.records.get(before).is_some_and(|record| record.is_handed_over);
            let by_same = is_held.is_some_and(|(holder, old)| {
                holder == session && old <= fence && (old.term() == fence.term() || is_handed_over)
            });
            if !state.progress.is_settled(*before) && !by_same {
                return Err(format!("P14: {offset} is leased before {before}, held by {is_held:?}"));
            }
        }
        let record = self.records.entry(offset).or_default();
        (record.newest, record.holder) = (fence, Some((session, fence)));
        (record.is_cut_off, record.is_handed_over) = (false, false);
        Ok(())
    }

    /// The owner told a member that a lease of a record ended.
    pub(super) fn ended(&mut self, offset: u64, fence: Fence) {
        if let Some(record) = self.records.get_mut(&offset)
            && record.holder.is_some_and(|(_, of)| of == fence)
        {
            record.holder = None;
        }
    }

    /// A member gave a record up, unless it acknowledged it before.
    pub(super) fn given_up(&mut self, offset: u64, fence: Fence) {
        let Some(record) = self.records.get_mut(&offset) else {
            return;
        };
        if record.pending.contains(&fence) {
            record.given_up.insert(fence);
        } else {
            self.ended(offset, fence);
        }
    }

    /// Another owner takes over, with these leases if they were handed over.
    pub(super) fn taken_over(&mut self, leases: Option<&[HandedLease]>) {
        for (offset, record) in &mut self.records {
            record.is_handed_over = record.holder.is_some_and(|(_, fence)| {
                let has = |lease: &HandedLease| {
                    lease.fence == fence && lease.spans.iter().any(|span| span.contains(*offset))
                };
                leases.is_some_and(|leases| leases.iter().any(has))
            });
        }
    }

    /// All leases of a session ended.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        for record in self.records.values_mut() {
            if record.holder.is_some_and(|(of, _)| of == session) {
                record.holder = None;
            }
        }
    }

    /// A session is cut off.
    pub(super) fn cut_off(&mut self, session: SessionId) {
        for record in self.records.values_mut() {
            record.is_cut_off |= record.holder.is_some_and(|(of, _)| of == session);
        }
    }

    /// A session was taken up again, with what it still holds.
    pub(super) fn taken_up(&mut self, session: SessionId, leases: &[HandedLease]) {
        for (offset, record) in &mut self.records {
            let Some((_, fence)) = record.holder.filter(|(of, _)| *of == session) else {
                continue;
            };
            let is_held = |lease: &HandedLease| {
                lease.fence == fence && lease.spans.iter().any(|span| span.contains(*offset))
            };
            if leases.iter().any(is_held) {
                record.is_cut_off = false;
                continue;
            }
            // It is lost or, if it was acknowledged, settled: the answer will say which.
            if record.pending.contains(&fence) {
                record.given_up.insert(fence);
            } else {
                record.holder = None;
            }
        }
    }

    /// A member sent an acknowledgement.
    pub(super) fn acked(&mut self, offset: u64, fence: Fence, is_current: bool) {
        let record = self.records.entry(offset).or_default();
        record.acked.insert(fence);
        if is_current {
            record.pending.insert(fence);
        }
    }

    /// An acknowledgement was refused.
    pub(super) fn refused(&mut self, offset: u64, fence: Fence) {
        if let Some(record) = self.records.get_mut(&offset) {
            record.pending.remove(&fence);
            if record.given_up.contains(&fence) {
                self.ended(offset, fence);
            }
        }
    }

    pub(super) fn dead_lettered(&mut self, offset: u64) {
        self.records.entry(offset).or_default().is_exempt = true;
    }

    /// An acknowledgement was confirmed.
    pub(super) fn confirmed(
        &mut self,
        offset: u64,
        fence: Fence,
        state: &GroupState,
        is_undone: bool,
    ) -> Result<(), String> {
        self.confirmed += 1;
        let record = self.records.entry(offset).or_default();
        if !state.progress.is_settled(offset) {
            return Err(format!("P12: {offset} is confirmed and not durable"));
        }
        if is_undone {
            return Ok(());
        }
        let by_newest = record.acked.range(record.newest..).next().is_some() || record.is_exempt;
        if record.confirmed.is_none() && !by_newest {
            return Err(format!("P13: {offset} is settled with {fence:?}, newest is {:?}", record.newest));
        }
        record.confirmed.get_or_insert(record.newest);
        Ok(())
    }

    /// A seek: nothing that was promised of the records holds any more, and those before `to` are settled.
    pub(super) fn sought(&mut self, to: u64) {
        for record in self.records.values_mut() {
            *record = History { newest: record.newest, ..History::default() };
        }
        for offset in 0..to {
            self.records.entry(offset).or_default().is_exempt = true;
        }
    }
}

#[test]
fn doctored_histories_are_refused() {
    use crate::group::logic::tests::world::about;
    use crate::group::logic::{Order, Span, Term};
    let fence = |term, n| Fence::new(Term(term), n);
    let open = GroupState::new(about(Order::Key), 0);
    let mut settled = open.clone();
    settled.progress.settle(Span { start: 0, end: 1 });
    let (anna, ben) = (SessionId(1), SessionId(2));
    let mut judge = Judge::default();
    judge.lease(0, (fence(1, 1), anna), true, &[], &open).unwrap();
    let expect = |result: Result<(), String>, promise: &str| {
        let error = result.expect_err(promise);
        assert!(error.contains(promise), "{error}");
    };
    expect(judge.clone().lease(0, (fence(1, 2), ben), true, &[], &open), "P13");
    expect(judge.clone().lease(0, (fence(1, 1), ben), true, &[], &open), "does not rise");
    expect(judge.clone().lease(1, (fence(1, 2), ben), true, &[0], &open), "P14");
    judge.clone().lease(1, (fence(1, 2), anna), true, &[0], &open).unwrap();
    expect(judge.clone().confirmed(0, fence(1, 1), &open, false), "P12");
    let mut again = judge.clone();
    again.lease(0, (fence(2, 1), ben), true, &[], &open).unwrap();
    expect(again.confirmed(0, fence(1, 1), &settled, false), "P13");
    judge.acked(0, fence(1, 1), true);
    judge.confirmed(0, fence(1, 1), &settled, false).unwrap();
    expect(judge.clone().lease(0, (fence(2, 1), ben), true, &[], &open), "P12");
    judge.lease(0, (fence(1, 1), ben), false, &[], &open).unwrap();
    assert_eq!(judge.late, 1);
}
