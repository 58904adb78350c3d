//! Server-sent events: what `new EventSource(url)` gets, across restarts and drains.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::make::{published, records};
use crate::harness::web::ask;
use crate::harness::{Server, within};

/// A block of an event stream.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<String>,
    name: Option<String>,
    data: Option<String>,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().expect("data")).expect("JSON")
    }
}

/// A reader of an event stream that behaves as an EventSource does.
struct Events {
    stream: BufReader<TcpStream>,
    head: String,
    /// Id of the last block, which comes back in `Last-Event-ID`.
    last: String,
    retry: Option<u64>,
}

impl Events {
    async fn open(server: &Server, path: &str, last: &str) -> Self {
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let back = if last.is_empty() { String::new() } else { format!("last-event-id: {last}\r\n") };
        // HTTP/1.0 has no chunks, so that what comes are the lines alone.
        let head =
            format!("GET {path} HTTP/1.0\r\nhost: localhost\r\naccept: text/event-stream\r\n{back}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events =
            Self { stream: BufReader::new(stream), head: String::new(), last: last.to_owned(), retry: None };
        while let Some(line) = events.line().await.filter(|line| !line.is_empty()) {
            events.head.push_str(&line.to_lowercase());
            events.head.push('\n');
        }
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = within(30, "a line", self.stream.read_line(&mut line)).await;
        match read {
            Ok(read) if read > 0 => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
            _ => None,
        }
    }

    /// The next block; none at the end. A block that was cut off does not count.
    async fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                None if line.is_empty() => break,
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) => event.data = Some(data.to_owned()),
                Some(("retry", delay)) => self.retry = delay.parse().ok(),
                _ => panic!("{line}"),
            }
        }
        self.last = event.id.clone().unwrap_or_else(|| self.last.clone());
        Some(event)
    }

    /// Values of the records up to this many; fewer if the stream ends.
    async fn values(&mut self, count: usize) -> Vec<String> {
        let mut values = Vec::new();
        while values.len() < count {
            let Some(event) = self.next().await else { break };
            if event.name.is_none() && event.data.is_some() {
                values.push(event.json()["value"].as_str().unwrap().to_owned());
            }
        }
        values
    }
}

const PATH: &str = "/v1/topics/sse/records";

async fn publish(server: &Server, name: &str, count: usize) {
    published(&mut server.client().await, "sse", records(name, count)).await;
}

#[tokio::test]
async fn events_begin_with_an_id_and_follow_the_topic() {
    let server = Server::start().await;
    publish(&server, "old", 1).await;
    let mut events = Events::open(&server, PATH, "").await;
    assert!(
        events.head.starts_with("http/1.0 200") || events.head.starts_with("http/1.1 200"),
        "{}",
        events.head
    );
    for header in
        ["content-type: text/event-stream", "cache-control: no-store, no-transform", "x-accel-buffering: no"]
    {
        assert!(events.head.contains(header), "{}", events.head);
    }
    let first = events.next().await.unwrap();
    assert!(first.id.is_some() && first.data.is_none() && first.name.is_none(), "{first:?}");
    assert!((1000..=2000).contains(&events.retry.unwrap()));
    let caught_up = events.next().await.unwrap();
    assert_eq!(
        (caught_up.name.as_deref(), &caught_up.json()["notice"]),
        (Some("notice"), &json!("CAUGHT_UP"))
    );
    publish(&server, "new", 3).await;
    assert_eq!(events.values(3).await, ["new0", "new1", "new2"]);
    let mut from = Events::open(&server, &format!("{PATH}?from=earliest&value=base64"), &events.last).await;
    publish(&server, "more", 1).await;
    let record = loop {
        let event = from.next().await.unwrap();
        if event.data.is_some() && event.name.is_none() {
            break event.json();
        }
    };
    assert_eq!(
        (&record["offset"], &record["value_base64"]),
        (&json!("4"), &json!("bW9yZTA=")),
        "Last-Event-ID beats from"
    );
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_and_repeats_nothing_across_kills_and_drains() {
    let mut server = Server::start().await;
    publish(&server, "start", 1).await;
    let (mut last, mut seen, mut all) = (String::new(), Vec::new(), Vec::new());
    for round in 0..6 {
        let mut events = Events::open(&server, PATH, &last).await;
        if round == 0 {
            // A cut before the first record: the id alone says where to go on.
            events.next().await.unwrap();
            last = events.last.clone();
            drop(events);
            publish(&server, "cut", 2).await;
            all.extend(["cut0", "cut1"].map(str::to_owned));
            events = Events::open(&server, PATH, &last).await;
        }
        let name = format!("{round}-");
        publish(&server, &name, 50).await;
        all.extend((0..50).map(|n| format!("{name}{n}")));
        // Leaves some unread, so that each round begins inside history.
        let wanted = all.len() - seen.len() - round;
        seen.extend(events.values(wanted).await);
        if round % 2 == 0 {
            server.kill9().await;
        } else {
            server.sigterm().await;
        }
        last = events.last.clone();
        server.restart().await;
    }
    let mut events = Events::open(&server, PATH, &last).await;
    let wanted = all.len() - seen.len();
    seen.extend(events.values(wanted).await);
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_drain_is_told_and_when_to_come_back() {
    let mut server = Server::start().await;
    publish(&server, "x", 1).await;
    let mut events = Events::open(&server, &format!("{PATH}?from=earliest"), "").await;
    assert_eq!(events.values(1).await, ["x0"]);
    let end = events.last.clone();
    let reading = async {
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push((event.name.clone().unwrap_or_default(), event.json()));
        }
        (told, events.last, events.retry)
    };
    let (stopped, (told, last, retry)) = tokio::join!(server.stop("TERM", 20), reading);
    assert!(stopped.0.success());
    let names: Vec<_> =
        told.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "heartbeat").collect();
    assert_eq!(&names[names.len() - 2..], ["notice", "problem"], "{told:?}");
    assert_eq!(told.last().unwrap().1["reason"], "SERVER_DRAINING");
    assert_eq!(told[told.len() - 2].1["notice"], "DRAINING");
    assert_eq!(last, end);
    assert!(retry.is_some_and(|delay| (100..=1000).contains(&delay)), "{retry:?}");
}

