//! The owner's side of links: requests of other replicas become messages to the task of the shard, and its answers and
//! events go back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, poll_fn};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::super::delivery::give_up;
use super::super::error::Error;
use super::super::events::{Event, EventReceiver};
use super::super::info::Info;
use super::super::logic::{Act, GroupId, GroupState, Piece, SessionId};
use super::super::mailbox::{
    Asker, Joined, Mailbox, Members, Message, Name, NewGroup, NewLease, NewMember, Progress, Reply,
};
use super::super::member::ask;
use super::super::random::random;
use super::frames::{self, Answer, Call, Frame, FromOwner, Hello, Part, ToOwner, Told, Unknown, Welcome};
use super::link::{Link, PING_INTERVAL};
use crate::record::{Epoch, TopicName};
use crate::storage::{Arrived, BoxFuture, Inbox, ReplicaBus, TopicLog};
use crate::topic::Topics;

/// Silence after which a replica counts as gone. It gives up its members earlier.
const SILENCE: Duration = Duration::from_secs(6);
/// Events gathered before they are sent.
const EVENTS_AT_ONCE: usize = 256;
/// Most open links of a shard. A replica has one, and for a while a second one after it lost the first. Whoever may publish to
/// NATS can ask for more; one of which nothing more is heard ends after [`SILENCE`].
const LINKS_MAX: usize = 1000;

/// Serves other replicas for as long as the task of the shard works.
pub(super) async fn serve(served: Served, mut inbox: Inbox) {
    loop {
        let arrived = tokio::select! {
            arrived = inbox.next() => arrived,
            () = served.shard.closed() => return,
        };
        let Some(arrived) = arrived else { return };
        if let Err(error) = served.welcome(arrived).await {
            tracing::debug!(%error, "a replica could not be answered");
        }
    }
}

/// Parts of which links of a shard are made.
#[derive(Clone)]
pub(super) struct Served {
    pub bus: ReplicaBus,
    pub shard: Mailbox,
    pub topics: Topics,
    pub tasks: TaskTracker,
    /// Places for links.
    links: Arc<Semaphore>,
}

impl Served {
    pub(super) fn new(bus: ReplicaBus, shard: Mailbox, topics: Topics, tasks: TaskTracker) -> Self {
        Self { bus, shard, topics, tasks, links: Arc::new(Semaphore::new(LINKS_MAX)) }
    }

    async fn welcome(&self, arrived: Arrived) -> Result<(), crate::storage::Error> {
        let Ok(Hello { from }) = serde_json::from_slice(&arrived.message) else { return Ok(()) };
        if !Link::is_address(&from) {
            return Ok(());
        }
        let Ok(place) = self.links.clone().try_acquire_owned() else {
            tracing::warn!(limit = LINKS_MAX, "too many replicas ask for the groups of a shard");
            return Ok(());
        };
        let own = Link::address();
        let inbox = self.bus.listen(&own).await?;
        let server = Server {
            served: self.clone(),
            link: Link::new(self.bus.clone(), own.clone(), from),
            inbox,
            calls: FuturesUnordered::new(),
            events: SelectAll::new(),
            opening: HashSet::new(),
            members: HashMap::new(),
            lags: HashMap::new(),
        };
        self.tasks.spawn(async move {
            server.run().await;
            drop(place);
        });
        let welcome = serde_json::to_vec(&Welcome { to: own }).unwrap_or_default();
        self.bus.answer(arrived, welcome.into()).await
    }
}

/// A member of another replica.
struct Member {
    session: SessionId,
    /// Group of a member, and its lag. None for a call that waits for a lease.
    progress: Option<(GroupId, Arc<Progress>)>,
}

impl Member {
    /// The message that its call has ended.
    const fn end(&self, stream: u64) -> Message {
        let session = self.session;
        match self.progress {
            Some(_) => Message::Cut { session, stream },
            None => Message::Cancel { session, stream },
        }
    }
}

/// The owner's side of one link.
struct Server {
    served: Served,
    link: Link,
    inbox: Inbox,
    calls: FuturesUnordered<BoxFuture<'static, (u64, Done)>>,
    events: SelectAll<BoxStream<'static, (u64, Event)>>,
    /// Streams whose joins or waits are not answered, and which have not ended meanwhile.
    opening: HashSet<u64>,
    members: HashMap<u64, Member>,
    /// The lags that were told.
    lags: HashMap<GroupId, (u64, u64)>,
}

