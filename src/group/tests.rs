//! Groups at work on an embedded log over a simulated disk.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::logic::{Act, GroupName, Order, Outcome, SHARDS, SessionId, Settings, Span, shard_of};
use super::shard_log;
use super::{
    Create, Error, Event, Groups, Join, LeaseOnce, Leased, Member, Redrive, Redriven, Settlement, Source,
    Token,
};
use crate::config::Config;
use crate::record::TopicName;
use crate::record::block::Blocks;
use crate::storage::embedded::simulated::SimulatedLog;
use crate::storage::{self, Hold, Retention, Start};
use crate::topic::{From, Topics};

fn topic() -> TopicName {
    TopicName::parse("orders").unwrap()
}

fn group() -> GroupName {
    GroupName::parse("workers").unwrap()
}

struct World {
    log: SimulatedLog,
    topics: Topics,
    groups: Groups,
}

impl World {
    async fn new() -> Self {
        let log = SimulatedLog::new();
        let (topics, groups) = opened(&log);
        topics.create(topic(), Retention::default()).await.unwrap();
        Self { log, topics, groups }
    }

    /// The next server on the same log, without a handover of the one before it.
    fn crash(&mut self) {
        (self.topics, self.groups) = opened(&self.log);
    }

    async fn join(&self, settings: Settings) -> Member {
        self.groups.join(joining(None, Some(settings))).await.unwrap()
    }
}

fn opened(log: &SimulatedLog) -> (Topics, Groups) {
    let config = Config::default();
    let topics = Topics::new(&config);
    topics.open(log.log());
    let groups = Groups::new(&config, topics.clone());
    groups.open(log.log());
    (topics, groups)
}

fn joining(session: Option<SessionId>, settings: Option<Settings>) -> Join {
    let from = From::Start(Start::Earliest);
    Join {
        topic: topic(),
        group: group(),
        member: "one".into(),
        principal: Arc::from(""),
        session,
        create: settings.map(|settings| Create { from, settings }),
    }
}

async fn next(member: &mut Member) -> Event {
    let event = poll_fn(|cx| member.poll_next(cx));
    tokio::time::timeout(Duration::from_secs(20), event).await.expect("an event")
}

async fn lease(member: &mut Member) -> Leased {
    match next(member).await {
        Event::Lease(leased) => *leased,
        other => panic!("not a lease: {other:?}"),
    }
}

/// Offsets of the records of a lease.
fn offsets(leased: &Leased) -> Vec<u64> {
    let blocks = leased.batches.iter().flat_map(|run| Blocks::new(run)).map(Result::unwrap);
    blocks.flat_map(|block| block.first.get()..block.first.get() + block.count()).collect()
}

async fn settle(member: &mut Member, leased: &Leased, acts: Vec<(Span, Act)>) -> Vec<(Span, Outcome)> {
    let token = Token::decode(&leased.token).unwrap();
    member.settle(7, token, Settlement { acts, reasons: Vec::new() });
    loop {
        match next(member).await {
            Event::Settled { number: 7, outcomes } => return outcomes,
            Event::Lease(_) | Event::Revoked { .. } => {}
            other => panic!("not an outcome: {other:?}"),
        }
    }
}

const fn span(start: u64, end: u64) -> Span {
    Span { start, end }
}

#[tokio::test]
async fn settled_records_stay_settled_over_a_crash_and_others_come_again() {
    let mut world = World::new().await;
    world.log.put("orders", &["a", "b", "c"]);
    let mut member = world.join(Settings::default()).await;
    assert!(member.has_created());
    member.credit(10, 1 << 20);
    let leased = lease(&mut member).await;
    assert_eq!((offsets(&leased), leased.redeliveries.len()), (vec![0, 1, 2], 0));
    let outcomes = settle(&mut member, &leased, vec![(span(0, 2), Act::Ack)]).await;
    assert_eq!(outcomes, [(span(0, 2), Outcome::Settled)]);

    world.crash();
    let info = world.groups.get(&topic(), &group()).await.unwrap();
    assert_eq!((info.status.oldest_unsettled.get(), info.status.lag.records), (2, 1));
    let ended = world.groups.join(joining(Some(member.session()), None)).await.unwrap_err();
    assert_eq!(ended, Error::SessionEnded);
    let mut member = world.groups.join(joining(None, None)).await.unwrap();
    assert!(!member.has_created());
    member.credit(10, 1 << 20);
    let again = lease(&mut member).await;
    assert_eq!(offsets(&again), [2]);
    assert!(again.fence > leased.fence, "fences rise over terms");
    let late = settle(&mut member, &leased, vec![(span(2, 3), Act::Ack)]).await;
    assert_eq!(late, [(span(2, 3), Outcome::LeaseLost)], "P13: only the newest lease settles");
}