#[tokio::test]
async fn failures_that_pass_end_an_answer_200_and_others_keep_their_status() {
    let server = Server::start().await;
    let accept = ("accept", "text/event-stream");
    let missing = ask(server.http(), "GET /v1/topics/none/records", &[accept], "").await;
    assert_eq!(missing.problem(), (404, "TOPIC_NOT_FOUND".to_owned()));
    let bad = ask(server.http(), &format!("GET {PATH}"), &[accept, ("last-event-id", "7")], "").await;
    assert_eq!(bad.problem(), (400, "INVALID_FIELD".to_owned()));
    let topics = ask(server.http(), "GET /v1/topics", &[], "").await.json();
    assert_eq!(topics["topics"], json!([]), "a GET creates no topic");

    // A second instance cannot open the data and stays in recovery.
    let starting = Server::starting(&["--engine", "jetstream", "--nats-url", "nats://127.0.0.1:1"]).await;
    let answer = ask(starting.http(), &format!("GET {PATH}"), &[accept], "").await;
    assert_eq!((answer.code, answer.header("content-type")), (200, "text/event-stream"), "{}", answer.text());
    assert!(
        answer.text().starts_with("retry: ") && answer.text().contains("SERVER_STARTING"),
        "{}",
        answer.text()
    );
    let plain = ask(starting.http(), &format!("GET {PATH}"), &[], "").await;
    assert_eq!(plain.problem(), (503, "SERVER_STARTING".to_owned()));
}

#[tokio::test]
async fn a_quiet_stream_has_heartbeats() {
    let server = Server::start().await;
    publish(&server, "x", 1).await;
    let mut events = Events::open(&server, &format!("{PATH}?heartbeat=1"), "").await;
    let heartbeat = loop {
        let event = events.next().await.unwrap();
        if event.name.as_deref() == Some("heartbeat") {
            break event;
        }
    };
    assert_eq!(heartbeat.json()["tail"], "1");
    assert_eq!(heartbeat.id, heartbeat.json()["next"].as_str().map(str::to_owned));
}

#[tokio::test]
async fn a_reader_that_stops_reading_loses_nothing_and_holds_nobody_up() {
    let server = Server::start().await;
    let value = "v".repeat(10_000);
    publish(&server, "first", 1).await;
    let mut stuck = Events::open(&server, &format!("{PATH}?from=earliest"), "").await;
    for n in 0..40 {
        publish(&server, &format!("{n}-{value}"), 50).await;
    }
    let mut quick = Events::open(&server, &format!("{PATH}?from=earliest"), "").await;
    assert_eq!(quick.values(2001).await.len(), 2001);
    let late = stuck.values(2001).await;
    assert_eq!((late.len(), &*late[2000]), (2001, &*format!("39-{value}49")));
}
