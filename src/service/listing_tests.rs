//! The cost of a page of ListTopics, counted in names read and patterns tried, not in time.

use std::time::{Duration, SystemTime};

use prost::Message;

use super::listing::{COST_MAX, PAGE_BYTES_MAX, STRIDE, list, page};
use crate::auth::{self, Auth, Caller, Limits};
use crate::config::Config;
use crate::proto::v1::ListTopicsRequest;
use crate::record::TopicName;
use crate::storage::Retention;
use crate::storage::embedded::simulated::SimulatedLog;
use crate::topic::Topics;

const TENANTS: usize = 1000;
const TOPICS: usize = 10_000;

/// A server with a thousand tenants, each with a token, a rule and ten topics.
struct House {
    auth: Auth,
    log: SimulatedLog,
    topics: Topics,
}

async fn create(log: &SimulatedLog, names: impl Iterator<Item = String>, retention: Retention) {
    let log = log.log();
    let created = names.map(|name| log.create(TopicName::parse(&name).unwrap(), retention));
    let created = futures_util::future::join_all(created).await;
    assert!(created.iter().all(Result::is_ok));
}

async fn house(more: &str) -> House {
    let dir = tempfile::tempdir().unwrap();
    let (mut tokens, mut policy) = (String::new(), more.to_owned());
    for name in
        (0..TENANTS).map(|i| format!("tenant-{i:03}")).chain(["stranger", "sevens", "ops"].map(Into::into))
    {
        tokens += &format!("{}\n", auth::entry(&name, &name));
    }
    for i in 0..TENANTS {
        policy += &format!(
            "[[rule]]\nprincipals = [\"tenant-{i:03}\"]\ntopics = [\"t{i:03}.*\"]\nactions = [\"publish\"]\n"
        );
    }
    for (file, text) in [("tokens", tokens), ("policy", policy)] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let auth = Auth::load(&auth::Options {
        tokens: Some(dir.path().join("tokens")),
        policy: Some(dir.path().join("policy")),
        ..auth::Options::default()
    });
    let (log, topics) = (SimulatedLog::new(), Topics::new(&Config::default()));
    let names = (0..TOPICS).map(|i| format!("t{:03}.{}", i / 10, i % 10));
    create(&log, names, Retention::default()).await;
    topics.open(log.log());
    House { auth: auth.unwrap(), log, topics }
}

impl House {
    fn caller(&self, token: &str) -> Caller {
        let header = format!("Bearer {token}");
        self.auth
            .authenticate(Some(header.as_bytes()), None, SystemTime::now(), &self.auth.attempts(None))
            .unwrap()
    }
}

fn asked(page_size: u32, page_token: String, prefix: &str) -> ListTopicsRequest {
    ListTopicsRequest { page_size, page_token, prefix: prefix.to_owned() }
}

/// Returns all names that a caller may see, and the cost of the most expensive page.
async fn all(house: &House, caller: &Caller, page_size: u32, prefix: &str) -> (Vec<String>, usize) {
    let (mut names, mut dearest, mut token) = (Vec::new(), 0, String::new());
    loop {
        let before = house.log.listed();
        let page = page(&house.topics, caller, &asked(page_size, token, prefix)).await.unwrap();
        let looked_at = house.log.listed() - before;
        assert!(looked_at <= page.cost, "{looked_at} names are more than it says: {}", page.cost);
        dearest = dearest.max(page.cost);
        names.extend(page.topics.iter().map(|topic| topic.name.as_str().to_owned()));
        if page.next.is_empty() {
            return (names, dearest);
        }
        let is_shown = names.last().is_some_and(|last| *last == page.next);
        assert!(is_shown || page.next.starts_with('~'), "{} may not be known", page.next);
        token = page.next;
    }
}

#[tokio::test]
async fn a_page_costs_what_it_answers_among_a_thousand_tokens_and_ten_thousand_topics() {
    let house = house("").await;
    let (names, cost) = all(&house, &house.caller("tenant-123"), 100, "").await;
    let own: Vec<_> = (0..10).map(|i| format!("t123.{i}")).collect();
    assert_eq!((names, cost), (own, 11), "ten names and one look-up");
    let (names, cost) = all(&house, &house.caller("tenant-123"), 100, "t123.4").await;
    assert_eq!((names, cost), (vec!["t123.4".to_owned()], 2));
    for (who, prefix) in [("tenant-123", "t124"), ("stranger", ""), ("stranger", "t123")] {
        let before = house.log.listed();
        assert_eq!(all(&house, &house.caller(who), 1000, prefix).await, (vec![], 0), "{who}");
        assert_eq!(house.log.listed(), before, "{who}");
    }
}

