//! A set of offsets that takes 4 bytes a span.

use std::collections::BTreeMap;

use super::ids::Span;

/// Offsets of one chunk: 65,536, so that a place in a chunk takes 2 bytes.
const CHUNK_BITS: u32 = 16;
const LAST: u64 = (1 << CHUNK_BITS) - 1;

/// A set of offsets: for each chunk its spans, in order and apart, by the first and the last offset of each. A set is
/// compact if its spans are short or few; a span of n offsets takes n / 65,536 entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    chunks: BTreeMap<u64, Vec<(u16, u16)>>,
}

impl Spans {
    /// Adds a span.
    pub fn insert(&mut self, span: Span) {
        for (chunk, first, last) in pieces(span) {
            insert_into(self.chunks.entry(chunk).or_default(), first, last);
        }
    }

    /// Removes a span; what of it is not in the set is ignored.
    pub fn remove(&mut self, span: Span) {
        let (from, to) = (span.start >> CHUNK_BITS, (span.end - 1) >> CHUNK_BITS);
        let mut emptied = Vec::new();
        for (&chunk, spans) in self.chunks.range_mut(from..=to) {
            let base = chunk << CHUNK_BITS;
            let first = span.start.saturating_sub(base).min(LAST) as u16;
            let last = (span.end - 1 - base).min(LAST) as u16;
            remove_from(spans, first, last);
            if spans.is_empty() {
                emptied.push(chunk);
            }
        }
        for chunk in emptied {
            self.chunks.remove(&chunk);
        }
    }

    /// Returns true if the set holds `offset`.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        let place = (offset & LAST) as u16;
        self.chunks.get(&(offset >> CHUNK_BITS)).is_some_and(|spans| {
            let at = spans.partition_point(|span| span.1 < place);
            spans.get(at).is_some_and(|span| span.0 <= place)
        })
    }

    /// Smallest offset of the set that is not below `from`.
    #[must_use]
    pub fn next_from(&self, from: u64) -> Option<u64> {
        let mut below = from;
        for (&chunk, spans) in self.chunks.range(from >> CHUNK_BITS..) {
            let base = chunk << CHUNK_BITS;
            let place = below.saturating_sub(base).min(LAST) as u16;
            let at = spans.partition_point(|span| span.1 < place);
            if let Some(span) = spans.get(at) {
                return Some(base + u64::from(span.0.max(place)));
            }
            below = base + LAST + 1;
        }
        None
    }

    /// Returns true if the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The longest spans that cover the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.within(Span { start: 0, end: u64::MAX })
    }

    /// The longest spans that cover what of the set lies in `bounds`, in order.
    pub fn within(&self, bounds: Span) -> impl Iterator<Item = Span> + '_ {
        let chunks = self.chunks.range(bounds.start >> CHUNK_BITS..=(bounds.end - 1) >> CHUNK_BITS);
        let mut parts = chunks
            .flat_map(|(&chunk, spans)| {
                let base = chunk << CHUNK_BITS;
                spans.iter().map(move |&(first, last)| Span {
                    start: base + u64::from(first),
                    end: base + u64::from(last) + 1,
                })
            })
            .filter_map(move |span| span.intersect(bounds))
            .peekable();
        std::iter::from_fn(move || {
            let mut span = parts.next()?;
            while let Some(next) = parts.next_if(|next| next.start == span.end) {
                span.end = next.end;
            }
            Some(span)
        })
    }

    /// Memory of the entries, in bytes, without that of the tree over the chunks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.chunks.values().map(|spans| spans.capacity() * 4).sum()
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<T: IntoIterator<Item = Span>>(spans: T) -> Self {
        let mut set = Self::default();
        spans.into_iter().for_each(|span| set.insert(span));
        set
    }
}

/// The parts of a span in the chunks, as chunk, first and last place.
fn pieces(span: Span) -> impl Iterator<Item = (u64, u16, u16)> {
    let (from, to) = (span.start >> CHUNK_BITS, (span.end - 1) >> CHUNK_BITS);
    (from..=to).map(move |chunk| {
        let first = if chunk == from { span.start & LAST } else { 0 };
        let last = if chunk == to { (span.end - 1) & LAST } else { LAST };
        (chunk, first as u16, last as u16)
    })
}

/// Adds a span to a chunk, and merges it with those that it overlaps or touches.
fn insert_into(spans: &mut Vec<(u16, u16)>, first: u16, last: u16) {
    let from = spans.partition_point(|span| u32::from(span.1) + 1 < u32::from(first));
    let to = spans.partition_point(|span| u32::from(span.0) <= u32::from(last) + 1);
    if from >= to {
        spans.insert(from, (first, last));
        return;
    }
    spans[from] = (first.min(spans[from].0), last.max(spans[to - 1].1));
    spans.drain(from + 1..to);
}

fn remove_from(spans: &mut Vec<(u16, u16)>, first: u16, last: u16) {
    let from = spans.partition_point(|span| span.1 < first);
    let to = spans.partition_point(|span| span.0 <= last);
    if from >= to {
        return;
    }
    let before = (spans[from].0 < first).then(|| (spans[from].0, first - 1));
    let after = (spans[to - 1].1 > last).then(|| (last + 1, spans[to - 1].1));
    spans.splice(from..to, before.into_iter().chain(after));
}

#[cfg(test)]
mod tests {
    use super::{Span, Spans};
    use proptest::prelude::*;

    #[test]
    fn a_long_run_of_lone_offsets_takes_few_bytes_each() {
        let offsets = (0..1_000_000).map(|i| Span { start: 2 * i, end: 2 * i + 1 });
        let set: Spans = offsets.collect();
        assert!(set.bytes() <= 8_000_000, "{}", set.bytes());
    }

    /// Offsets beside `base` that the model knows.
    const WIDTH: usize = 200_000;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        #[test]
        fn a_set_of_spans_is_a_set_of_offsets(
            base in prop_oneof![Just(0_u64), Just(65_500), Just(1 << 40)],
            steps in proptest::collection::vec((any::<bool>(), 0..90_usize, 1..40_usize, any::<bool>()), 1..25),
        ) {
            let (mut spans, mut model) = (Spans::default(), vec![false; WIDTH]);
            for (is_insert, start, len, is_long) in steps {
                let end = start + if is_long { len * 4000 } else { len };
                let span = Span { start: base + start as u64, end: base + end as u64 };
                model[start..end].fill(is_insert);
                if is_insert { spans.insert(span) } else { spans.remove(span) }
                let next = (start..WIDTH).find(|&at| model[at]).map(|at| base + at as u64);
                prop_assert_eq!(spans.next_from(span.start), next);
                prop_assert_eq!(spans.contains(span.start), model[start]);
            }
            let listed: Vec<Span> = spans.iter().collect();
            prop_assert!(listed.windows(2).all(|pair| pair[0].end < pair[1].start), "{listed:?}");
            let of = |spans: &[Span]| {
                let mut offsets = vec![false; WIDTH];
                for span in spans {
                    offsets[(span.start - base) as usize..(span.end - base) as usize].fill(true);
                }
                offsets
            };
            prop_assert!(of(&listed) == model);
            let bounds = Span { start: base + 30, end: base + 66_000 };
            let part: Vec<Span> = spans.within(bounds).collect();
            model[..30].fill(false);
            model[66_000..].fill(false);
            prop_assert!(of(&part) == model);
        }
    }
}
