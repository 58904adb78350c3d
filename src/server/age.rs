//! The maximum age of a connection. At that age, give or take a tenth, it gets a GOAWAY; after a grace period its calls
//! are told to resume on another connection; then it is closed. So a load balancer distributes long calls anew, and
//! every client sees a changed certificate or address.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::backoff::spread;
use crate::config::Config;

/// Fraction by which the ages of connections differ, so that those that began together do not end together.
const JITTER: f64 = 0.1;
/// Time that calls have to end after they were told: generous for a round trip and what is on the way.
const END_GRACE: Duration = Duration::from_secs(5);

/// Step in ending an old connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// GOAWAY: it gets no new calls.
    GoAway,
    /// The calls of the connection end, with the position to resume from.
    EndCalls,
    /// It is closed.
    Close,
}

/// Timer of one connection's age.
#[derive(Debug)]
pub(super) struct Age {
    due: Option<(Pin<Box<Sleep>>, Step)>,
    grace: Duration,
}

impl Age {
    /// Starts the timer.
    pub(super) fn start(config: &Config) -> Self {
        let (most, grace) = (config.connection_age_max, config.connection_age_grace);
        let due = (!most.is_zero()).then(|| {
            let age = spread(most, 1.0 - JITTER..1.0 + JITTER);
            (Box::pin(tokio::time::sleep(age)), Step::GoAway)
        });
        Self { due, grace }
    }

    /// Has the connection closed once its calls, which were told, had time to end.
    pub(super) fn close_soon(&mut self) {
        self.due = Some((Box::pin(tokio::time::sleep(END_GRACE)), Step::Close));
    }

    /// Waits for the next step, for ever if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Step {
        let Some((timer, step)) = &mut self.due else { return std::future::pending().await };
        timer.as_mut().await;
        let (due, wait) = (*step, if *step == Step::GoAway { self.grace } else { END_GRACE });
        timer.as_mut().reset(Instant::now() + wait);
        match due {
            Step::GoAway => *step = Step::EndCalls,
            Step::EndCalls => *step = Step::Close,
            Step::Close => self.due = None,
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::{Age, Step};
    use crate::config::Config;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_gets_a_goaway_then_its_calls_end_then_it_is_closed() {
        let config = Config { connection_age_max: Duration::from_secs(100), ..Config::default() };
        let (began, mut age) = (Instant::now(), Age::start(&config));
        assert_eq!(age.next().await, Step::GoAway);
        let at = began.elapsed();
        assert!((90..=110).contains(&at.as_secs()), "{at:?}");
        assert_eq!((age.next().await, (began.elapsed() - at).as_secs()), (Step::EndCalls, 30));
        assert_eq!((age.next().await, (began.elapsed() - at).as_secs()), (Step::Close, 35));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_grow_as_old_as_it_likes_by_default() {
        let mut age = Age::start(&Config::default());
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, age.next()).await.is_err());
    }
}
