//! Code shared by the adapters of Streamway and of the limit: channels, and a reader that skips over the fields of a delivery
//! like the readers of the other protocols.

use bytes::{Buf, Bytes};
use futures_util::Stream;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::outcome::Outcome;
use crate::pace::Seen;
use crate::peer::Decode;
use crate::proto::v1::SubscribeResponse;

/// Largest accepted message; Streamway's own limit is 4 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

pub async fn channel(port: u16) -> Outcome<Channel> {
    Ok(Endpoint::try_from(format!("http://127.0.0.1:{port}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(64 << 20)
        .tcp_nodelay(true)
        .connect()
        .await?)
}

/// Starts a server-streaming call whose answers are not decoded.
pub async fn deliveries<T: prost::Message + 'static>(
    channel: Channel,
    path: &'static str,
    request: T,
) -> Outcome<Streaming<Bytes>> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    Ok(grpc
        .server_streaming(Request::new(request), path, PassThrough(std::marker::PhantomData))
        .await?
        .into_inner())
}

/// Starts a bidirectional call whose answers are not decoded.
pub async fn exchange<T: prost::Message + 'static>(
    channel: Channel,
    path: &'static str,
    requests: Request<impl Stream<Item = T> + Send + 'static>,
) -> Outcome<Streaming<Bytes>> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    Ok(grpc.streaming(requests, path, PassThrough(std::marker::PhantomData)).await?.into_inner())
}

/// Counts an encoded `SubscribeResponse`.
pub fn count(delivery: Bytes, decode: Decode) -> Outcome<Seen> {
    let mut seen = Seen::default();
    match decode {
        Decode::Walk => walk(&delivery, 0, &mut seen)?,
        Decode::Typed => {
            let delivery = SubscribeResponse::decode(delivery)?;
            for record in delivery.batches.iter().flat_map(|batch| &batch.records) {
                seen.value(&record.value);
            }
        }
    }
    Ok(seen)
}

/// Fields on the way to a value: SubscribeResponse.batches, RecordBatch.records, Record.value.
const WAY: [u64; 3] = [1, 3, 2];

fn walk(mut bytes: &[u8], depth: usize, seen: &mut Seen) -> Outcome<()> {
    while let Some((number, field)) = next_field(&mut bytes)? {
        match field {
            Field::Bytes(value) if number == WAY[depth] && depth + 1 == WAY.len() => seen.value(value),
            Field::Bytes(inner) if number == WAY[depth] => walk(inner, depth + 1, seen)?,
            _ => {}
        }
    }
    Ok(())
}

/// A field of an encoded message.
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes the next field of an encoded message, with its number.
pub fn next_field<'a>(bytes: &mut &'a [u8]) -> Outcome<Option<(u64, Field<'a>)>> {
    if !bytes.has_remaining() {
        return Ok(None);
    }
    let key = prost::encoding::decode_varint(bytes)?;
    let field = match key & 7 {
        0 => Field::Number(prost::encoding::decode_varint(bytes)?),
        2 => {
            let len = prost::encoding::decode_varint(bytes)? as usize;
            let (inner, rest) = bytes.split_at_checked(len).ok_or("a message is cut")?;
            *bytes = rest;
            Field::Bytes(inner)
        }
        _ => return Err("a message has a field of another kind".into()),
    };
    Ok(Some((key >> 3, field)))
}

struct PassThrough<T>(std::marker::PhantomData<T>);

impl<T: prost::Message + 'static> Codec for PassThrough<T> {
    type Encode = T;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(std::marker::PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: prost::Message> Encoder for PassThrough<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.encoded_len());
        item.encode_raw(out);
        Ok(())
    }
}

impl<T> Decoder for PassThrough<T> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}
