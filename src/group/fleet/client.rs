//! The side of a link at a replica that does not own the shard: messages of its calls and members go to the owner, whose
//! answers and events come back. Calls cannot tell whether the owner is here or elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::super::clock::Right;
use super::super::error::Error;
use super::super::events::{Event, EventSender, Held, Leased};
use super::super::info::Info;
use super::super::logic::{Fence, GroupId, Piece, SessionId, Span};
use super::super::mailbox::{
    Asker, Joined, Mailbox, Members, Message, Name, NewGroup, NewLease, NewMember, Outcomes, Progress, Reply,
};
use super::super::recent::Recent;
use super::super::requests::Settlement;
use super::super::token::Token;
use super::frames::{
    self, Answer, Call, Frame, FromOwner, HeldLease, Hello, Letter, Part, ToOwner, Told, Unknown, Welcome,
};
use super::link::{Link, PING_INTERVAL};
use crate::record::Epoch;
use crate::storage::{self, BoxFuture, Inbox, ReplicaBus, TopicLog};
use crate::topic::{self, Topics};

/// Longest wait for an owner to answer the first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after which the owner counts as gone.
const SILENCE: Duration = Duration::from_secs(2);
/// Time for which leases are handed out after a letter of this replica that the owner has answered.
const LEASE_AGE_MAX: Duration = Duration::from_secs(2);
/// Time after which a link that nobody needs is closed.
const UNUSED_MAX: Duration = Duration::from_secs(30);
/// Messages taken before they are sent.
const MESSAGES_AT_ONCE: usize = 256;
/// Most bytes of the reasons of one settlement; further ones are not told.
const REASON_BYTES_MAX: usize = 256 << 10;

/// Connects to the owner of a shard. None if it has none.
///
/// # Errors
/// NATS or the owner does not answer.
pub(super) async fn connect(
    bus: &ReplicaBus,
    address: &str,
    (topics, recent): (Topics, Arc<Recent>),
    tasks: &TaskTracker,
) -> Result<Option<Mailbox>, storage::Error> {
    let own = Link::address();
    let inbox = bus.listen(&own).await?;
    let hello = serde_json::to_vec(&Hello { from: own.clone() }).unwrap_or_default();
    let Some(answer) = bus.ask(address, hello.into(), HELLO_TIMEOUT).await? else { return Ok(None) };
    let Ok(Welcome { to }) = serde_json::from_slice(&answer) else { return Ok(None) };
    let (sender, mailbox) = mpsc::unbounded_channel();
    let client = Client {
        link: Link::new(bus.clone(), own, to),
        inbox,
        mailbox,
        topics,
        recent,
        next_call: 0,
        waiting: HashMap::new(),
        joining: FuturesUnordered::new(),
        members: HashMap::new(),
        lags: HashMap::new(),
        closing: None,
        used_at: Instant::now(),
        right: Right::default(),
    };
    tasks.spawn(client.run());
    Ok(Some(sender))
}

/// Receiver of the answer to a call.
enum Waiting {
    Info(Reply<Info>),
    Infos(Reply<Vec<Info>>),
    Saved(Reply<(Info, Vec<Piece>)>),
    Done(Reply<()>),
    Count(Reply<u64>),
    Joined(Reply<Joined>, u64, Here),
    Outcomes(Reply<Outcomes>),
    Left(Reply<Option<Duration>>),
}

/// A member of this replica.
struct Here {
    session: SessionId,
    events: EventSender,
    /// Group of the member.
    name: Name,
    /// True for a call that gets one lease.
    is_once: bool,
}

/// A member that has joined, and its topic.
type Joining = BoxFuture<'static, (Box<Arriving>, Result<Arc<dyn TopicLog>, topic::Error>)>;

struct Arriving {
    info: Info,
    stream: u64,
    held: Vec<HeldLease>,
    has_created: bool,
    reply: Reply<Joined>,
}

struct Client {
    link: Link,
    inbox: Inbox,
    mailbox: mpsc::UnboundedReceiver<Message>,
    topics: Topics,
    recent: Arc<Recent>,
    next_call: u64,
    waiting: HashMap<u64, Waiting>,
    joining: FuturesUnordered<Joining>,
    members: HashMap<u64, Here>,
    lags: HashMap<GroupId, Arc<Progress>>,
    closing: Option<oneshot::Sender<()>>,
    /// Time at which a call or a member last needed the link.
    used_at: Instant,
    /// Right to hand out leases of this owner.
    right: Right,
}