/// A page has a bounded size, because a client may leave it unread, and no topic is lost by the bound.
#[tokio::test]
async fn a_page_has_so_many_bytes_whatever_topics_are_called() {
    let topics = Topics::new(&Config::default());
    let log = SimulatedLog::new();
    let most = Retention {
        max_age: Some(Duration::from_secs(u64::from(u32::MAX)) + Duration::from_nanos(999_999_000)),
        max_bytes: Some(u64::MAX),
        max_records: Some(u64::MAX),
    };
    let names: Vec<_> = (0..1000).map(|n| format!("{n:0128}")).collect();
    create(&log, names.iter().cloned(), most).await;
    topics.open(log.log());
    let caller = Auth::open(Limits::default()).caller(None).unwrap();
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&topics, &caller, &asked(1000, token, "")).await.unwrap();
        assert!(page.encoded_len() <= PAGE_BYTES_MAX, "{} bytes", page.encoded_len());
        assert!(page.topics.len() >= 100 || page.next_page_token.is_empty(), "the default page is not cut");
        found.extend(page.topics.into_iter().map(|topic| topic.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, names);
}

const SEVENS: &str =
    "[[rule]]\nprincipals = [\"sevens\"]\ntopics = [\"*7\", \"t5*3*1\"]\nactions = [\"admin\"]\n";

#[tokio::test]
async fn a_page_that_must_search_is_bounded_and_loses_and_tells_nothing() {
    let house = house(SEVENS).await;
    let caller = house.caller("sevens");
    let is_own = |name: &str| {
        name.ends_with('7') || (name.starts_with("t5") && name[2..].contains('3') && name.ends_with('1'))
    };
    let every = (0..TOPICS).map(|i| format!("t{:03}.{}", i / 10, i % 10));
    let own: Vec<_> = every.filter(|name| is_own(name)).collect();
    for page_size in [1000, 7] {
        let (names, cost) = all(&house, &caller, page_size, "").await;
        assert_eq!(names, own);
        assert!(cost <= COST_MAX, "{cost}");
    }
    let (names, _) = all(&house, &caller, 1000, "t9").await;
    assert_eq!(names, own.iter().filter(|name| name.starts_with("t9")).cloned().collect::<Vec<_>>());
    // A position of another caller and an invalid one are refused.
    let first = page(&house.topics, &caller, &asked(1000, String::new(), "")).await.unwrap();
    assert!(first.next.starts_with('~'));
    let refused = |who: &str, token: &str| {
        let (topics, caller, asked) =
            (house.topics.clone(), house.caller(who), asked(1, token.to_owned(), ""));
        async move { page(&topics, &caller, &asked).await.err().map(|error| error.to_string()) }
    };
    for (who, token) in [("stranger", first.next.as_str()), ("sevens", "~"), ("sevens", "~AAAA")] {
        assert!(refused(who, token).await.unwrap().contains("list again"), "{who} {token}");
    }
    assert_eq!(refused("sevens", "t123.4").await, None, "a name is a place too");
}

#[tokio::test]
async fn lists_that_search_give_others_their_turn() {
    const LISTS: usize = 32;
    let house = house(SEVENS).await;
    let lists = (0..LISTS).map(|_| async {
        let (caller, mut token) = (house.caller("sevens"), String::new());
        loop {
            let page = page(&house.topics, &caller, &asked(1000, token, "")).await.unwrap();
            if page.next.is_empty() {
                return;
            }
            token = page.next;
        }
    });
    let mut lists = std::pin::pin!(futures_util::future::join_all(lists));
    // Other tasks run each time that this future is polled.
    let (mut most, mut before) = (0, 0);
    std::future::poll_fn(|cx| {
        let polled = lists.as_mut().poll(cx).map(drop);
        let now = house.log.listed();
        (most, before) = (most.max(now - before), now);
        polled
    })
    .await;
    assert!(house.log.listed() >= LISTS * TOPICS);
    assert!(most <= LISTS * STRIDE, "{most} names between two turns");
}
