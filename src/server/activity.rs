//! The requests of one connection of the HTTP listener, and the time for which it has none: HTTP/1.1 has no pings, so
//! nothing else tells whether an idle peer is still there.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::io::Cork;
use crate::registry::Peer;

/// Time that a peer has for the rest of a request whose headers it was sending when the drain began.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// Open requests of a connection, observed from its task.
#[derive(Clone, Debug)]
pub(super) struct Activity(watch::Sender<Requests>);

#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    open: usize,
    /// Requests whose answers go on for as long as their peer wants them.
    following: usize,
}

/// One request, open until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    requests: watch::Sender<Requests>,
    following: bool,
}

/// Reason why a connection has no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nothing.
    Idle,
    /// It has sent a part of a request's headers.
    Headers,
    /// The peer has left an answer that would go on for ever.
    Left,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn open(&self) -> Open {
        self.0.send_modify(|requests| requests.open += 1);
        Open { requests: self.0.clone(), following: false }
    }

    /// Waits until a connection of HTTP/1.1 is left while it follows a topic, or has no request while it drains. One that
    /// closes its side still gets the answer to a request that it has sent whole, but one that never ends is not for it.
    pub(super) async fn left(self, cork: Cork, leaving: CancellationToken) -> Overdue {
        let (mut following, mut open) = (self.0.subscribe(), self.0.subscribe());
        let left = async {
            loop {
                // The sender is our own, and lives.
                let _ = following.wait_for(|requests| requests.following > 0).await;
                tokio::select! {
                    () = poll_fn(|cx| cork.poll_peer_closed(cx)) => return Overdue::Left,
                    _ = following.wait_for(|requests| requests.following == 0) => {}
                }
            }
        };
        let drained = async {
            leaving.cancelled().await;
            loop {
                let _ = open.wait_for(|requests| requests.open == 0).await;
                tokio::select! {
                    () = tokio::time::sleep(DRAIN_GRACE) => return Overdue::Headers,
                    _ = open.wait_for(|requests| requests.open > 0) => {}
                }
            }
        };
        tokio::select! {
            left = left => left,
            drained = drained => drained,
        }
    }

    /// Waits until the connection had no request for `idle`, or sends the headers of one for more than `headers`. `None` is for
    /// HTTP/2, whose pings come at any time and whose library bounds headers by itself.
    pub(super) async fn overdue(self, peer: Arc<Peer>, idle: Duration, headers: Option<Duration>) -> Overdue {
        let mut open = self.0.subscribe();
        loop {
            if open.borrow_and_update().open > 0 {
                // The sender is our own, and lives.
                let _ = open.changed().await;
                continue;
            }
            tokio::select! {
                _ = open.changed() => {}
                overdue = silence(&peer, idle, headers) => return overdue,
            }
        }
    }
}

/// Waits while the peer sends nothing, for `idle` at most, and on from its first byte for `headers` to twice as long.
async fn silence(peer: &Peer, idle: Duration, headers: Option<Duration>) -> Overdue {
    let Some(headers) = headers else {
        tokio::time::sleep(idle).await;
        return Overdue::Idle;
    };
    let (before, mut waited) = (peer.bytes().0, Duration::ZERO);
    while waited < idle {
        let step = headers.min(idle - waited);
        tokio::time::sleep(step).await;
        waited += step;
        if peer.bytes().0 != before {
            tokio::time::sleep(headers).await;
            return Overdue::Headers;
        }
    }
    Overdue::Idle
}

impl Open {
    /// Notes that the answer goes on for as long as its peer wants it.
    pub(super) fn follow(&mut self) {
        if !std::mem::replace(&mut self.following, true) {
            self.requests.send_modify(|requests| requests.following += 1);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.requests.send_modify(|requests| {
            requests.open -= 1;
            requests.following -= usize::from(self.following);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Activity, Overdue};
    use crate::registry::Registry;
    use crate::topic::ShutdownSignal;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    const IDLE: Duration = Duration::from_secs(90);
    const HEADERS: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let client = Registry::default().connect(None, false, ShutdownSignal::default());
        let activity = Activity::new();
        let (began, request) = (Instant::now(), activity.open());
        let overdue = activity.clone().overdue(Arc::clone(client.peer()), IDLE, Some(HEADERS));
        let ends = async move {
            tokio::time::sleep(2 * IDLE).await;
            drop(request);
        };
        assert_eq!(tokio::join!(overdue, ends).0, Overdue::Idle);
        assert_eq!(began.elapsed(), 3 * IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_never_end_are_noticed_sooner() {
        let client = Registry::default().connect(None, false, ShutdownSignal::default());
        let began = Instant::now();
        let overdue = Activity::new().overdue(Arc::clone(client.peer()), IDLE, Some(HEADERS));
        let sends = async {
            tokio::time::sleep(HEADERS / 2).await;
            client.peer().received(1);
        };
        assert_eq!(tokio::join!(overdue, sends).0, Overdue::Headers);
        assert!(began.elapsed() <= 2 * HEADERS, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn pings_are_no_headers() {
        let client = Registry::default().connect(None, false, ShutdownSignal::default());
        let began = Instant::now();
        let overdue = Activity::new().overdue(Arc::clone(client.peer()), IDLE, None);
        let pings = async {
            tokio::time::sleep(IDLE / 2).await;
            client.peer().received(17);
        };
        assert_eq!(tokio::join!(overdue, pings).0, Overdue::Idle);
        assert_eq!(began.elapsed(), IDLE);
    }
}
