//! The lineage of a restored topic: the earlier incarnations whose records it holds, each up to a cut.

use std::sync::Arc;

use super::error::Error;
use crate::record::{Epoch, Offset, Position};

/// Largest number of earlier incarnations that a topic remembers.
pub const LINEAGE_MAX: usize = 16;

/// The largest cut. What is stored after it needs offsets too.
pub const CUT_MAX: Offset = Offset::new(1 << 62);

/// An earlier incarnation, whose records before `cut` have the same offsets in the restored topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The earlier incarnation.
    pub epoch: Epoch,
    /// Offset up to which its positions are valid.
    pub cut: Offset,
}

/// Earlier incarnations of a topic, the newest first. It is empty for a topic that was not restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage(Option<Arc<[Ancestor]>>);

impl Lineage {
    /// Checks the earlier incarnations, the newest first. A backup cannot hold more of an older incarnation than of
    /// the newest, so cuts must not rise.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn new(ancestors: Vec<Ancestor>) -> Result<Self, &'static str> {
        let is_distinct = |(at, one): (usize, &Ancestor)| {
            ancestors[..at].iter().all(|other| other.epoch != one.epoch && other.cut >= one.cut)
        };
        match ancestors.first() {
            None => Ok(Self::default()),
            Some(_) if ancestors.len() > LINEAGE_MAX => Err("more than 16 earlier incarnations"),
            Some(newest) if newest.cut > CUT_MAX => Err("a cut is larger than 2^62"),
            Some(_) if !ancestors.iter().enumerate().all(is_distinct) => {
                Err("an epoch occurs twice, or an older incarnation has a larger cut")
            }
            Some(_) => Ok(Self(Some(ancestors.into()))),
        }
    }

    /// The earlier incarnations, the newest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Offset up to which a backup is restored. A topic whose tail is before it is not complete yet.
    #[must_use]
    pub fn cut(&self) -> Offset {
        self.ancestors().first().map_or(Offset::ZERO, |newest| newest.cut)
    }

    /// Offset in the incarnation `current`, whose lineage this is, of a position in it or in an earlier one.
    ///
    /// # Errors
    /// [`Error::EpochChanged`]: the position is of another incarnation, or beyond the cut.
    pub fn offset(&self, current: Epoch, position: Position) -> Result<Offset, Error> {
        if position.epoch == current {
            return Ok(position.offset);
        }
        match self.ancestors().iter().find(|ancestor| ancestor.epoch == position.epoch) {
            Some(ancestor) if position.offset <= ancestor.cut => Ok(position.offset),
            Some(ancestor) => Err(Error::EpochChanged { current, resume: ancestor.cut }),
            // The records of an unrelated incarnation begin at the first offset there is.
            None => Err(Error::EpochChanged { current, resume: Offset::ZERO }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ancestor, Error, LINEAGE_MAX, Lineage};
    use crate::record::{Epoch, Offset, Position};

    fn lineage(cuts: &[(u64, u64)]) -> Result<Lineage, &'static str> {
        let one = |&(epoch, cut): &(u64, u64)| Ancestor { epoch: Epoch::new(epoch), cut: Offset::new(cut) };
        Lineage::new(cuts.iter().map(one).collect())
    }

    #[test]
    fn positions_up_to_the_cut_are_kept_and_later_ones_are_told_the_cut() {
        let lineage = lineage(&[(2, 90), (1, 50)]).unwrap();
        let current = Epoch::new(3);
        let at = |epoch, offset| {
            let position = Position { epoch: Epoch::new(epoch), offset: Offset::new(offset) };
            lineage.offset(current, position)
        };
        let changed = |resume| Err(Error::EpochChanged { current, resume: Offset::new(resume) });
        assert_eq!(at(3, 1000), Ok(Offset::new(1000)));
        assert_eq!([at(2, 0), at(2, 90), at(1, 50)].map(|offset| offset.unwrap().get()), [0, 90, 50]);
        assert_eq!([at(2, 91), at(1, 51), at(7, 0)], [changed(90), changed(50), changed(0)]);
        assert_eq!(lineage.cut(), Offset::new(90));
        assert_eq!(Lineage::default().cut(), Offset::ZERO);
    }

    #[test]
    fn a_lineage_is_bounded_and_its_cuts_do_not_rise() {
        let many: Vec<_> = (0..=LINEAGE_MAX as u64).map(|epoch| (epoch, 5)).collect();
        assert!(lineage(&many).is_err() && lineage(&many[1..]).is_ok());
        for bad in [&[(1, 5), (1, 4)][..], &[(1, 5), (2, 6)], &[(1, (1 << 62) + 1)]] {
            assert!(lineage(bad).is_err(), "{bad:?}");
        }
    }
}
