//! The load of a benchmark over the HTTP listener, by hand-written HTTP/1: a client library's own work would be a large part of
//! what is measured. Publishers post NDJSON, one request a batch; subscribers follow as NDJSON or server-sent events.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::listener::Web;
use super::publishing::Clock;
use super::reading::{MISSING_AFTER, Published, Seen};
use super::run::{Latencies, Run};
use super::stamp::Stamp;
use crate::cli::Failure;

/// Bytes that are read at a time: what a subscriber gets within a few milliseconds at full speed.
const READ_BYTES: usize = 256 << 10;
/// Bytes of an answer that is read whole.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Time that the server has to answer a request.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Start of a record's line, up to its value. The stamp has no character that JSON escapes.
const VALUE: &[u8] = b"\"value\":\"";

/// An open subscription.
pub(super) type Follower = BufReader<TcpStream>;

impl Web {
    async fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.at).await?;
        stream.set_nodelay(true)?;
        Ok(BufReader::with_capacity(READ_BYTES, stream))
    }

    /// Follows a topic from its tail on. HTTP/1.0 has no chunks, so that what comes are the lines alone.
    pub(super) async fn follow(&self, topic: &str) -> Result<Follower, Failure> {
        let accept = if self.events { "text/event-stream" } else { "application/x-ndjson" };
        let mut stream = self.connect().await?;
        let request = format!(
            "GET /v1/topics/{topic}/records?from=latest&follow HTTP/1.0\r\nhost: {}\r\naccept: {accept}\r\n\r\n",
            self.at
        );
        stream.write_all(request.as_bytes()).await?;
        answered(head(&mut stream)).await?;
        Ok(stream)
    }

    /// Publishes until the run is over, and returns the number of acknowledged records.
    pub(super) async fn publish(&self, run: Arc<Run>, publisher: u32) -> Result<u64, Failure> {
        let (mut stream, mut latencies) = (self.connect().await?, Latencies::local());
        let mut clock = Clock::start(&run, publisher);
        let (mut sequence, mut body, mut request) = (0, String::new(), String::new());
        while let Some(due_nanos) = clock.next().await {
            let end = sequence + u64::from(run.plan.batch);
            body.clear();
            for sequence in sequence..end {
                let value = Stamp { run: run.id, publisher, sequence, due_nanos }.text(run.plan.size);
                let _ = writeln!(body, "{{\"value\":\"{value}\"}}");
            }
            request.clear();
            let _ = write!(
                request,
                "POST /v1/topics/{}/records HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-ndjson\r\n\
                 content-length: {}\r\n\r\n{body}",
                run.plan.topic,
                self.at,
                body.len()
            );
            stream.write_all(request.as_bytes()).await?;
            answered(head(&mut stream)).await?;
            let now = run.now();
            let measured = run.is_measured(now);
            run.acknowledged.add(end - sequence, measured);
            if measured {
                latencies.saturating_record(now.saturating_sub(due_nanos).max(1));
            }
            sequence = end;
        }
        run.acknowledging.add(&latencies);
        Ok(sequence)
    }
}

/// Waits for an answer, but not for ever.
async fn answered(answer: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let late = || Failure::failed("the HTTP listener does not answer");
    tokio::time::timeout(ANSWER_MAX, answer).await.map_err(|_| late())?
}

/// Reads the head of an answer 200, and its body if that has a length.
async fn head(stream: &mut Follower) -> Result<(), Failure> {
    let (mut status, mut len) = (String::new(), None);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(Failure::failed("the HTTP listener closed the connection"));
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse::<u64>().ok();
        }
        if status.is_empty() {
            status = line;
        }
    }
    let is_ok = status.split(' ').nth(1) == Some("200");
    let mut body = Vec::new();
    if let Some(len) = len {
        stream.take(len.min(ANSWER_BYTES_MAX)).read_to_end(&mut body).await?;
    }
    if is_ok {
        return Ok(());
    }
    Err(Failure::failed(format!("{status}: {}", String::from_utf8_lossy(&body).trim_end())))
}

/// Follows the topic until everything acknowledged has been received.
pub(super) async fn follow(
    run: Arc<Run>,
    mut stream: Follower,
    mut published: watch::Receiver<Published>,
) -> Result<(), Failure> {
    let (mut seen, mut latencies, mut line) = (Seen::new(&run), Latencies::local(), Vec::new());
    let end = loop {
        let end = published.borrow_and_update().clone();
        if let Some(published) = end.as_ref().filter(|published| seen.has_all(published)) {
            break Arc::clone(published);
        }
        let read = tokio::select! {
            read = stream.fill_buf() => read?,
            _ = published.changed(), if end.is_none() => continue,
            () = tokio::time::sleep(MISSING_AFTER), if end.is_some() => &[],
        };
        if read.is_empty() {
            break end.unwrap_or_default();
        }
        let (now, len) = (run.now(), read.len());
        let (measured, mut count) = (run.is_measured(now), 0);
        for piece in read.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.last() != Some(&b'\n') {
                continue;
            }
            if let Some(stamp) = stamp(&line)
                && seen.note(stamp)
            {
                count += 1;
                if measured {
                    latencies.saturating_record(now.saturating_sub(stamp.due_nanos).max(1));
                }
            }
            line.clear();
        }
        stream.consume(len);
        run.delivered.add(count, measured);
    };
    run.delivering.add(&latencies);
    seen.close(&end);
    Ok(())
}

/// Finds the stamp in the line of a record. The line begins with the offset and a time, so the value is within its first bytes.
fn stamp(line: &[u8]) -> Option<Stamp> {
    /// Bytes before the value: those of the longest offset, the time and the names.
    const BEFORE_MAX: usize = 128;
    let begin = line.get(..line.len().min(BEFORE_MAX))?;
    let at = begin.windows(VALUE.len()).position(|window| window == VALUE)?;
    Stamp::read_text(&line[at + VALUE.len()..])
}

#[cfg(test)]
mod tests {
    use super::{Stamp, Web, stamp};

    #[test]
    fn the_stamp_is_found_in_lines_and_events() {
        let stamped = Stamp { run: 7, publisher: 3, sequence: 5, due_nanos: 12_345 };
        let line =
            format!("{{\"offset\":\"7\",\"publish_time\":\"x\",\"value\":\"{}\"}}\n", stamped.text(100));
        assert_eq!(stamp(line.as_bytes()), Some(stamped));
        assert_eq!(stamp(format!("data: {line}").as_bytes()), Some(stamped));
        for other in ["\n", "id: 0_7\n", "{\"heartbeat\":{}}\n", "{\"value\":\"short\"}\n"] {
            assert_eq!(stamp(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_listener_is_named_by_its_url() {
        assert_eq!(Web::at("http://localhost:8080/").unwrap().at, "localhost:8080");
        for bad in
            ["localhost:8080", "https://localhost:8080", "http://localhost", "http://localhost:8080/v1"]
        {
            assert!(Web::at(bad).is_err(), "{bad}");
        }
    }
}
