//! The framing of gRPC messages in a body: a prefix of five bytes before each, which tells its length.

/// Bytes of the flag (whether the message is compressed) and of the length before every message.
const PREFIX: usize = 5;

/// Follows a body from message to message, however its bytes are cut into frames.
#[derive(Debug, Default)]
pub(super) struct Framing {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that were received.
    known: usize,
    /// Bytes of the message that were not received yet.
    missing: usize,
}

impl Framing {
    /// Takes the bytes that belong to the current message, and returns how many of `bytes` these are.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let left = &bytes[taken..];
            if self.missing > 0 {
                let len = self.missing.min(left.len());
                self.missing -= len;
                taken += len;
            } else {
                let len = (PREFIX - self.known).min(left.len());
                self.prefix[self.known..self.known + len].copy_from_slice(&left[..len]);
                self.known += len;
                taken += len;
                if self.known == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    (self.known, self.missing) = (0, u32::from_be_bytes(length) as usize);
                }
            }
            if self.is_between() {
                break;
            }
        }
        taken
    }

    /// Returns true if all messages that began are complete.
    pub(super) const fn is_between(&self) -> bool {
        self.missing == 0 && self.known == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Framing, PREFIX};

    #[test]
    fn messages_end_where_their_lengths_say_however_they_are_cut() {
        let message = |len: u32| {
            let mut bytes = vec![0];
            bytes.extend(len.to_be_bytes());
            bytes.resize(PREFIX + len as usize, 7);
            bytes
        };
        let bytes: Vec<u8> = [3, 0, 1, 300, 0, 0, 7].into_iter().flat_map(message).collect();
        for size in 1..=bytes.len() {
            let (mut framing, mut ends, mut at) = (Framing::default(), Vec::new(), 0);
            for mut piece in bytes.chunks(size) {
                while !piece.is_empty() {
                    let taken = framing.take(piece);
                    at += taken;
                    piece = &piece[taken..];
                    if framing.is_between() {
                        ends.push(at);
                    }
                }
            }
            assert_eq!(ends, [8, 13, 19, 324, 329, 334, 346], "pieces of {size}");
        }
    }
}
