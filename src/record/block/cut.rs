//! Cutting of runs of blocks at an offset.

use bytes::Bytes;

use super::blocks::{Block, Blocks};
use crate::record::Offset;
use crate::record::walk::Malformed;

/// The part of a run from the record at `from` on: a slice where a block begins there, else a re-encoded part of the
/// block that holds the record, followed by a slice. Empty pieces are left out.
///
/// # Errors
/// `run` is not a run of blocks.
pub fn starting_at(run: &Bytes, from: Offset) -> Result<Vec<Bytes>, Malformed> {
    // The block that holds `from` is the last one whose first offset is not above it.
    let mut holding: Option<Block<'_>> = None;
    for block in Blocks::new(run) {
        let block = block?;
        if block.first > from {
            break;
        }
        holding = Some(block);
    }
    let Some(block) = holding else { return Ok(vec![run.clone()]) };
    if block.first == from {
        return Ok(vec![run.slice(block.at..)]);
    }
    let part = block.part(from.since(block.first), u64::MAX);
    let rest = run.slice(block.at + block.bytes.len()..);
    Ok(part.into_iter().chain((!rest.is_empty()).then_some(rest)).collect())
}

/// The part of a run before the record at `to`, cut in the same way as by [`starting_at`].
///
/// # Errors
/// `run` is not a run of blocks.
pub fn ending_at(run: &Bytes, to: Offset) -> Result<Vec<Bytes>, Malformed> {
    let mut whole = 0;
    for block in Blocks::new(run) {
        let block = block?;
        if block.first >= to {
            break;
        }
        if block.first.plus(block.count()) > to {
            let part = block.part(0, to.since(block.first));
            let before = run.slice(..block.at);
            return Ok((!before.is_empty()).then_some(before).into_iter().chain(part).collect());
        }
        whole = block.at + block.bytes.len();
    }
    let kept = run.slice(..whole);
    Ok((!kept.is_empty()).then_some(kept).into_iter().collect())
}

/// The part of several consecutive runs from the record at `from` on.
///
/// # Errors
/// A run is not a run of blocks.
pub fn runs_starting_at(runs: &[Bytes], from: Offset) -> Result<Vec<Bytes>, Malformed> {
    let mut kept = Vec::with_capacity(runs.len() + 1);
    for (at, run) in runs.iter().enumerate() {
        // A run is dropped whole only where the next one begins at or before the offset.
        let following = runs.get(at + 1).and_then(|run| Blocks::new(run).next()).transpose()?;
        if following.is_some_and(|block| block.first <= from) {
            continue;
        }
        kept.extend(starting_at(run, from)?);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::{Blocks, ending_at, starting_at};
    use crate::record::block::{encode, encoded_len, records_fields};
    use crate::record::{Batch, BatchLimits, Offset, UnixMicros};
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A run of batches of the given record counts; record i is the number i.
    fn run(start: u64, counts: &[u8], trace: &str) -> Bytes {
        let (mut out, mut next) = (BytesMut::new(), start);
        for &count in counts {
            let payloads: Vec<Vec<u8>> = (0..u64::from(count))
                .map(|i| {
                    let mut record = Vec::new();
                    prost::encoding::bytes::encode(2, &(next + i).to_le_bytes().to_vec(), &mut record);
                    record
                })
                .collect();
            let fields = records_fields(payloads.iter().map(Vec::as_slice));
            let batch = Batch::check(fields, BatchLimits::default()).unwrap().with_traceparent(trace);
            let (first, time) = (Offset::new(next), UnixMicros(1_700_000_000_123_456 + next));
            let before = out.len();
            encode(first, time, &batch, &mut out);
            assert_eq!(out.len() - before, encoded_len(first, time, &batch));
            next += u64::from(count);
        }
        out.freeze()
    }

    /// Every record of these pieces as (offset by position, payload).
    fn flatten(pieces: &[Bytes]) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        for piece in pieces {
            for block in Blocks::new(piece) {
                let block = block.unwrap();
                for (i, record) in block.records().enumerate() {
                    let payload = u64::from_le_bytes(record[2..10].try_into().unwrap());
                    out.push((block.first.get() + i as u64, payload));
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_cut_holds_exactly_the_records_from_there_on(
            start in prop_oneof![Just(0_u64), 100..200_u64, Just(u64::from(u32::MAX))],
            counts in proptest::collection::vec(1..5_u8, 1..6),
            at in 0..20_u64, traced: bool,
        ) {
            let run = run(start, &counts, if traced { TRACE } else { "" });
            let end = start + counts.iter().map(|&c| u64::from(c)).sum::<u64>();
            let cut = Offset::new((start + at).min(end - 1));
            let tail = flatten(&starting_at(&run, cut).unwrap());
            prop_assert_eq!(tail, (cut.get()..end).map(|i| (i, i)).collect::<Vec<_>>());
            let head = flatten(&ending_at(&run, cut).unwrap());
            prop_assert_eq!(head, (start..cut.get()).map(|i| (i, i)).collect::<Vec<_>>());
            prop_assert_eq!(flatten(&ending_at(&run, Offset::new(end)).unwrap()).len() as u64, end - start);
        }
    }

    #[test]
    fn blocks_are_a_subscribe_response() {
        use prost::Message;
        let bytes = run(7, &[2, 1], TRACE);
        let message = crate::proto::v1::SubscribeResponse::decode(&bytes[..]).unwrap();
        assert_eq!(message.batches.len(), 2);
        assert_eq!(message.batches[0].first_offset, 7);
        assert_eq!(message.batches[0].records.len(), 2);
        assert_eq!(message.batches[1].traceparent, TRACE);
        let time = message.batches[1].publish_time.unwrap();
        assert_eq!((time.seconds, time.nanos), (1_700_000_000, 123_465_000));
    }

    #[test]
    fn a_part_of_a_batch_keeps_its_trace_and_time() {
        let bytes = run(7, &[3], TRACE);
        let pieces = starting_at(&bytes, Offset::new(8)).unwrap();
        let block = Blocks::new(&pieces[0]).next().unwrap().unwrap();
        assert_eq!((block.first.get(), block.traceparent()), (8, TRACE.as_bytes()));
        assert_eq!(block.time(), UnixMicros(1_700_000_000_123_463));
    }
}
