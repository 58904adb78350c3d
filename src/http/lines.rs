//! The lines of an NDJSON body as batches. What is kept of the body is one batch and one line.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::StatusCode;
use http_body::Body as _;
use tonic::Status;

use super::problem::Problem;
use crate::config::Config;
use crate::json;
use crate::wire::{IngestRequest, PublishRequest};

/// Most bytes of a batch: large enough to be cheap, and small enough to keep for each of many slow bodies.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches whose first lines are remembered: more than are ever published and not acknowledged.
const STARTS_MAX: usize = 4096;

/// Count of the bytes of a body that a route still holds. It is in the extensions of a request.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Fn(usize) + Send + Sync>>);

impl Held {
    /// Has `told` called with the number of bytes, each time that it has become less.
    pub fn new(told: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    fn tell(&self, bytes: usize) {
        if let Some(told) = &self.0 {
            told(bytes);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").finish()
    }
}

/// Rules by which lines become batches.
#[derive(Debug)]
pub struct BatchRules {
    topic: Box<str>,
    request_id: Box<str>,
    expected_offset: Option<u64>,
    records_max: usize,
    bytes_max: usize,
    line_max: usize,
}

impl BatchRules {
    /// Makes the rules for a topic. Batch n has the request id `KEY/n`, and the first one the expected offset.
    #[must_use]
    pub fn of(config: &Config, topic: Box<str>, request_id: Box<str>, expected_offset: Option<u64>) -> Self {
        Self {
            topic,
            request_id,
            expected_offset,
            records_max: config.batch_records_max as usize,
            bytes_max: (config.batch_bytes_max as usize).min(BATCH_BYTES_MAX),
            line_max: config.message_bytes_max,
        }
    }
}

/// Batches of the lines of a body. It ends at the first bad line, whose batch is not published.
#[derive(Debug)]
pub struct Batches {
    body: Body,
    held: Held,
    rules: BatchRules,
    /// Bytes that are not cut into lines.
    rest: BytesMut,
    /// Bytes at the start of `rest` without a newline.
    searched: usize,
    /// The body has ended.
    ended: bool,
    /// Lines read, which is the number of the last one.
    lines: u64,
    /// Encoded records of the next batch.
    fields: BytesMut,
    count: usize,
    first_line: u64,
    /// Batches made.
    batches: u64,
    /// Records of these.
    records: u64,
    /// Records before each of the last batches, and its first line.
    starts: VecDeque<(u64, u64)>,
    problem: Option<Problem>,
}

impl Batches {
    /// Reads the batches of a body, and tells what is held of it.
    #[must_use]
    pub fn new(body: Body, held: Held, rules: BatchRules) -> Self {
        Self {
            body,
            held,
            rules,
            rest: BytesMut::new(),
            searched: 0,
            ended: false,
            lines: 0,
            fields: BytesMut::new(),
            count: 0,
            first_line: 1,
            batches: 0,
            records: 0,
            starts: VecDeque::new(),
            problem: None,
        }
    }

    /// Takes the reason why the lines ended early.
    pub const fn take_problem(&mut self) -> Option<Problem> {
        self.problem.take()
    }

    /// Returns the first line of the batch that so many records come before.
    #[must_use]
    pub fn line_of(&self, records: u64) -> Option<u64> {
        self.starts.iter().find(|(before, _)| *before == records).map(|(_, line)| *line)
    }

    /// Takes the next line; none until more of the body is read.
    fn next_line(&mut self) -> Option<Bytes> {
        match self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.rest.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                Some(line)
            }
            None if self.ended && !self.rest.is_empty() => {
                self.searched = 0;
                Some(std::mem::take(&mut self.rest).freeze())
            }
            None => {
                self.searched = self.rest.len();
                None
            }
        }
    }

    /// Adds a line to the batch, and returns the batch before it if that was full.
    fn add(&mut self, line: &[u8]) -> Result<Option<IngestRequest>, Problem> {
        self.lines += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let record = json::line(line).map_err(|why| self.bad_line(StatusCode::BAD_REQUEST, &why))?;
        let len = record.field_len();
        let full = self.count >= self.rules.records_max || self.fields.len() + len > self.rules.bytes_max;
        let before = if full && self.count > 0 { Some(self.take_batch()) } else { None };
        if self.count == 0 {
            self.first_line = self.lines;
        }
        record.put_field(&mut self.fields);
        self.count += 1;
        Ok(before)
    }

    fn bad_line(&self, status: StatusCode, why: &str) -> Problem {
        let why = format!("line {}: {why}", self.lines);
        Problem::new(status, "MALFORMED_MESSAGE", why).with("line", self.lines.to_string())
    }

