//! The first bytes of a connection. They are read before HTTP/2 waits for them, so that a silent peer is detected, and
//! are put back by [`super::PrefixedIo`].

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Beginnings of a request of HTTP/1.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// Bytes read from a connection before it is served.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::server) struct Preface {
    bytes: [u8; PREFACE.len()],
    len: u8,
}

impl Preface {
    /// Reads the whole preface, or up to a byte that does not belong to it, or to the peer's end.
    pub(in crate::server) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut preface = Self::default();
        while preface.is_preface() && preface.bytes().len() < PREFACE.len() {
            let read = stream.read(&mut preface.bytes[usize::from(preface.len)..]).await?;
            if read == 0 {
                break;
            }
            preface.len += u8::try_from(read).expect("at most the length of the preface");
        }
        Ok(preface)
    }

    /// The bytes that were read.
    pub(in crate::server) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Returns true if the peer speaks HTTP/2, as far as it has sent anything.
    pub(in crate::server) fn is_preface(&self) -> bool {
        PREFACE.starts_with(self.bytes())
    }

    /// Returns true if the peer speaks HTTP/1, as far as it has sent anything.
    pub(in crate::server) fn is_http1(&self) -> bool {
        let said = self.bytes();
        let begins = |method: &&[u8]| method.starts_with(said) || said.starts_with(method);
        !said.is_empty() && METHODS.iter().any(begins)
    }

    /// Returns true if the peer has sent the whole preface, and nothing else.
    pub(in crate::server) fn is_whole_preface(&self) -> bool {
        self.bytes() == PREFACE
    }
}

#[cfg(test)]
mod tests {
    use super::{PREFACE, Preface};
    use tokio::io::AsyncWriteExt;

    async fn read(pieces: &[&[u8]]) -> Preface {
        let (mut peer, mut stream) = tokio::io::duplex(64);
        let said = async {
            for piece in pieces {
                peer.write_all(piece).await.unwrap();
            }
            drop(peer);
        };
        tokio::join!(Preface::read(&mut stream), said).0.unwrap()
    }

    #[tokio::test]
    async fn the_preface_is_read_in_pieces_and_nothing_behind_it() {
        let preface = read(&[&PREFACE[..3], &PREFACE[3..], b"S"]).await;
        assert!(preface.is_whole_preface());
    }

    #[tokio::test]
    async fn another_protocol_is_detected_at_its_first_byte() {
        let preface = read(&[b"GET / HTTP/1.1\r\n\r\n"]).await;
        assert!(!preface.is_preface() && preface.is_http1());
        assert!(read(&[b"P", b"OST / HTTP/1.1\r\n"]).await.is_http1(), "as the preface begins");
        assert!(!read(&[b"\x16\x03\x01\x00"]).await.is_http1(), "TLS");
        let silent = read(&[]).await;
        assert!(silent.bytes().is_empty() && !silent.is_http1());
    }
}
