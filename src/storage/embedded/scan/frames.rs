//! Frames that are stored one after the other, some of which may be damaged. A frame counts as whole only if its
//! checksums match.

use bytes::Bytes;

use crate::record::Offset;
use crate::record::block::Blocks;
use crate::storage::embedded::catalog::SegmentEntry;
use crate::storage::embedded::frame::{BadFrame, HEADER_LEN, Header, Kind};
use crate::storage::embedded::segment;

/// Walks frames that are stored one after the other, from `at` on, and calls `found` with each. After a damaged frame
/// it continues by that frame's length if its header is whole, else at the next frame that is whole and that `fits`
/// accepts.
pub fn frames<'a>(
    bytes: &'a [u8],
    mut at: usize,
    fits: impl Fn(&Header) -> bool,
    mut found: impl FnMut(usize, Result<(Header, &'a [u8]), (BadFrame, Option<Header>)>),
) {
    let whole = |at: usize| Header::decode_frame(&bytes[at..]).ok().filter(|(header, _)| fits(header));
    while at < bytes.len() {
        if let Some(frame) = whole(at) {
            at += frame.0.frame_len();
            found(at - frame.0.frame_len(), Ok(frame));
            continue;
        }
        let header = Header::decode(&bytes[at..]).ok().filter(|header| fits(header));
        let fits_in = header.filter(|header| at + header.frame_len() <= bytes.len());
        match fits_in {
            Some(header) => {
                found(at, Err((BadFrame::Body, Some(header))));
                at += header.frame_len();
            }
            None => {
                let bad = if header.is_some() { BadFrame::Short } else { BadFrame::Header };
                found(at, Err((bad, header)));
                let rest = at + 1..bytes.len().saturating_sub(HEADER_LEN - 1);
                at = rest.into_iter().find(|at| whole(*at).is_some()).unwrap_or(bytes.len());
            }
        }
    }
}

/// True if the blocks match the header of their frame.
fn blocks_fit(header: &Header, blocks: &[u8]) -> bool {
    let (mut next, mut batches) = (header.first, 0);
    for block in Blocks::new(blocks) {
        match block {
            Ok(block) if block.first == next && block.count() > 0 => next = next.plus(block.count()),
            _ => return false,
        }
        batches += 1;
    }
    next == header.end && batches == header.batches
}

/// Returns the whole frames of a segment in the order of their offsets, and reports everything else to `damage`. A
/// frame whose offsets do not continue those of the frame before it is in a wrong place.
pub fn segment_frames(
    bytes: &[u8],
    topic: u64,
    entry: &SegmentEntry,
    mut damage: impl FnMut(usize, String),
) -> Vec<(Header, Bytes)> {
    let fits = |header: &Header| {
        header.kind == Kind::Batches
            && header.topic == topic
            && header.ids_len == 0
            && header.first.get() >= entry.base
            && header.end.get() <= entry.end
    };
    let (mut out, mut next) = (Vec::new(), Offset::new(entry.base));
    frames(bytes, segment::FILE_HEADER_LEN as usize, fits, |at, found| match found {
        Ok((header, blocks)) if blocks_fit(&header, blocks) => {
            if header.first != next {
                damage(at, format!("frame begins with offset {}, not {next}", header.first));
            }
            next = header.end;
            out.push((header, Bytes::copy_from_slice(blocks)));
        }
        Ok(_) => damage(at, "frame does not hold the batches it says".into()),
        Err((bad, _)) => damage(at, bad.to_string()),
    });
    out.sort_by_key(|(header, _)| header.first);
    out
}
