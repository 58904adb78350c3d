//! Compression of messages. Most clients announce that they accept gzip (those on grpc-core do by default), and the
//! server would have to compress every answer. Therefore a client requests compressed answers by compressing its own
//! messages, and gets answers in the same encoding, as with grpc-go.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::task::{Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;

use super::body_fn::body_fn;
use crate::wire::Wire;

/// Encodings that are accepted and offered.
pub const ENCODINGS: [CompressionEncoding; 2] = [CompressionEncoding::Gzip, CompressionEncoding::Zstd];
/// Header with the encoding of a request's or an answer's messages.
const ENCODING: &str = "grpc-encoding";
/// Header with the encodings that a client accepts.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// Minimum size in bytes of a message that is compressed. Smaller ones (heartbeats, receipts) gain nothing.
const COMPRESSED_MIN: usize = 512;
/// Fastest level: a message is compressed on an async worker, and the next levels take several times as long to save a
/// few percent.
const GZIP_LEVEL: u32 = 1;
/// Fastest level, likewise.
const ZSTD_LEVEL: i32 = 1;

/// Capacity of the buffer for decompression that a thread keeps between two messages.
const SCRATCH_MAX: usize = 256 << 10;

thread_local! {
    /// Buffer for decompression, because the size of a message is known only afterwards.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Leaves only the encoding that the client uses itself in the list of encodings that it accepts, because tonic answers
/// in the first of them.
pub(super) fn ask(headers: &mut HeaderMap) {
    let Some(accepted) = headers.remove(ACCEPT_ENCODING) else { return };
    let asked = headers.get(ENCODING).and_then(|asked| named(asked).map(|_| asked.clone()));
    let Some(asked) = asked else { return };
    let listed = accepted.to_str().is_ok_and(|list| list.split(',').any(|one| asked == one.trim()));
    if listed {
        headers.insert(ACCEPT_ENCODING, asked);
    }
}

/// Returns the encoding of a request's messages, or `None` if they are not compressed.
pub(super) fn of_request(headers: &HeaderMap) -> Option<CompressionEncoding> {
    headers.get(ENCODING).and_then(named)
}

/// Checks that the messages of a request are in an encoding that can be read.
///
/// # Errors
/// Fails if they are not. The status lists the encodings that can be read, as gRPC requires.
pub(super) fn check_request(headers: &HeaderMap) -> Result<(), Status> {
    let Some(encoding) = headers.get(ENCODING) else { return Ok(()) };
    if *encoding == "identity" || named(encoding).is_some() {
        return Ok(());
    }
    let name = String::from_utf8_lossy(encoding.as_bytes());
    let mut status =
        Status::unimplemented(format!("Content is compressed with `{name}` which isn't supported"));
    let [gzip, zstd] = ENCODINGS;
    if let Ok(accepted) = format!("{gzip},{zstd},identity").parse() {
        status.metadata_mut().insert(ACCEPT_ENCODING, accepted);
    }
    Err(status)
}

/// Decompresses the messages of a request that tonic is going to read, each of at most `bytes_max` bytes. tonic
/// decompresses the first member of a message and drops all that follows it.
pub(super) fn decompressed_request(request: Request<Body>, bytes_max: usize) -> Request<Body> {
    let Some(encoding) = of_request(request.headers()) else { return request };
    // The header may stay, because each message has a flag that tells that it is not compressed.
    request.map(|body| decompressed_body(body, encoding, bytes_max))
}

fn decompressed_body(body: Body, encoding: CompressionEncoding, bytes_max: usize) -> Body {
    let mut buffer = BytesMut::new();
    body_fn(body, move |mut body, cx| {
        loop {
            if let Some(message) = next_message(&mut buffer, encoding, bytes_max).transpose() {
                return Poll::Ready(Some(message.map(Frame::data)));
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => buffer.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                // tonic treats the remaining bytes as a message that was cut off.
                None if !buffer.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(buffer.split().freeze()))));
                }
                end => return Poll::Ready(end),
            }
        }
    })
}

