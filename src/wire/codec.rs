//! The codec of every call, for the hand-written and the generated messages. Decoded records are slices of the
//! received bytes.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::record::walk::Malformed;

/// Prefix of the status message for a message that cannot be decoded; the error layer adds the details.
pub const MALFORMED: &str = "malformed message";

/// A message that [`Codec`] encodes and decodes.
pub trait Wire: Sized + Send + 'static {
    /// Number of bytes that [`Self::put`] writes.
    fn wire_len(&self) -> usize;
    /// Writes the message.
    fn put(&self, out: &mut impl BufMut);
    /// Reads the message.
    ///
    /// # Errors
    /// The bytes are not a message of this type.
    fn parse(bytes: Bytes) -> Result<Self, Malformed>;
}

impl<M: prost::Message + Default + 'static> Wire for M {
    fn wire_len(&self) -> usize {
        self.encoded_len()
    }

    fn put(&self, out: &mut impl BufMut) {
        self.encode_raw(out);
    }

    fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        Self::decode(bytes).map_err(|_| Malformed("not of this type"))
    }
}

/// A codec that encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Initial size of a call's buffers, in bytes. An idle subscription holds one for as long as it lasts, and every
/// message reserves what it needs.
const BUFFER_START: usize = 64;
/// Size up to which messages that are ready are sent together, in bytes. Smaller groups would cost a system call and
/// a wake-up each.
const BUFFER_YIELD: usize = 32 << 10;

impl<T: Wire + Sync, U: Wire + Sync> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Codec<T, U>;
    type Decoder = Codec<T, U>;

    fn encoder(&mut self) -> Self::Encoder {
        Self::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<T: Wire, U> Encoder for Codec<T, U> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.reserve(item.wire_len());
        item.put(dst);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_START, BUFFER_YIELD)
    }
}

impl<T, U: Wire> Decoder for Codec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = src.copy_to_bytes(src.remaining());
        match U::parse(bytes) {
            Ok(message) => Ok(Some(message)),
            Err(Malformed(reason)) => Err(Status::invalid_argument(format!("{MALFORMED}: {reason}"))),
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_START, BUFFER_YIELD)
    }
}
