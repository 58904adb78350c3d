//! Which answers are compressed, and how a message of a long answer is.
//! Never: compresses for a client that did not ask. Most say of themselves that they could read gzip
//! (those on grpc-core do by default), and would have the server pay for every answer; so a client
//! asks by compressing its own messages, and is answered in the same encoding, as by grpc-go.

use std::cell::RefCell;
use std::io::{self, Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;

use crate::wire::Wire;

/// What is accepted, and offered.
pub const ENCODINGS: [CompressionEncoding; 2] = [CompressionEncoding::Gzip, CompressionEncoding::Zstd];
/// What tonic calls the two headers.
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// Smaller messages (heartbeats, receipts) gain nothing.
const WORTH_IT: usize = 512;
/// The fastest levels: a message is compressed between two waits of an async worker, and the next
/// levels take several times as long for some percent.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// Room for a message being decompressed that a thread keeps until the next one.
const SCRATCH_KEPT: usize = 256 << 10;

thread_local! {
    /// Where a message is decompressed: how long it becomes is known only then.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Leaves in the request what the client asks for: tonic takes the first encoding it says it accepts.
pub(super) fn ask(headers: &mut HeaderMap) {
    let Some(accepted) = headers.remove(ACCEPT_ENCODING) else { return };
    let asked = headers.get(ENCODING).and_then(|asked| named(asked).map(|_| asked.clone()));
    let Some(asked) = asked else { return };
    let listed = accepted.to_str().is_ok_and(|list| list.split(',').any(|one| asked == one.trim()));
    if listed {
        headers.insert(ACCEPT_ENCODING, asked);
    }
}

/// How the messages of a request are encoded; tonic has refused what nobody here reads.
pub(super) fn of_request(metadata: &MetadataMap) -> Option<CompressionEncoding> {
    metadata.as_ref().get(ENCODING).and_then(named)
}

/// A message as it was before its compression, in a buffer of just its size.
///
/// # Errors
/// It is not compressed so, or longer than `bytes_max`. The words are tonic's, which the map of errors knows.
pub(super) fn decompressed(
    bytes: &[u8],
    encoding: CompressionEncoding,
    bytes_max: usize,
) -> Result<Bytes, Status> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        // One byte more, to see that there is more.
        let read = decompress(bytes, encoding, bytes_max as u64 + 1, scratch);
        let plain = read.map(|()| (scratch.len() <= bytes_max).then(|| Bytes::copy_from_slice(scratch)));
        scratch.shrink_to(SCRATCH_KEPT);
        match plain {
            Ok(Some(plain)) => Ok(plain),
            Ok(None) => Err(Status::resource_exhausted(format!(
                "Error decompressing: size limit, of {bytes_max} bytes, exceeded while decompressing message"
            ))),
            Err(error) => {
                Err(Status::internal(format!("Error decompressing: {error}, while sending request")))
            }
        }
    })
}

fn decompress(bytes: &[u8], encoding: CompressionEncoding, most: u64, out: &mut Vec<u8>) -> io::Result<()> {
    match encoding {
        CompressionEncoding::Gzip => flate2::bufread::GzDecoder::new(bytes).take(most).read_to_end(out)?,
        CompressionEncoding::Zstd => zstd::Decoder::with_buffer(bytes)?.take(most).read_to_end(out)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(())
}

/// How tonic said that the answer is encoded.
pub(super) fn of_answer(headers: &HeaderMap) -> Option<CompressionEncoding> {
    headers.get(ENCODING).and_then(named)
}

fn named(name: &HeaderValue) -> Option<CompressionEncoding> {
    ENCODINGS.into_iter().find(|encoding| *name == encoding.to_string().as_str())
}

/// Appends the message compressed, if that makes it smaller; else nothing, and says so.
pub(super) fn put(message: &impl Wire, encoding: CompressionEncoding, out: &mut BytesMut) -> bool {
    let len = message.wire_len();
    if len < WORTH_IT {
        return false;
    }
    let mut plain = BytesMut::with_capacity(len);
    message.put(&mut plain);
    let begin = out.len();
    let smaller = compress(&plain, encoding, out).is_ok() && out.len() - begin < len;
    if !smaller {
        out.truncate(begin);
    }
    smaller
}

fn compress(plain: &[u8], encoding: CompressionEncoding, out: &mut BytesMut) -> io::Result<()> {
    let out = out.writer();
    match encoding {
        CompressionEncoding::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            gzip.write_all(plain)?;
            gzip.finish()?;
        }
        CompressionEncoding::Zstd => {
            let mut zstd = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            zstd.write_all(plain)?;
            zstd.finish()?;
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ACCEPT_ENCODING, ENCODING, ask};
    use http::HeaderMap;

    #[test]
    fn only_what_a_client_compresses_itself_and_reads_is_answered() {
        for (encoding, accepts, left) in [
            (None, "identity, deflate, gzip", None),
            (Some("identity"), "gzip,zstd", None),
            (Some("gzip"), "identity, deflate, gzip", Some("gzip")),
            (Some("zstd"), "gzip,zstd,identity", Some("zstd")),
            (Some("zstd"), "gzip", None),
            (Some("deflate"), "identity, deflate, gzip", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, accepts.parse().unwrap());
            if let Some(encoding) = encoding {
                headers.insert(ENCODING, encoding.parse().unwrap());
            }
            ask(&mut headers);
            let found = headers.get(ACCEPT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!(found, left, "{encoding:?} {accepts}");
        }
    }
}
