//! Groups out of a backup.

use std::time::Duration;

use super::world::about;
use crate::group::logic::{
    About, Done, Effect, Fence, GroupId, GroupState, KeyHash, Mark, Order, Piece, Span, TERMS_PER_RESTORE,
    Term, decode_part, encode_part,
};
use crate::record::{Epoch, UnixMicros};

const GROUP: GroupId = GroupId(7);

fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

/// Settled up to 10 but for 4 to 6, 8 is set aside, 5 failed twice.
fn state() -> GroupState {
    let mut state = GroupState::new(About { past_terms: Term(3), ..about(Order::Key) }, 0);
    let spans = vec![span(0, 4), span(6, 8), span(9, 10)];
    state.apply(&Effect::Settled { group: GROUP, how: Done::Acked, records: 7, spans });
    let (key, spans) = (Some(KeyHash(1)), vec![span(8, 9)]);
    state.apply(&Effect::Parked { group: GROUP, key, records: 1, spans });
    let mark = Mark { deliveries: 2, due: UnixMicros(9), delay_ms: 5, void_to: Fence(77) };
    state.apply(&Effect::Failed { group: GROUP, marks: vec![(span(5, 6), mark)] });
    state.apply(&Effect::Returned { group: GROUP, void_to: Fence(78), spans: vec![span(4, 5)] });
    state.void_to = Fence(60);
    state.redriven_to = 12;
    state
}

fn restored(state: &GroupState, cut: u64) -> GroupState {
    let parts: Vec<Piece> =
        state.parts().iter().map(|part| decode_part(&encode_part(part)).unwrap()).collect();
    GroupState::restored(&parts, Epoch::new(9), cut, Duration::ZERO).expect("parts of one group")
}

#[test]
fn what_was_settled_set_aside_and_failed_is_as_it_was() {
    let (before, after) = (state(), restored(&state(), 10));
    assert_eq!((&after.progress, &after.parked), (&before.progress, &before.parked));
    assert_eq!((after.parked_records, after.parked_keys), (1, before.parked_keys));
    // Fences of the time before name another epoch, and mean nothing here.
    let mark = Mark { void_to: Fence(0), ..before.marks.get(5).unwrap() };
    assert_eq!(after.marks.iter().collect::<Vec<_>>(), [(span(5, 6), mark)]);
    assert_eq!((after.void_to, after.redriven_to), (Fence(0), 0));
    assert_eq!((after.about.epoch, after.about.past_terms), (Epoch::new(9), Term(3 + TERMS_PER_RESTORE)));
}

/// P11: nothing that is stored at these offsets later is born settled.
#[test]
fn what_is_beyond_the_cut_is_unsettled() {
    for cut in 0..=10 {
        let (before, after) = (state(), restored(&state(), cut));
        for offset in 0..cut {
            assert_eq!(
                after.progress.is_settled(offset),
                before.progress.is_settled(offset),
                "{offset} {cut}"
            );
        }
        for offset in cut..12 {
            assert!(!after.progress.is_settled(offset), "{offset} of {cut}");
            assert!(!after.parked.contains(offset) && after.marks.get(offset).is_none(), "{offset} of {cut}");
        }
        assert_eq!(after.parked_records, u64::from(cut > 8));
        assert!(after.progress.floor() <= cut && after.progress.head() <= cut.max(after.progress.floor()));
    }
}

#[test]
fn parts_of_two_groups_are_no_state() {
    let parts = [state().parts(), GroupState::new(about(Order::None), 0).parts()].concat();
    assert!(GroupState::restored(&parts, Epoch::new(9), 10, Duration::ZERO).is_none());
    assert!(GroupState::restored(&[], Epoch::new(9), 10, Duration::ZERO).is_none());
    let many = About { past_terms: Term(Term::MAX.0 / 2), ..about(Order::None) };
    let parts = GroupState::new(many, 0).parts();
    assert!(
        GroupState::restored(&parts, Epoch::new(9), 10, Duration::ZERO).is_none(),
        "its fences could not rise"
    );
}

/// P13, for a store that keeps the highest fence: the older the backup, the more owners may have come after it.
#[test]
fn a_restore_leaves_terms_for_the_age_of_the_backup() {
    let about = About { past_terms: Term(3), ..about(Order::None) };
    let day = Duration::from_secs(86_400);
    let of = |age| about.past_terms_restored(age).map(|past| past.0 - 3);
    assert_eq!(of(Duration::ZERO), Some(TERMS_PER_RESTORE));
    assert_eq!(of(7 * day), Some(TERMS_PER_RESTORE + 7 * 24 * 60));
    assert!(of(3650 * day).is_some(), "ten years");
    assert_eq!((of(10_000 * day), of(Duration::MAX)), (None, None), "none are left for later owners");
    let state = GroupState::restored(&GroupState::new(about.clone(), 0).parts(), Epoch::new(9), 10, 7 * day);
    assert_eq!(state.unwrap().about.past_terms, about.past_terms_restored(7 * day).unwrap());
}

#[test]
fn fences_of_before_a_restore_are_lower_and_no_fences_of_an_owner() {
    let (past, fence) = (Term(TERMS_PER_RESTORE + 5), Fence::new(Term(1), 1));
    let seen = fence.after(past);
    assert!(seen > Fence::new(Term(TERMS_PER_RESTORE + 5), (1 << 40) - 1));
    assert_eq!(seen.since(past), Some(fence));
    assert_eq!(Fence::new(Term(5), 9).since(past), None);
}