#[tokio::test]
async fn a_group_is_created_once_described_changed_and_deleted() {
    let world = World::new().await;
    let from = From::Start(Start::Earliest);
    let settings = Settings { deliveries_max: 3, ..Settings::default() };
    let made = world.groups.create(&topic(), &group(), from, settings.clone()).await.unwrap();
    let again = world.groups.create(&topic(), &group(), from, settings.clone()).await;
    assert_eq!(again.unwrap_err(), Error::Exists);
    let changed = Settings { ack_deadline_ms: 5000, ..settings.clone() };
    let updated = world.groups.update(&topic(), &group(), Some(made.id), changed.clone()).await.unwrap();
    assert_eq!(updated.settings, changed);
    let ordered = Settings { order: Order::Key, ..settings };
    let fixed = world.groups.update(&topic(), &group(), None, ordered).await;
    assert_eq!(fixed.unwrap_err(), Error::OrderFixed);
    let listed = world.groups.list(None, None, 10).await.unwrap().groups;
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["workers"]);
    assert_eq!(world.groups.list(None, Some((topic(), group())), 10).await.unwrap().groups.len(), 0);
    let topics = world.topics.list("", None, 10).await.unwrap();
    assert_eq!(topics.len(), 1, "the shard's topic is not listed");
    world.groups.delete(&topic(), &group(), None).await.unwrap();
    assert_eq!(world.groups.get(&topic(), &group()).await.unwrap_err(), Error::NotFound);
}

#[tokio::test]
async fn a_group_ends_with_its_topic() {
    let world = World::new().await;
    let mut member = world.join(Settings::default()).await;
    member.credit(1, 1 << 20);
    world.topics.delete(&topic(), None).await.unwrap();
    assert!(matches!(next(&mut member).await, Event::Ended(error) if matches!(*error, Error::NotFound)));
    world.topics.create(topic(), Retention::default()).await.unwrap();
    assert_eq!(world.groups.get(&topic(), &group()).await.unwrap_err(), Error::NotFound);
    let member = world.join(Settings::default()).await;
    assert!(member.has_created());
}