impl Client {
    async fn run(mut self) {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        loop {
            let mut is_due = false;
            tokio::select! {
                message = self.mailbox.recv() => match message {
                    Some(message) => self.take_all(message),
                    None => break,
                },
                arrived = self.inbox.next() => match arrived {
                    Some(arrived) if !arrived.is_undelivered && self.arrived(&arrived.message) => {}
                    _ => break,
                },
                Some((arriving, topic)) = self.joining.next() => self.joined(*arriving, topic),
                _ = ping.tick() => {
                    is_due = true;
                    self.recent.expire();
                    // What no member reads any more.
                    self.lags.retain(|_, lag| Arc::strong_count(lag) > 1);
                }
            }
            if self.closing.is_some() {
                let _ = self.link.flush(true).await;
                break;
            }
            if self.is_unused() {
                // A message that comes at this moment is sent again by its caller.
                self.mailbox.close();
                let _ = self.link.flush(true).await;
                break;
            }
            if self.link.is_silent(SILENCE) {
                break;
            }
            if (is_due || self.link.has_frames()) && self.link.flush(false).await.is_err() {
                break;
            }
        }
        self.end();
    }

    /// Returns true if nobody has needed the link for a while.
    fn is_unused(&mut self) -> bool {
        if !(self.members.is_empty() && self.waiting.is_empty() && self.joining.is_empty()) {
            self.used_at = Instant::now();
        }
        self.used_at.elapsed() >= UNUSED_MAX
    }

    /// Fails everything that waits for the owner.
    fn end(mut self) {
        self.mailbox.close();
        for member in self.members.into_values() {
            let _ = member.events.send(Box::new(Event::ended(Error::Lost)));
        }
        for waiting in self.waiting.into_values() {
            waiting.fail(Error::Lost);
        }
        while let Ok(message) = self.mailbox.try_recv() {
            message.fail(Error::Moved);
        }
        if let Some(closed) = self.closing {
            let _ = closed.send(());
        }
    }