/// The end of a call.
enum Done {
    Answer(Result<Answer, Error>),
    /// A stream was not opened.
    Refused(u64, Error),
    Joined(Box<Joined>, SessionId, u64, EventReceiver),
    /// A call waits for a lease.
    Waits(u64, Member, EventReceiver),
}

impl Server {
    async fn run(mut self) {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        let shard = self.served.shard.clone();
        loop {
            let mut is_due = false;
            tokio::select! {
                arrived = self.inbox.next() => match arrived {
                    Some(arrived) if !arrived.is_undelivered && self.arrived(&arrived.message) => {}
                    _ => break,
                },
                Some((id, done)) = self.calls.next() => self.done(id, done),
                Some((stream, event)) = self.events.next() => self.event(stream, event),
                _ = ping.tick() => {
                    is_due = true;
                    self.tell_lags();
                }
                () = shard.closed() => {
                    self.gather();
                    let _ = self.link.flush(true).await;
                    break;
                }
            }
            self.gather();
            if self.link.is_silent(SILENCE) {
                break;
            }
            if (is_due || self.link.has_frames()) && self.link.flush(false).await.is_err() {
                break;
            }
        }
        for (stream, member) in self.members.drain() {
            let _ = shard.send(member.end(stream));
        }
    }

    /// Takes what is ready besides.
    fn gather(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Some(Some((stream, event))) = self.events.next().now_or_never() else { break };
            self.event(stream, event);
        }
        while let Some(Some((id, done))) = self.calls.next().now_or_never() {
            self.done(id, done);
        }
    }

    /// Takes a letter. Returns false if the link is at its end.
    fn arrived(&mut self, message: &[u8]) -> bool {
        let Some(letter) = self.link.read(message) else { return false };
        for frame in letter.frames {
            match Frame::read(&frame) {
                Frame::Known(frame) => self.take(frame),
                Frame::Unknown(unknown) => self.not_understood(&unknown),
            }
        }
        !letter.is_last
    }

    /// Refuses a request of a newer replica that this one does not know.
    fn not_understood(&mut self, unknown: &Unknown) {
        tracing::warn!(kind = unknown.kind, "a request of a newer replica is not understood");
        if let ("Call", Some(id)) = (unknown.kind.as_str(), unknown.number) {
            self.link.push(&FromOwner::Answer(id, Err(Error::Unsupported)));
        }
    }

    fn take(&mut self, frame: ToOwner) {
        let message = match frame {
            ToOwner::Call(id, call) => return self.call(id, call),
            ToOwner::Credit { session, stream, records, bytes } => {
                Message::Credit { session, stream, records, bytes }
            }
            ToOwner::Settle { stream, number, token, settlement } => {
                Message::Settle(token, settlement, Asker::Member(stream, number))
            }
            ToOwner::Extend { stream, number, token, time } => {
                Message::Extend(token, time, Asker::Member(stream, number))
            }
            ToOwner::GiveUp { group, fence, spans, act } => Message::GiveUp { group, fence, spans, act },
            ToOwner::Leave { session, stream } => Message::Leave { session, stream },
            ToOwner::Cut { session, stream } => {
                self.forget(stream);
                Message::Cut { session, stream }
            }
            ToOwner::StopWaiting { session, stream } => Message::StopWaiting { session, stream },
            ToOwner::Cancel { session, stream } => {
                self.forget(stream);
                Message::Cancel { session, stream }
            }
        };
        // A task that ended closes the link.
        let _ = self.served.shard.send(message);
    }

    fn forget(&mut self, stream: u64) {
        self.members.remove(&stream);
        self.opening.remove(&stream);
    }

    fn call(&mut self, id: u64, call: Call) {
        match call {
            Call::Create(name, new) => self.create(id, name, new),
            Call::Describe(name, with) => {
                let members = if with { Members::With } else { Members::Without };
                self.ask(id, |reply| Message::Describe(name, members, reply), info);
            }
            Call::List(topic, after, limit) => {
                self.ask(id, |reply| Message::List(topic, after, limit, reply), Answer::Infos);
            }
            Call::Update(name, group, settings) => {
                self.ask(id, |reply| Message::Update(name, group, settings, reply), info);
            }
            Call::Delete(name, group) => {
                self.ask(id, |reply| Message::Delete(name, group, reply), |()| Answer::Done);
            }
            Call::Save(name) => {
                let saved = |(info, parts): (Info, Vec<Piece>)| {
                    Answer::Saved(Box::new(info), parts.iter().map(Part::of).collect())
                };
                self.ask(id, |reply| Message::Save(name, reply), saved);
            }
            Call::Restore(name, group, epoch, parts) => self.restore(id, name, group, epoch, &parts),
            Call::Seek(name, epoch, to) => self.seek(id, name, epoch, to),
            Call::Redrive(name, what) => {
                self.ask(id, |reply| Message::Redrive(name, what, reply), Answer::Count);
            }
            Call::Join(join) => self.join(id, join),
            Call::LeaseOnce { name, session, stream, records, bytes } => {
                let (events, received) = mpsc::unbounded_channel();
                let new = NewLease { name, session, stream, records, bytes, events };
                self.opening.insert(stream);
                let member = Member { session, progress: None };
                let waits = move |answered| match answered {
                    Ok(()) => Done::Waits(stream, member, received),
                    Err(error) => Done::Refused(stream, error),
                };
                self.ask_for(id, |reply| Message::LeaseOnce(new, reply), waits);
            }
            Call::Settle(token, settlement) => {
                let message = |reply| Message::Settle(token, settlement, Asker::Call(reply));
                self.ask(id, message, Answer::Outcomes);
            }
            Call::Extend(token, time) => {
                self.ask(id, |reply| Message::Extend(token, time, Asker::Call(reply)), Answer::Left);
            }
        }
    }

    fn ask<T: Send + 'static>(
        &self,
        id: u64,
        message: impl FnOnce(Reply<T>) -> Message,
        answer: impl FnOnce(T) -> Answer + Send + 'static,
    ) {
        self.ask_for(id, message, |answered| Done::Answer(answered.map(answer)));
    }

    fn ask_for<T: Send + 'static>(
        &self,
        id: u64,
        message: impl FnOnce(Reply<T>) -> Message,
        done: impl FnOnce(Result<T, Error>) -> Done + Send + 'static,
    ) {
        let (reply, answered) = oneshot::channel();
        let is_sent = self.served.shard.send(message(reply)).is_ok();
        self.calls.push(Box::pin(async move {
            let answered =
                if is_sent { answered.await.unwrap_or(Err(Error::Lost)) } else { Err(Error::Moved) };
            (id, done(answered))
        }));
    }

    fn create(&self, id: u64, name: Name, new: frames::NewGroup) {
        let Served { shard, topics, .. } = self.served.clone();
        self.calls.push(Box::pin(async move {
            let created = async {
                let new = new_group(&topics, &name.topic, new).await?;
                ask(&shard, |reply| Message::Create(name, new, reply)).await
            };
            (id, Done::Answer(created.await.map(info)))
        }));
    }

    fn restore(&self, id: u64, name: Name, group: GroupId, epoch: Epoch, parts: &[Part]) {
        let Served { shard, topics, .. } = self.served.clone();
        let parts: Option<Vec<Piece>> = parts.iter().map(Part::decode).collect();
        self.calls.push(Box::pin(async move {
            let restored = async {
                let state = parts.and_then(|parts| GroupState::of_parts(&parts)).ok_or(Error::Lost)?;
                let topic = topic_of(&topics, &name.topic, epoch).await?;
                let state = Box::new(state);
                ask(&shard, |reply| Message::Restore(name, group, topic, state, reply)).await
            };
            (id, Done::Answer(restored.await.map(info)))
        }));
    }

    fn seek(&self, id: u64, name: Name, epoch: Epoch, to: u64) {
        let Served { shard, topics, .. } = self.served.clone();
        self.calls.push(Box::pin(async move {
            let sought = async {
                let topic = topic_of(&topics, &name.topic, epoch).await?;
                ask(&shard, |reply| Message::Seek(name, topic, to, reply)).await
            };
            (id, Done::Answer(sought.await.map(info)))
        }));
    }

    fn join(&mut self, id: u64, join: frames::Join) {
        self.opening.insert(join.stream);
        let Served { shard, topics, .. } = self.served.clone();
        self.calls.push(Box::pin(async move {
            let (events, received) = mpsc::unbounded_channel();
            let (session, stream) = (join.session, join.stream);
            let joined = async {
                let create = match join.create {
                    Some(new) => Some(new_group(&topics, &join.name.topic, new).await?),
                    None => None,
                };
                let new = NewMember {
                    name: join.name,
                    member: join.member,
                    principal: join.principal.into(),
                    session,
                    stream,
                    is_resumed: join.is_resumed,
                    create,
                    has_created: false,
                    events,
                };
                ask(&shard, |reply| Message::Join(new, reply)).await
            };
            match joined.await {
                Ok(joined) => (id, Done::Joined(Box::new(joined), session, stream, received)),
                Err(error) => (id, Done::Refused(stream, error)),
            }
        }));
    }

    fn done(&mut self, id: u64, done: Done) {
        let answer = match done {
            Done::Answer(answer) => answer,
            Done::Refused(stream, error) => {
                self.opening.remove(&stream);
                Err(error)
            }
            Done::Joined(joined, session, stream, received) => {
                let Joined { info, held, has_created, progress, .. } = *joined;
                self.listen(stream, Member { session, progress: Some((info.id, progress)) }, received);
                let held = held.into_iter().map(Into::into).collect();
                Ok(Answer::Joined { info: Box::new(info), held, has_created })
            }
            Done::Waits(stream, member, received) => {
                self.listen(stream, member, received);
                Ok(Answer::Done)
            }
        };
        self.link.push(&FromOwner::Answer(id, answer));
    }

    fn listen(&mut self, stream: u64, member: Member, mut received: EventReceiver) {
        if !self.opening.remove(&stream) {
            // It ended meanwhile, perhaps before the shard knew of it.
            let _ = self.served.shard.send(member.end(stream));
            return;
        }
        let events = poll_fn(move |cx| received.poll_recv(cx));
        self.events.push(events.map(move |event| (stream, *event)).boxed());
        self.members.insert(stream, member);
    }

    fn event(&mut self, stream: u64, event: Event) {
        let Some(member) = self.members.get(&stream) else { return };
        let is_once = member.progress.is_none();
        match event {
            Event::Lease(leased) if leased.is_too_late() => {
                let spans = leased.spans.clone();
                give_up(&self.served.shard, &leased, spans, Act::Return);
                // Later leases could hold records that come after these in their order.
                return self.end_member(stream);
            }
            Event::Ended(_) | Event::Left => drop(self.members.remove(&stream)),
            _ if is_once => drop(self.members.remove(&stream)),
            _ => {}
        }
        self.link.push(&FromOwner::Event(stream, event.into()));
    }

    fn end_member(&mut self, stream: u64) {
        if let Some(member) = self.members.remove(&stream) {
            let _ = self.served.shard.send(member.end(stream));
            self.link.push(&FromOwner::Event(stream, Told::Ended(Error::Moved)));
        }
    }

    fn tell_lags(&mut self) {
        let of = |member: &Member| {
            let (group, progress) = member.progress.as_ref()?;
            let Progress { records, oldest } = &**progress;
            Some((*group, (records.load(Ordering::Relaxed), oldest.load(Ordering::Relaxed))))
        };
        let now: HashMap<GroupId, (u64, u64)> = self.members.values().filter_map(of).collect();
        for (group, lag) in &now {
            if self.lags.get(group) != Some(lag) {
                self.link.push(&FromOwner::Lag(*group, lag.0, lag.1));
            }
        }
        self.lags = now;
    }
}

fn info(info: Info) -> Answer {
    Answer::Info(Box::new(info))
}

/// The incarnation of a topic that a request means.
async fn topic_of(topics: &Topics, name: &TopicName, epoch: Epoch) -> Result<Arc<dyn TopicLog>, Error> {
    let topic = topics.get(name).await?;
    if topic.epoch() == epoch { Ok(topic) } else { Err(Error::NotFound) }
}

async fn new_group(topics: &Topics, name: &TopicName, new: frames::NewGroup) -> Result<NewGroup, Error> {
    let frames::NewGroup { id, epoch, start, settings } = new;
    let id = id.unwrap_or_else(|| GroupId(random()));
    Ok(NewGroup { id, topic: topic_of(topics, name, epoch).await?, start, settings })
}