#[tokio::test]
async fn a_nacked_record_comes_again_and_one_given_up_goes_to_the_dead_letter_topic() {
    let world = World::new().await;
    let dead = TopicName::parse("dead").unwrap();
    let settings =
        Settings { deliveries_max: 2, dead_letter_topic: Some(dead.clone()), ..Settings::default() };
    let mut member = world.join(settings).await;
    member.credit(1, 1 << 20);
    world.log.put("orders", &["a"]);
    let first = lease(&mut member).await;
    settle(&mut member, &first, vec![(span(0, 1), Act::Nack(None))]).await;
    let second = lease(&mut member).await;
    assert_eq!(second.redeliveries, [(span(0, 1), 2)]);
    let token = Token::decode(&second.token).unwrap();
    let reasons = vec![(span(0, 1), "no such customer".into())];
    member.settle(8, token, Settlement { acts: vec![(span(0, 1), Act::Nack(None))], reasons });
    assert!(matches!(next(&mut member).await, Event::Settled { number: 8, .. }));
    let copies = loop {
        match world.topics.get(&dead).await {
            Ok(log) if log.tail().get() > 0 => {
                break log.read(log.earliest(), 1 << 20).await.unwrap();
            }
            _ => tokio::task::yield_now().await,
        }
    };
    let run = &copies.runs[0];
    for text in ["no such customer", "streamway-offset", "workers"] {
        assert!(run.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
    }
    loop {
        let status = world.groups.get(&topic(), &group()).await.unwrap().status;
        if status.dead_lettered_records == 1 {
            break assert_eq!(status.lag.records, 0);
        }
        tokio::task::yield_now().await;
    }
}

/// The copy of the only record that was given up.
async fn copy_of(world: &World, dead: &TopicName) -> Vec<u8> {
    loop {
        match world.topics.get(dead).await {
            Ok(log) if log.tail().get() > 0 => {
                break log.read(log.earliest(), 1 << 20).await.unwrap().runs[0].to_vec();
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_record_that_its_handler_gives_up_says_how_often_it_was_delivered() {
    let world = World::new().await;
    let dead = TopicName::parse("dead").unwrap();
    let settings = Settings { dead_letter_topic: Some(dead.clone()), ..Settings::default() };
    let mut member = world.join(settings).await;
    member.credit(1, 1 << 20);
    world.log.put("orders", &["a"]);
    let first = lease(&mut member).await;
    settle(&mut member, &first, vec![(span(0, 1), Act::Nack(None))]).await;
    let second = lease(&mut member).await;
    settle(&mut member, &second, vec![(span(0, 1), Act::Reject)]).await;
    let copy = copy_of(&world, &dead).await;
    let header = [b"streamway-deliveries\x12\x012".as_slice()].concat();
    assert!(copy.windows(header.len()).any(|part| part == header), "{}", copy.escape_ascii());
}

#[tokio::test]
async fn a_record_that_was_trimmed_before_it_is_copied_counts_as_skipped() {
    let world = World::new().await;
    let dead = TopicName::parse("dead").unwrap();
    let mut member =
        world.join(Settings { dead_letter_topic: Some(dead.clone()), ..Settings::default() }).await;
    member.credit(1, 1 << 20);
    world.log.put("orders", &["a"]);
    world.log.put("orders", &["b"]);
    let first = lease(&mut member).await;
    world.topics.trim(&topic(), None, crate::record::Offset::new(1)).await.unwrap();
    settle(&mut member, &first, vec![(span(0, 1), Act::Reject)]).await;
    loop {
        let status = world.groups.get(&topic(), &group()).await.unwrap().status;
        if status.skipped_records + status.dead_lettered_records > 0 {
            break assert_eq!((status.skipped_records, status.dead_lettered_records), (1, 0));
        }
        tokio::task::yield_now().await;
    }
    assert!(world.topics.get(&dead).await.is_err(), "there is no copy");
}

#[tokio::test]
async fn groups_are_listed_though_the_storage_of_others_is_damaged() {
    let world = World::new().await;
    world.groups.create(&topic(), &group(), From::Start(Start::Earliest), Settings::default()).await.unwrap();
    let other = (shard_of(&topic(), &group()) + 1) % SHARDS;
    let damaged = world.log.log().create(shard_log::name(other), Retention::default()).await.unwrap();
    let batch = crate::record::testing::batch_of(&["not a command"]);
    let stored = damaged.appender().append(vec![batch], Hold::default()).await;
    assert_eq!(stored.failure, None);
    let listed = world.groups.list(None, None, 10).await.unwrap();
    assert_eq!((listed.groups.len(), listed.damaged), (1, vec![shard_log::name(other)]));
    let name = (0..).map(|n| GroupName::parse(&format!("g{n}")).unwrap());
    let name = name.into_iter().find(|name| shard_of(&topic(), name) == other).unwrap();
    let refused = world.groups.get(&topic(), &name).await.unwrap_err();
    assert!(
        matches!(refused, Error::Topic(crate::topic::Error::Storage(storage::Error::Damaged(_)))),
        "{refused:?}"
    );
}

/// A page is the same whatever the groups of each shard are, and each next page goes on after it.
#[tokio::test]
async fn pages_of_any_size_list_the_same_groups_in_order() {
    let world = World::new().await;
    for n in 0..70 {
        let name = GroupName::parse(&format!("g{n:02}")).unwrap();
        world
            .groups
            .create(&topic(), &name, From::Start(Start::Earliest), Settings::default())
            .await
            .unwrap();
    }
    let all: Vec<String> = (0..70).map(|n| format!("g{n:02}")).collect();
    for size in [1, 9, 34, 70, 71] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = world.groups.list(Some(&topic()), after.clone(), size).await.unwrap().groups;
            after = page.last().map(|info| (topic(), info.name.clone()));
            found.extend(page.iter().map(|info| info.name.to_string()));
            if page.len() < size {
                break;
            }
        }
        assert_eq!(found, all, "pages of {size}");
    }
}

/// A repeat of an acknowledgement whose answer was lost cannot be told from the late one of a former holder: both hear that
/// the record is settled, once it is.
#[tokio::test]
async fn an_acknowledgement_of_what_is_settled_is_confirmed_to_a_former_holder_as_well() {
    let world = World::new().await;
    world.log.put("orders", &["a"]);
    let mut member = world.join(Settings::default()).await;
    member.credit(1, 1 << 20);
    let former = lease(&mut member).await;
    settle(&mut member, &former, vec![(span(0, 1), Act::Nack(None))]).await;
    let newer = lease(&mut member).await;
    let ack = || vec![(span(0, 1), Act::Ack)];
    assert_eq!(settle(&mut member, &former, ack()).await, [(span(0, 1), Outcome::LeaseLost)]);
    assert_eq!(settle(&mut member, &newer, ack()).await, [(span(0, 1), Outcome::Settled)]);
    assert_eq!(settle(&mut member, &former, ack()).await, [(span(0, 1), Outcome::Settled)]);
    let nack = vec![(span(0, 1), Act::Nack(None))];
    assert_eq!(settle(&mut member, &former, nack).await, [(span(0, 1), Outcome::LeaseLost)]);
}

/// The limit holds for calls that come at the same time as well.
#[tokio::test]
async fn members_that_join_at_once_are_bounded() {
    let log = SimulatedLog::new();
    let config = Config { group_members_max: 3, ..Config::default() };
    let topics = Topics::new(&config);
    topics.open(log.log());
    let groups = Groups::new(&config, topics.clone());
    groups.open(log.log());
    topics.create(topic(), Retention::default()).await.unwrap();
    groups.create(&topic(), &group(), From::Start(Start::Earliest), Settings::default()).await.unwrap();
    let joins = (0..20).map(|_| groups.join(joining(None, None)));
    let joined = futures_util::future::join_all(joins).await;
    let (members, refused): (Vec<_>, Vec<_>) = joined.into_iter().partition(Result::is_ok);
    assert_eq!((members.len(), refused.len()), (3, 17));
    let limit = Error::TooManyMembers { limit: 3 };
    assert!(refused.into_iter().all(|refused| refused.is_err_and(|error| error == limit)));
}

/// A creation whose answer was lost is answered again, and another one of the name is refused.
#[tokio::test]
async fn a_creation_that_is_repeated_is_answered_again() {
    use super::logic::GroupId;
    use super::mailbox::{Message, Name, NewGroup};

    let world = World::new().await;
    let log = world.topics.get(&topic()).await.unwrap();
    let name = Name { topic: topic(), group: group() };
    let create = async |id| {
        let new = NewGroup { id: GroupId(id), topic: log.clone(), start: 0, settings: Settings::default() };
        let message = |reply| Message::Create(name.clone(), new.clone(), reply);
        let shard = shard_of(&topic(), &group());
        let (missing, lost) = (super::shards::Missing::Create, super::attempts::WhenLost::Fail);
        world.groups.ask_shard(shard, missing, lost, message).await.map(|info| info.unwrap().id)
    };
    assert_eq!(create(5).await, Ok(GroupId(5)));
    assert_eq!(create(5).await, Ok(GroupId(5)));
    assert_eq!(create(6).await, Err(Error::Exists));
}

/// A call that ends before its answer gives back what it was leased, and leaves nothing behind.
#[tokio::test]
async fn a_unary_lease_that_is_cancelled_is_free_at_once() {
    let world = World::new().await;
    world.groups.create(&topic(), &group(), From::Start(Start::Earliest), Settings::default()).await.unwrap();
    let once = || LeaseOnce {
        topic: topic(),
        group: group(),
        records: 2,
        bytes: 1 << 20,
        wait: Duration::from_secs(60),
    };
    let waits = tokio::spawn({
        let groups = world.groups.clone();
        async move { groups.lease(once()).await }
    });
    let mut second = Box::pin(world.groups.lease(once()));
    // Both wait: their calls are with the owner.
    assert!(poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
    let info = world.groups.get(&topic(), &group()).await.unwrap();
    assert_eq!((info.status.member_count, info.status.members.len()), (0, 0));
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    world.log.put("orders", &["a", "b"]);
    let leased = second.await.unwrap();
    assert_eq!((offsets(&leased[0]), leased[0].redeliveries.len()), (vec![0, 1], 0));
    let mut member = world.join(Settings::default()).await;
    member.credit(10, 1 << 20);
    let token = Token::decode(&leased[0].token).unwrap();
    let acts = vec![(span(0, 1), Act::Ack), (span(1, 2), Act::Return)];
    world.groups.settle(token, Settlement { acts, reasons: Vec::new() }).await.unwrap();
    let again = lease(&mut member).await;
    assert_eq!((offsets(&again), again.redeliveries.len()), (vec![1], 0));
}

#[tokio::test]
async fn a_unary_lease_lasts_without_a_call_and_its_session_ends_with_it() {
    let world = World::new().await;
    world.groups.create(&topic(), &group(), From::Start(Start::Earliest), Settings::default()).await.unwrap();
    let once =
        |records| LeaseOnce { topic: topic(), group: group(), records, bytes: 1 << 20, wait: Duration::ZERO };
    assert!(world.groups.lease(once(1)).await.unwrap().is_empty());
    world.log.put("orders", &["a", "b", "c"]);
    let leased = world.groups.lease(once(2)).await.unwrap();
    assert_eq!(offsets(&leased[0]), [0, 1]);
    let rest = world.groups.lease(once(5)).await.unwrap();
    assert_eq!(offsets(&rest[0]), [2]);
    let token = Token::decode(&leased[0].token).unwrap();
    let acked = Settlement { acts: vec![(span(0, 2), Act::Ack)], reasons: Vec::new() };
    let outcomes = world.groups.settle(token.clone(), acked.clone()).await.unwrap();
    assert_eq!(outcomes, [(span(0, 2), Outcome::Settled)]);
    let again = world.groups.settle(token, acked).await.unwrap();
    assert_eq!(again, [(span(0, 2), Outcome::Settled)], "a retry after a lost answer");
    let left = world.groups.extend(Token::decode(&rest[0].token).unwrap(), Some(Duration::from_secs(60)));
    assert!(left.await.unwrap().unwrap() > Duration::from_secs(50));
}

#[tokio::test]
async fn a_dropped_member_takes_its_session_up_again_and_a_newer_call_wins() {
    let world = World::new().await;
    world.log.put("orders", &["a"]);
    let mut first = world.join(Settings::default()).await;
    first.credit(1, 1 << 20);
    let leased = lease(&mut first).await;
    let session = first.session();
    let second = world.groups.join(joining(Some(session), None)).await.unwrap();
    assert_eq!(second.held().iter().map(|held| held.fence).collect::<Vec<_>>(), [leased.fence]);
    assert!(matches!(next(&mut first).await, Event::Ended(error) if matches!(*error, Error::SessionTaken)));
    drop((first, second));
    let mut third = world.groups.join(joining(Some(session), None)).await.unwrap();
    let outcomes = settle(&mut third, &leased, vec![(span(0, 1), Act::Ack)]).await;
    assert_eq!(outcomes, [(span(0, 1), Outcome::Settled)]);
    third.leave();
    assert!(matches!(next(&mut third).await, Event::Left));
}

#[tokio::test]
async fn a_handover_returns_nothing_twice_and_counts_no_delivery() {
    let mut world = World::new().await;
    world.log.put("orders", &["a", "b"]);
    let mut member = world.join(Settings { ack_deadline_ms: 1000, ..Settings::default() }).await;
    member.credit(1, 1 << 20);
    let leased = lease(&mut member).await;
    world.groups.close().await;
    assert!(matches!(next(&mut member).await, Event::Ended(_)));
    world.crash();
    let token = Token::decode(&leased.token).unwrap();
    let acked = Settlement { acts: vec![(span(0, 1), Act::Ack)], reasons: Vec::new() };
    let outcomes = world.groups.settle(token, acked).await.unwrap();
    assert_eq!(outcomes, [(span(0, 1), Outcome::Settled)], "the session still held it");
    let mut member = world.groups.join(joining(None, None)).await.unwrap();
    member.credit(2, 1 << 20);
    let rest = lease(&mut member).await;
    assert_eq!((offsets(&rest), rest.redeliveries.len()), (vec![1], 0));
}

#[tokio::test]
async fn records_that_the_topic_lost_are_skipped_and_counted() {
    let world = World::new().await;
    world.log.put("orders", &["a", "b"]);
    world.log.put("orders", &["c"]);
    let mut member = world.join(Settings::default()).await;
    let before = crate::record::Offset::new(2);
    world.topics.trim(&topic(), None, before).await.unwrap();
    member.credit(10, 1 << 20);
    assert_eq!(offsets(&lease(&mut member).await), [2]);
    loop {
        // The lease does not wait until the skip is durable.
        let status = world.groups.get(&topic(), &group()).await.unwrap().status;
        if status.skipped_records == 2 {
            break assert_eq!(status.lag.records, 1);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dead_letters_are_delivered_again_once_and_later_ones_by_the_next_redrive() {
    let world = World::new().await;
    let dead = TopicName::parse("dead").unwrap();
    let settings = Settings { dead_letter_topic: Some(dead), ..Settings::default() };
    let mut member = world.join(settings).await;
    member.credit(10, 1 << 20);
    world.log.put("orders", &["a", "b"]);
    let leased = lease(&mut member).await;
    let acts = vec![(span(0, 1), Act::Ack), (span(1, 2), Act::Reject)];
    settle(&mut member, &leased, acts).await;
    let status = async || world.groups.get(&topic(), &group()).await.unwrap().status;
    while status().await.dead_lettered_records == 0 {
        tokio::task::yield_now().await;
    }
    let all = || Redrive { source: Source::DeadLetters, spans: Vec::new(), republish_trimmed: false };
    let redriven = world.groups.redrive(&topic(), &group(), all()).await.unwrap();
    assert_eq!(redriven, Redriven { reopened: 1, ..Redriven::default() });
    let again = lease(&mut member).await;
    assert_eq!((offsets(&again), again.redeliveries.len()), (vec![1], 0));
    let redriven = world.groups.redrive(&topic(), &group(), all()).await.unwrap();
    assert_eq!(redriven.reopened, 0, "each copy once");
    settle(&mut member, &again, vec![(span(1, 2), Act::Ack)]).await;
    assert_eq!(status().await.lag.records, 0);
    let named = Redrive { spans: vec![span(0, 9)], ..all() };
    let redriven = world.groups.redrive(&topic(), &group(), named).await.unwrap();
    assert_eq!(redriven.reopened, 1, "those that are named come again");
}

#[tokio::test]
async fn keys_that_were_set_aside_come_again_in_order() {
    let world = World::new().await;
    let settings =
        Settings { order: Order::Total, poison: super::logic::Poison::ParkKey, ..Settings::default() };
    let mut member = world.join(settings).await;
    member.credit(10, 1 << 20);
    world.log.put("orders", &["a", "b"]);
    let leased = lease(&mut member).await;
    settle(&mut member, &leased, vec![(span(0, 1), Act::Reject)]).await;
    let status = async || world.groups.get(&topic(), &group()).await.unwrap().status;
    while status().await.parked_records < 2 {
        tokio::task::yield_now().await;
    }
    let parked = Redrive { source: Source::Parked, spans: Vec::new(), republish_trimmed: false };
    let redriven = world.groups.redrive(&topic(), &group(), parked).await.unwrap();
    assert_eq!((redriven.reopened, status().await.parked_records), (2, 0));
    assert_eq!(offsets(&lease(&mut member).await), [0, 1]);
}

#[tokio::test]
async fn a_record_larger_than_all_credit_comes_alone() {
    let world = World::new().await;
    let large = "x".repeat(10_000);
    world.log.put("orders", &[&large, &large, "c"]);
    let mut member = world.join(Settings::default()).await;
    member.credit(10, 100);
    let leased = lease(&mut member).await;
    assert_eq!(offsets(&leased), [0]);
    let acked = Settlement { acts: vec![(span(0, 1), Act::Ack)], reasons: Vec::new() };
    member.settle(1, Token::decode(&leased.token).unwrap(), acked);
    // Credit comes back when a settlement is received, before it is durable.
    assert_eq!(offsets(&lease(&mut member).await), [1]);
}

/// A token is what its holder says: a made-up one settles nothing, and costs nothing.
#[tokio::test]
async fn a_token_that_claims_every_offset_is_judged_at_once() {
    let mut world = World::new().await;
    world.log.put("orders", &["a"]);
    let mut member = world.join(Settings::default()).await;
    member.credit(1, 1 << 20);
    let mut token = Token::decode(&lease(&mut member).await.token).unwrap();
    token.held = vec![span(0, u64::MAX)];
    for crashes in 0..2 {
        let acts = vec![(span(5, u64::MAX), Act::Return), (span(5, u64::MAX), Act::Nack(None))];
        let settled = world.groups.settle(token.clone(), Settlement { acts, reasons: Vec::new() });
        let outcomes =
            tokio::time::timeout(Duration::from_secs(10), settled).await.expect("at once").unwrap();
        assert!(
            outcomes.iter().all(|(_, outcome)| *outcome == Outcome::LeaseLost),
            "{crashes}: {outcomes:?}"
        );
        world.crash();
    }
}

#[tokio::test]
async fn a_record_that_is_given_up_again_after_a_redrive_gets_another_copy() {
    let world = World::new().await;
    let dead = TopicName::parse("dead").unwrap();
    let settings = Settings { dead_letter_topic: Some(dead.clone()), ..Settings::default() };
    let mut member = world.join(settings).await;
    member.credit(1, 1 << 20);
    world.log.put("orders", &["a"]);
    for round in 1..=3 {
        let leased = lease(&mut member).await;
        let token = Token::decode(&leased.token).unwrap();
        let reasons = vec![(span(0, 1), format!("reason {}", round % 2).into())];
        member.settle(round, token, Settlement { acts: vec![(span(0, 1), Act::Reject)], reasons });
        while world.groups.get(&topic(), &group()).await.unwrap().status.dead_lettered_records < round {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.topics.get(&dead).await.unwrap().tail().get(), round, "a copy each time");
        assert!(matches!(next(&mut member).await, Event::Settled { .. }));
        let all = Redrive { source: Source::DeadLetters, spans: Vec::new(), republish_trimmed: false };
        assert_eq!(world.groups.redrive(&topic(), &group(), all).await.unwrap().reopened, 1);
    }
}

#[tokio::test]
async fn a_token_of_one_group_extends_no_lease_of_another() {
    let mut world = World::new().await;
    world.log.put("orders", &["a"]);
    let mut member = world.join(Settings::default()).await;
    member.credit(1, 1 << 20);
    let token = Token::decode(&lease(&mut member).await.token).unwrap();
    // Another group of the same shard.
    let shard = super::logic::shard_of(&topic(), &group());
    let names = (0..).map(|n| GroupName::parse(&format!("g{n}")).unwrap());
    let other = names.into_iter().find(|name| super::logic::shard_of(&topic(), name) == shard).unwrap();
    let from = From::Start(Start::Earliest);
    let id = world.groups.create(&topic(), &other, from, Settings::default()).await.unwrap().id;
    let forged = Token { group: other, id, ..token.clone() };
    for _ in 0..2 {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(world.groups.extend(forged.clone(), minute).await.unwrap(), None);
        assert!(world.groups.extend(token.clone(), minute).await.unwrap().is_some());
        world.groups.close().await;
        world.crash();
    }
}