    fn take_all(&mut self, first: Message) {
        self.used_at = Instant::now();
        self.take(first);
        for _ in 1..MESSAGES_AT_ONCE {
            let Ok(message) = self.mailbox.try_recv() else { return };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        let frame = match message {
            Message::Credit { session, stream, records, bytes } => {
                ToOwner::Credit { session, stream, records, bytes }
            }
            Message::Settle(token, settlement, Asker::Member(stream, number)) => {
                ToOwner::Settle { stream, number, token, settlement: shortened(settlement) }
            }
            Message::Extend(token, time, Asker::Member(stream, number)) => {
                ToOwner::Extend { stream, number, token, time }
            }
            Message::GiveUp { group, fence, spans, act } => ToOwner::GiveUp { group, fence, spans, act },
            Message::Leave { session, stream } => ToOwner::Leave { session, stream },
            Message::Cut { session, stream } => {
                self.members.remove(&stream);
                ToOwner::Cut { session, stream }
            }
            Message::StopWaiting { session, stream } => ToOwner::StopWaiting { session, stream },
            Message::Cancel { session, stream } => {
                self.members.remove(&stream);
                ToOwner::Cancel { session, stream }
            }
            Message::Close(closed) => {
                self.closing = Some(closed);
                return;
            }
            other => return self.call(other),
        };
        self.link.push(&frame);
    }

    fn call(&mut self, message: Message) {
        let (call, waiting) = match message {
            Message::Create(name, new, reply) => (Call::Create(name, told(new)), Waiting::Info(reply)),
            Message::Describe(name, members, reply) => {
                (Call::Describe(name, members == Members::With), Waiting::Info(reply))
            }
            Message::List(topic, after, limit, reply) => {
                (Call::List(topic, after, limit), Waiting::Infos(reply))
            }
            Message::Update(name, id, settings, reply) => {
                (Call::Update(name, id, settings), Waiting::Info(reply))
            }
            Message::Delete(name, id, reply) => (Call::Delete(name, id), Waiting::Done(reply)),
            Message::Save(name, reply) => (Call::Save(name), Waiting::Saved(reply)),
            Message::Restore(name, id, topic, state, reply) => {
                let parts = state.parts().iter().map(Part::of).collect();
                (Call::Restore(name, id, topic.epoch(), parts), Waiting::Info(reply))
            }
            Message::Seek(name, topic, to, reply) => {
                (Call::Seek(name, topic.epoch(), to), Waiting::Info(reply))
            }
            Message::Redrive(name, what, reply) => (Call::Redrive(name, what), Waiting::Count(reply)),
            Message::Join(new, reply) => {
                let NewMember {
                    name, member, principal, session, stream, is_resumed, create, events, ..
                } = new;
                let here = Here { session, events, name: name.clone(), is_once: false };
                let (principal, create) = (principal.as_ref().into(), create.map(told));
                let join = frames::Join { name, member, principal, session, stream, is_resumed, create };
                (Call::Join(join), Waiting::Joined(reply, stream, here))
            }
            Message::LeaseOnce(new, reply) => {
                let NewLease { name, session, stream, records, bytes, events } = new;
                let here = Here { session, events, name: name.clone(), is_once: true };
                self.members.insert(stream, here);
                (Call::LeaseOnce { name, session, stream, records, bytes }, Waiting::Done(reply))
            }
            Message::Settle(token, settlement, Asker::Call(reply)) => {
                (Call::Settle(token, shortened(settlement)), Waiting::Outcomes(reply))
            }
            Message::Extend(token, time, Asker::Call(reply)) => {
                (Call::Extend(token, time), Waiting::Left(reply))
            }
            // Handled by the caller.
            _ => return,
        };
        self.next_call += 1;
        self.link.push(&ToOwner::Call(self.next_call, call));
        self.waiting.insert(self.next_call, waiting);
    }

    /// Takes a letter. Returns false if the link is at its end.
    fn arrived(&mut self, message: &[u8]) -> bool {
        let Some(Letter { heard, is_last, frames, .. }) = self.link.read(message) else {
            return false;
        };
        self.right.prolong(self.link.time_of(heard) + LEASE_AGE_MAX);
        for frame in frames {
            match Frame::read(&frame) {
                Frame::Known(FromOwner::Answer(id, answer)) => self.answered(id, answer),
                Frame::Known(FromOwner::Event(stream, told)) => self.told(stream, told),
                Frame::Known(FromOwner::Lag(group, records, oldest)) => {
                    if let Some(lag) = self.lags.get(&group) {
                        lag.store(records, oldest);
                    }
                }
                Frame::Unknown(unknown) => self.not_understood(&unknown),
            }
        }
        !is_last
    }

    /// Ends what a newer owner answered or told in a way that this replica does not know.
    fn not_understood(&mut self, unknown: &Unknown) {
        tracing::warn!(kind = unknown.kind, "the owner of the groups is newer, and is not understood");
        match (unknown.kind.as_str(), unknown.number) {
            ("Answer", Some(id)) => self.answered(id, Err(Error::Lost)),
            ("Event", Some(stream)) => {
                if let Some(here) = self.members.get(&stream) {
                    let session = here.session;
                    self.told(stream, Told::Ended(Error::Lost));
                    self.link.push(&ToOwner::Cut { session, stream });
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, id: u64, answer: Result<Answer, Error>) {
        let Some(waiting) = self.waiting.remove(&id) else { return };
        match (waiting, answer) {
            (waiting, Err(error)) => waiting.fail(error),
            (Waiting::Info(reply), Ok(Answer::Info(info))) => drop(reply.send(Ok(*info))),
            (Waiting::Infos(reply), Ok(Answer::Infos(infos))) => drop(reply.send(Ok(infos))),
            (Waiting::Saved(reply), Ok(Answer::Saved(info, parts))) => {
                let parts: Option<Vec<Piece>> = parts.iter().map(Part::decode).collect();
                drop(reply.send(parts.map(|parts| (*info, parts)).ok_or(Error::Lost)));
            }
            (Waiting::Done(reply), Ok(Answer::Done)) => drop(reply.send(Ok(()))),
            (Waiting::Count(reply), Ok(Answer::Count(count))) => drop(reply.send(Ok(count))),
            (Waiting::Outcomes(reply), Ok(Answer::Outcomes(outcomes))) => drop(reply.send(Ok(outcomes))),
            (Waiting::Left(reply), Ok(Answer::Left(left))) => drop(reply.send(Ok(left))),
            (Waiting::Joined(reply, stream, here), Ok(Answer::Joined { info, held, has_created })) => {
                self.members.insert(stream, here);
                let arriving = Box::new(Arriving { info: *info, stream, held, has_created, reply });
                let topics = self.topics.clone();
                self.joining.push(Box::pin(async move {
                    let topic = topics.get(&arriving.info.topic).await;
                    (arriving, topic)
                }));
            }
            (waiting, Ok(_)) => waiting.fail(Error::Lost),
        }
    }

    fn joined(&mut self, arriving: Arriving, topic: Result<Arc<dyn TopicLog>, topic::Error>) {
        let Arriving { info, stream, held, has_created, reply } = arriving;
        let Some(here) = self.members.get(&stream) else { return };
        let held = held.into_iter().map(|HeldLease { fence, left, spans }| Held {
            token: here.token_of((info.id, info.topic_epoch), fence, &spans),
            fence,
            left,
            spans,
        });
        let held: Vec<Held> = held.collect();
        let (progress, recent) = (self.lags.entry(info.id).or_default().clone(), self.recent.clone());
        let joined = match topic {
            Ok(topic) if topic.epoch() == info.topic_epoch => {
                Ok(Joined { info, held, has_created, topic, recent, progress })
            }
            Ok(_) => Err(Error::NotFound),
            Err(error) => Err(error.into()),
        };
        let is_member = joined.is_ok();
        if (reply.send(joined).is_err() || !is_member)
            && let Some(here) = self.members.remove(&stream)
        {
            self.link.push(&ToOwner::Cut { session: here.session, stream });
        }
    }

    fn told(&mut self, stream: u64, told: Told) {
        let Some(here) = self.members.get(&stream) else { return };
        let event = match told {
            Told::Lease(given) => Event::Lease(Box::new(Leased {
                batches: Vec::new(),
                token: here.token_of((given.group, given.epoch), given.fence, &given.spans),
                records: given.records,
                fence: given.fence,
                left: given.left,
                redeliveries: given.redeliveries,
                spans: given.spans,
                group: given.group,
                epoch: given.epoch,
                right: Some(self.right.clone()),
            })),
            Told::Settled(number, outcomes) => Event::Settled { number, outcomes },
            Told::Extended(number, left) => Event::Extended { number, left },
            Told::Revoked(fence, spans) => Event::Revoked { fence, spans },
            Told::Left => Event::Left,
            Told::Ended(error) => Event::ended(error),
        };
        let is_last = here.is_once || matches!(event, Event::Left | Event::Ended(_));
        // A member that is dropped sends a cut.
        let _ = here.events.send(Box::new(event));
        if is_last {
            self.members.remove(&stream);
        }
    }
}

impl Here {
    /// Token of a lease of an incarnation of the group and its topic.
    fn token_of(&self, (id, epoch): (GroupId, Epoch), fence: Fence, spans: &[Span]) -> bytes::Bytes {
        let Name { topic, group } = self.name.clone();
        Token { topic, group, id, epoch, fence, held: spans.to_vec() }.encode()
    }
}

impl Waiting {
    fn fail(self, error: Error) {
        match self {
            Self::Info(reply) => drop(reply.send(Err(error))),
            Self::Infos(reply) => drop(reply.send(Err(error))),
            Self::Saved(reply) => drop(reply.send(Err(error))),
            Self::Done(reply) => drop(reply.send(Err(error))),
            Self::Count(reply) => drop(reply.send(Err(error))),
            Self::Joined(reply, ..) => drop(reply.send(Err(error))),
            Self::Outcomes(reply) => drop(reply.send(Err(error))),
            Self::Left(reply) => drop(reply.send(Err(error))),
        }
    }
}

fn told(new: NewGroup) -> frames::NewGroup {
    frames::NewGroup { id: Some(new.id), epoch: new.topic.epoch(), start: new.start, settings: new.settings }
}

/// A settlement whose reasons fit into a letter.
fn shortened(mut settlement: Settlement) -> Settlement {
    let mut bytes = 0;
    settlement.reasons.retain(|(_, reason)| {
        bytes += reason.len();
        bytes <= REASON_BYTES_MAX
    });
    settlement
}
