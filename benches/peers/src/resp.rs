//! The protocol of Redis: commands, and replies as they come.

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;

use crate::outcome::Outcome;

/// Maximum bytes of one read from the socket, and of commands that are written at once.
pub const READ_BYTES: usize = 256 << 10;

/// Appends a command.
pub fn command(parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reader of replies.
pub struct Replies {
    socket: OwnedReadHalf,
    bytes: BytesMut,
}

impl Replies {
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, bytes: BytesMut::with_capacity(READ_BYTES) }
    }

    async fn more(&mut self) -> Outcome<()> {
        self.bytes.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.bytes).await? {
            0 => Err("redis closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Returns the complete replies received so far, at least one.
    pub async fn take(&mut self, mut each: impl FnMut(&[&[u8]])) -> Outcome<u64> {
        loop {
            let (mut at, mut complete, mut replies) = (0, 0, 0);
            let mut leaves = Vec::new();
            while parse(&self.bytes, &mut at, &mut leaves)?.is_some() {
                each(&leaves);
                leaves.clear();
                replies += 1;
                complete = at;
            }
            drop(leaves);
            bytes::Buf::advance(&mut self.bytes, complete);
            if replies > 0 {
                return Ok(replies);
            }
            self.more().await?;
        }
    }
}

/// Parses one reply at `at` into its strings; `None` if it is incomplete.
fn parse<'a>(bytes: &'a [u8], at: &mut usize, leaves: &mut Vec<&'a [u8]>) -> Outcome<Option<()>> {
    let rest = &bytes[*at..];
    let Some(line_len) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = &rest[..line_len];
    *at += line_len + 2;
    let number = || std::str::from_utf8(&line[1..]).ok().and_then(|n| n.parse::<i64>().ok());
    match line.first() {
        Some(b'-') => return Err(String::from_utf8_lossy(line).into()),
        Some(b'$') => {
            let len = usize::try_from(number().ok_or("a reply without its length")?).unwrap_or(0);
            let Some(leaf) = bytes.get(*at..*at + len) else { return Ok(None) };
            if bytes.len() < *at + len + 2 {
                return Ok(None);
            }
            leaves.push(leaf);
            *at += len + 2;
        }
        Some(b'*') => {
            for _ in 0..number().ok_or("a reply without its length")? {
                if parse(bytes, at, leaves)?.is_none() {
                    return Ok(None);
                }
            }
        }
        _ => leaves.push(line),
    }
    Ok(Some(()))
}
