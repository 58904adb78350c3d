//! The events that a subscription waits for besides records: the heartbeat, the time limit and the shutdown. The timer
//! exists only once a subscription has waited, so that an idle one costs little.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::shutdown::ShutdownSignal;
use crate::backoff::spread;
use crate::record::UnixMicros;

/// Time after its time limit at which a subscription at the tail ends: a batch stored before the limit can become
/// durable a little later.
const UNTIL_GRACE: Duration = Duration::from_secs(1);
/// A wait longer than any subscription. It keeps sums of times in range.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The first event that occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Heartbeat,
    TimeLimit,
    Shutdown,
}

#[derive(Debug)]
pub(super) struct Timers {
    heartbeat_interval: Duration,
    /// Time of the next heartbeat.
    heartbeat: Instant,
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Timers {
    pub(super) fn new(heartbeat_interval: Duration) -> Self {
        let mut timers = Self { heartbeat_interval, heartbeat: Instant::now(), armed: None };
        timers.postpone_heartbeat();
        timers
    }

    /// Restarts the heartbeat interval, with a jitter of a tenth. This does not touch the timer.
    pub(super) fn postpone_heartbeat(&mut self) {
        self.heartbeat = Instant::now() + spread(self.heartbeat_interval, 0.9..1.1);
    }

    /// Waits for the next event, where `until` is the time limit if it counts now.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shutdown: &ShutdownSignal,
        until: Option<UnixMicros>,
    ) -> Poll<Event> {
        let wake =
            until.map_or(self.heartbeat, |until| self.heartbeat.min(Instant::now() + time_left(until)));
        let armed = self.armed.get_or_insert_with(|| Armed {
            timer: Box::pin(tokio::time::sleep_until(wake)),
            shutdown: Box::pin(shutdown.cancelled()),
        });
        if armed.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Shutdown);
        }
        // The timer may have been set before the time limit counted.
        if wake < armed.timer.deadline() {
            armed.timer.as_mut().reset(wake);
        }
        while armed.timer.as_mut().poll(cx).is_ready() {
            // The heartbeat may have been postponed since the timer was set.
            armed.timer.as_mut().reset(wake);
            if until.is_some_and(|until| time_left(until).is_zero()) {
                return Poll::Ready(Event::TimeLimit);
            }
            if Instant::now() >= self.heartbeat {
                return Poll::Ready(Event::Heartbeat);
            }
        }
        Poll::Pending
    }
}

/// Time until no batch stored before `until` can become durable any more.
pub(super) fn time_left(until: UnixMicros) -> Duration {
    let (end, now) = (Duration::from_micros(until.0) + UNTIL_GRACE, UnixMicros::now().0);
    end.saturating_sub(Duration::from_micros(now)).min(WAIT_MAX)
}
