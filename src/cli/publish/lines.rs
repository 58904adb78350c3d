//! Reading of lines on a thread of its own, a chunk of whole lines at a time.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// Size of one read, in bytes.
const READ: usize = 256 << 10;
/// Number of chunks read ahead.
const AHEAD: usize = 4;
/// Longest line, in bytes: far more than a server accepts in one message by default.
pub(super) const LINE_MAX: usize = 64 << 20;

/// Whole lines of the input.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    bytes: Bytes,
    /// Number of the first line, from 1.
    first: u64,
}

impl Chunk {
    /// The lines without their newlines, with their numbers from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut rest = self.bytes.clone();
        let mut number = self.first;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let line = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let line = rest.split_to(end);
                    let _newline = rest.split_to(1);
                    line
                }
                None => std::mem::take(&mut rest),
            };
            number += 1;
            Some((number - 1, line))
        })
    }

    /// The lines with their newlines.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The lines of a file or of standard input.
#[derive(Debug)]
pub(super) struct Lines {
    chunks: mpsc::Receiver<io::Result<Chunk>>,
}

impl Lines {
    /// Starts to read on a thread of its own.
    pub(super) fn read(input: Box<dyn Read + Send>) -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel(AHEAD);
        // A thread of the runtime would delay the exit, as a read of a terminal may block for ever.
        std::thread::Builder::new().name("lines".into()).spawn(move || read(input, &sender))?;
        Ok(Self { chunks })
    }

    /// Waits for the next chunk; none at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Chunk>> {
        self.chunks.recv().await.transpose()
    }
}

fn read(mut input: impl Read, chunks: &mpsc::Sender<io::Result<Chunk>>) {
    let (mut buffer, mut first) = (BytesMut::new(), 1);
    loop {
        let outcome = match fill(&mut input, &mut buffer) {
            Ok(0) if buffer.is_empty() => return,
            Ok(0) => Ok(buffer.split().freeze()),
            Ok(read) => match buffer[buffer.len() - read..].iter().rposition(|byte| *byte == b'\n') {
                Some(at) => Ok(buffer.split_to(buffer.len() - read + at + 1).freeze()),
                None if buffer.len() > LINE_MAX => {
                    Err(io::Error::other(format!("line {first} is longer than {LINE_MAX} bytes")))
                }
                None => continue,
            },
            Err(error) => Err(error),
        };
        let outcome = outcome.map(|bytes| {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            let chunk = Chunk { bytes, first };
            first += lines;
            chunk
        });
        let failed = outcome.is_err();
        if chunks.blocking_send(outcome).is_err() || failed {
            return;
        }
    }
}

/// Appends the bytes of one read, and returns their number; 0 at the end.
fn fill(input: &mut impl Read, buffer: &mut BytesMut) -> io::Result<usize> {
    let held = buffer.len();
    buffer.resize(held + READ, 0);
    let outcome = loop {
        match input.read(&mut buffer[held..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    buffer.truncate(held + outcome.as_ref().map_or(0, |read| *read));
    outcome
}

#[cfg(test)]
mod tests {
    use super::{Chunk, read};
    use std::io::Read;

    /// A reader that returns a few bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn lines(text: &'static str, step: usize) -> Vec<(u64, String)> {
        let (sender, mut chunks) = tokio::sync::mpsc::channel(1000);
        read(Dribble(text.as_bytes(), step), &sender);
        drop(sender);
        let chunks: Vec<Chunk> = std::iter::from_fn(|| chunks.blocking_recv()).map(Result::unwrap).collect();
        let lines = chunks.iter().flat_map(Chunk::lines);
        lines.map(|(number, line)| (number, String::from_utf8(line.to_vec()).unwrap())).collect()
    }

    #[test]
    fn lines_are_whole_and_numbered_however_they_arrive() {
        let expected: Vec<(u64, String)> =
            ["one", "", "three\r", "last"].iter().zip(1..).map(|(line, n)| (n, (*line).to_owned())).collect();
        for step in [1, 2, 3, 7, 100] {
            assert_eq!(lines("one\n\nthree\r\nlast", step), expected, "{step} bytes at a time");
            assert_eq!(lines("one\n\nthree\r\nlast\n", step), expected, "{step} bytes at a time");
        }
        assert_eq!(lines("", 1), []);
    }
}