/// Removes the next complete message from the buffer, and returns it decompressed, with its prefix.
fn next_message(
    buffer: &mut BytesMut,
    encoding: CompressionEncoding,
    bytes_max: usize,
) -> Result<Option<Bytes>, Status> {
    /// Length of the prefix of every gRPC message: the flag and the message's length.
    const PREFIX: usize = 5;
    let Some(&[flag, ref length @ ..]) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    let len = u32::from_be_bytes(*length) as usize;
    if len > bytes_max {
        // tonic refuses a message of this length as soon as it has read the prefix.
        return Ok(Some(buffer.split_to(PREFIX).freeze()));
    }
    if buffer.len() - PREFIX < len {
        return Ok(None);
    }
    let message = buffer.split_to(PREFIX + len);
    if flag != 1 {
        return Ok(Some(message.freeze()));
    }
    let plain = decompressed(&message[PREFIX..], encoding, bytes_max)?;
    let len = u32::try_from(plain.len()).map_err(|_| Status::internal("a message over 4 GiB"))?;
    let mut message = BytesMut::with_capacity(PREFIX + plain.len());
    message.put_u8(0);
    message.put_u32(len);
    message.put_slice(&plain);
    Ok(Some(message.freeze()))
}

/// Decompresses a message into a buffer of exactly its size.
///
/// # Errors
/// Fails if the message is not in this encoding, or is longer than `bytes_max`. The texts are tonic's, which `status`
/// recognises.
pub(super) fn decompressed(
    bytes: &[u8],
    encoding: CompressionEncoding,
    bytes_max: usize,
) -> Result<Bytes, Status> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        // One more byte shows that the message is longer.
        let read = decompress(bytes, encoding, bytes_max as u64 + 1, scratch);
        let plain = read.map(|()| (scratch.len() <= bytes_max).then(|| Bytes::copy_from_slice(scratch)));
        scratch.shrink_to(SCRATCH_MAX);
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

/// Decompresses all members or frames that follow one another. Other bytes after the last one are an error.
fn decompress(bytes: &[u8], encoding: CompressionEncoding, most: u64, out: &mut Vec<u8>) -> io::Result<()> {
    match encoding {
        CompressionEncoding::Gzip => {
            flate2::bufread::MultiGzDecoder::new(bytes).take(most).read_to_end(out)?
        }
        CompressionEncoding::Zstd => zstd::Decoder::with_buffer(bytes)?.take(most).read_to_end(out)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(())
}

/// Returns the encoding of the answer to a request with these headers, which [`ask`] has changed.
pub(super) fn of_answer(request: &HeaderMap) -> Option<CompressionEncoding> {
    request.get(ACCEPT_ENCODING).and_then(named)
}

/// Sets the header of an answer that names the encoding of its messages.
pub(super) fn set_encoding(answer: &mut HeaderMap, encoding: CompressionEncoding) {
    if let Ok(name) = HeaderValue::from_str(&encoding.to_string()) {
        answer.insert(ENCODING, name);
    }
}

fn named(name: &HeaderValue) -> Option<CompressionEncoding> {
    ENCODINGS.into_iter().find(|encoding| *name == encoding.to_string().as_str())
}

/// Appends the message compressed if that makes it smaller. Returns false if nothing was appended.
pub(super) fn put(message: &impl Wire, encoding: CompressionEncoding, out: &mut BytesMut) -> bool {
    let len = message.wire_len();
    if len < COMPRESSED_MIN {
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
    use super::{ACCEPT_ENCODING, ENCODING, ENCODINGS, ask, compress, decompressed};
    use bytes::BytesMut;
    use http::HeaderMap;
    use tonic::Code;

    #[test]
    fn all_members_of_a_message_are_decompressed_and_other_bytes_behind_them_are_refused() {
        for encoding in ENCODINGS {
            let mut twice = BytesMut::new();
            compress(b"one,", encoding, &mut twice).unwrap();
            let first = twice.len();
            compress(b"two", encoding, &mut twice).unwrap();
            assert_eq!(decompressed(&twice, encoding, 7).unwrap(), "one,two", "{encoding}");
            let status = decompressed(&twice, encoding, 6).unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{encoding}: {status}");
            for junk in [&b"\0"[..], b"junk", b"junk that is longer than any header", &twice[..first - 1]] {
                let bytes = [&twice[..first], junk].concat();
                let status = decompressed(&bytes, encoding, 100).unwrap_err();
                assert!(status.message().starts_with("Error decompressing"), "{encoding}: {status}");
            }
            assert!(decompressed(&twice[..first - 1], encoding, 100).is_err(), "{encoding}, cut off");
        }
    }

    #[test]
    fn answers_use_the_encoding_that_the_client_uses_and_accepts() {
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