    fn take_batch(&mut self) -> IngestRequest {
        self.batches += 1;
        if self.starts.len() == STARTS_MAX {
            self.starts.pop_front();
        }
        self.starts.push_back((self.records, self.first_line));
        self.records += self.count as u64;
        self.count = 0;
        let request_id = match &*self.rules.request_id {
            "" => "".into(),
            key => format!("{key}/{}", self.batches).into(),
        };
        let expected_offset = self.rules.expected_offset.take();
        let topic = if self.batches == 1 { self.rules.topic.clone() } else { "".into() };
        let records = self.fields.split().freeze();
        let publish = PublishRequest { topic, request_id, records, expected_offset, traceparent: "".into() };
        IngestRequest { publish: Some(publish) }
    }

    fn end(&mut self, problem: Problem) -> Poll<Option<Result<IngestRequest, Status>>> {
        (self.problem, self.ended) = (Some(problem), true);
        self.rest.clear();
        (self.count, self.searched) = (0, 0);
        Poll::Ready(None)
    }
}

impl Stream for Batches {
    type Item = Result<IngestRequest, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            while let Some(line) = this.next_line() {
                match this.add(&line) {
                    Ok(None) => {}
                    Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                    Err(problem) => return this.end(problem),
                }
            }
            if this.rest.len() > this.rules.line_max {
                this.lines += 1;
                let problem = Problem::body_too_large(this.rules.line_max).with(
                    "detail",
                    format!("line {} is longer than {} bytes", this.lines, this.rules.line_max),
                );
                let line = this.lines.to_string();
                return this.end(problem.with("line", line));
            }
            if this.ended {
                return Poll::Ready((this.count > 0).then(|| Ok(this.take_batch())));
            }
            this.held.tell(this.rest.len() + this.fields.len());
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => this.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return this.end(Problem::of_body(&error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchRules, Batches, Held};
    use axum::body::Body;
    use futures_util::StreamExt;

    fn rules(records_max: usize, bytes_max: usize) -> BatchRules {
        let (topic, request_id) = ("t".into(), "key".into());
        BatchRules { topic, request_id, expected_offset: Some(7), records_max, bytes_max, line_max: 64 }
    }

    fn pieces(text: &'static str, len: usize) -> Body {
        let pieces: Vec<_> = text.as_bytes().chunks(len).map(Ok::<_, std::io::Error>).collect();
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn batches_depend_on_the_lines_and_not_on_how_they_arrive() {
        let text = "{\"value\":\"a\"}\n\n{\"value\":\"b\"}\r\n{\"value\":\"c\"}\n{\"value\":\"d\"}";
        let mut all = Vec::new();
        for len in [1, 7, 1000] {
            let mut batches = Batches::new(pieces(text, len), Held::default(), rules(3, 1000));
            let made: Vec<_> = batches.by_ref().map(|batch| batch.unwrap().publish.unwrap()).collect().await;
            assert!(batches.take_problem().is_none());
            assert_eq!((made.len(), batches.line_of(0), batches.line_of(3)), (2, Some(1), Some(5)));
            assert_eq!((&*made[0].request_id, &*made[1].request_id), ("key/1", "key/2"));
            assert_eq!((made[0].expected_offset, made[1].expected_offset), (Some(7), None));
            all.push(made);
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]));
    }

    #[tokio::test]
    async fn a_batch_is_cut_by_its_bytes_and_nothing_follows_a_bad_line() {
        let text = "{\"value\":\"aaaaaaaa\"}\n{\"value\":\"b\"}\n{\"value\":\"c\"}\n{\"valeu\":1}\n{\"value\":\"d\"}";
        let mut batches = Batches::new(pieces(text, 1000), Held::default(), rules(1000, 12));
        let made: Vec<_> = batches.by_ref().collect().await;
        assert_eq!(made.len(), 1, "the batch of the bad line is not published");
        let problem = batches.take_problem().unwrap().to_json();
        assert_eq!(problem["line"], "4", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("unknown field `valeu`"), "{problem}");
    }

    #[tokio::test]
    async fn a_line_that_does_not_end_is_too_long() {
        let text = "{\"value\":\"a\"}\n{\"value\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let mut batches = Batches::new(pieces(text, 10), Held::default(), rules(1000, 1000));
        assert!(batches.next().await.is_none());
        let problem = batches.take_problem().unwrap();
        assert_eq!((problem.status().as_u16(), &problem.to_json()["line"]), (413, &"2".into()));
    }
}
