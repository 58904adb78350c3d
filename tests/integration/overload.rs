//! Three times what the server can take: what is too much is refused at once with RESOURCE_EXHAUSTED, the
//! rest goes on at full speed, and when the flood ends so do the refusals (P1, P7).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use streamway::proto::v1::{CreateTopicRequest, ListTopicsRequest, PublishResponse, Topic};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::identities::{Setup, of, publish_as, rule};
use crate::harness::make::{publish, published, record};
use crate::harness::preload::Preload;
use crate::harness::{Server, StreamClient, detail, read_all, refused, soak, within};

const TOPIC: &str = "overload";
const BATCH_BYTES: usize = 16 << 10;
/// What may be in flight, so that with the slow sync below the disk is what limits: some 130 batches a
/// second, far below what this machine's processors can send and take.
const INFLIGHT: &str = "512KiB";
const SYNC: Duration = Duration::from_millis(200);
const CONNECTIONS: usize = 32;

struct Answer {
    text: String,
    result: Result<PublishResponse, Status>,
    took: Duration,
}

async fn one(mut client: StreamClient, name: String) -> Answer {
    let request = publish(TOPIC, vec![record(format!("{name}/{}", "o".repeat(BATCH_BYTES)).as_bytes())]);
    let begun = Instant::now();
    let result = within(60, "an answer", client.publish(request)).await.map(tonic::Response::into_inner);
    Answer { text: name, result, took: begun.elapsed() }
}

/// What is acknowledged in a second where the budget is just filled.
async fn capacity(clients: &[StreamClient], seconds: u64) -> (f64, Vec<Answer>) {
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for (i, client) in clients.iter().enumerate() {
        let client = client.clone();
        workers.spawn(async move {
            let mut answers = Vec::new();
            while begun.elapsed() < Duration::from_secs(seconds) {
                answers.push(one(client.clone(), format!("capacity-{i}-{}", answers.len())).await);
            }
            answers
        });
    }
    let answers = workers.join_all().await.into_iter().flatten().collect::<Vec<_>>();
    (answers.len() as f64 / begun.elapsed().as_secs_f64(), answers)
}

/// Sends at this rate whatever the answers are.
async fn flood(clients: &[StreamClient], rate: f64, seconds: u64) -> Vec<Answer> {
    let count = (rate * seconds as f64) as usize;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut calls = JoinSet::new();
    for i in 0..count {
        tick.tick().await;
        calls.spawn(one(clients[i % clients.len()].clone(), format!("flood-{i}")));
    }
    calls.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_too_much_is_shed_and_the_rest_goes_on() {
    let (preload, dir) = (Preload::new(), TempDir::new().unwrap());
    let args = ["--inflight-bytes-max", INFLIGHT, "--connection-inflight-bytes-max", INFLIGHT];
    let args = [&args[..], &["--batch-bytes-max", "64KiB", "--message-bytes-max", "256KiB"]].concat();
    let server = Server::under(preload.command(), dir.path(), &args).await;
    published(&mut server.client().await, TOPIC, vec![record("first")]).await;
    preload.set_sync(SYNC);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.client().await);
    }
    let seconds = if soak() { 30 } else { 6 };
    let (capacity, mut all) = capacity(&clients, 4).await;
    assert!(all.iter().all(|answer| answer.result.is_ok()), "at capacity nothing is refused");

    let begun = Instant::now();
    let flooded = flood(&clients, 3.0 * capacity, seconds).await;
    let lasted = begun.elapsed();
    // The flood has ended: from here on nobody is refused.
    for i in 0..20 {
        all.push(one(clients[i % CONNECTIONS].clone(), format!("after-{i}")).await);
        let last = all.last().expect("pushed");
        assert!(last.result.is_ok(), "{:?}", last.result);
        // Two syncs are enough to see that it is over.
        if i == 1 {
            preload.set_sync(Duration::ZERO);
        }
    }
    let (mut stored, mut shed) = (Vec::new(), Vec::new());
    for answer in flooded {
        match &answer.result {
            Ok(_) => stored.push(answer.took),
            Err(status) => {
                refused(status, Code::ResourceExhausted, "OVERLOADED");
                assert!(detail(status).retry_info().is_some(), "says when to come again: {status:?}");
                shed.push(answer.took);
            }
        }
        all.push(answer);
    }
    stored.sort_unstable();
    shed.sort_unstable();
    let rate = stored.len() as f64 / lasted.as_secs_f64();
    let late = |times: &[Duration]| times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    println!(
        "capacity {capacity:.0} batches/s; at three times that for {lasted:?}: {} stored ({rate:.0}/s), p99 {:?}; \
         {} refused, p99 {:?}",
        stored.len(),
        late(&stored),
        shed.len(),
        late(&shed)
    );
    assert!(shed.len() > stored.len() / 2, "most of what is too much is refused");
    assert!(rate > 0.6 * capacity, "the rest goes on at full speed");

    // Exactly what was acknowledged is there, each once.
    let expected: Vec<String> =
        all.iter().filter(|answer| answer.result.is_ok()).map(|answer| answer.text.clone()).collect();
    let seen = read_all(&mut server.client().await, TOPIC).await;
    let found: BTreeSet<String> =
        seen[1..].iter().map(|seen| seen.text().split('/').next().unwrap().to_owned()).collect();
    assert_eq!(found.len(), seen.len() - 1, "each once");
    assert_eq!(found, expected.into_iter().collect());
}

/// 32 callers list topics of which they may see none: that costs them and nobody else. Before a page was bounded, honest
/// calls and liveness took over 20 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_what_one_may_not_see_starves_nobody() {
    let (topics, tokens) = if soak() { (9900, 1000) } else { (1500, 300) };
    let names: Vec<String> = (0..tokens).map(|i| format!("n{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["admin", "blind"]).collect();
    let policy = rule(r#"["admin"]"#, r#"["*"]"#, r#"["admin", "publish", "subscribe"]"#);
    let setup = Setup::new(&names, &policy);
    let server = setup.start(&[]).await;
    let mut creating = JoinSet::new();
    for part in 0..30 {
        let mut client = server.topics().await;
        creating.spawn(async move {
            for i in (part..topics).step_by(30) {
                let topic = Topic { name: format!("t{i}"), ..Topic::default() };
                client.create_topic(of("admin", CreateTopicRequest { topic: Some(topic) })).await.unwrap();
            }
        });
    }
    creating.join_all().await;
    let (stop, stopped) = watch::channel(false);
    let mut listing = JoinSet::new();
    for _ in 0..32 {
        let (mut client, stopped) = (server.topics().await, stopped.clone());
        listing.spawn(async move {
            let mut lists = 0;
            while !*stopped.borrow() {
                let list = client.list_topics(of("blind", ListTopicsRequest::default())).await.unwrap();
                assert_eq!(list.into_inner().topics, []);
                lists += 1;
            }
            lists
        });
    }
    for _ in 0..20 {
        let (ready, alive) = within(20, "the probes", server.ready_and_alive()).await;
        assert!(ready && alive);
        within(20, "an honest publish", publish_as(&server, "admin", "t0")).await.unwrap();
    }
    stop.send_replace(true);
    let lists: usize = listing.join_all().await.into_iter().sum();
    println!("{lists} lists meanwhile");
    assert!(lists >= 32);
}
