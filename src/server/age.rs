//! The age a connection may reach: GOAWAY at it, give or take a tenth; after the grace its calls are
//! told to resume on another; then it is cut. So a load balancer spreads long calls anew, and a
//! certificate or a name that changed reaches every client.
//! Never: ends a call without telling it, where its client reads.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::backoff::spread;
use crate::config::Config;

/// How much connections' ages differ, so that those that began together do not end together.
const JITTER: f64 = 0.1;
/// How long calls that were told have to end: a round trip and what is under way, generously.
const TOLD: Duration = Duration::from_secs(5);

/// What is due on a connection that grows old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No new calls on it.
    GoAway,
    /// Its calls end, and learn where to resume.
    Tell,
    /// Nothing ended it so far.
    Cut,
}

/// The age of one connection.
#[derive(Debug)]
pub(super) struct Age {
    due: Option<(Pin<Box<Sleep>>, Step)>,
    grace: Duration,
}

impl Age {
    /// A connection that begins now.
    pub(super) fn begin(config: &Config) -> Self {
        let (most, grace) = (config.connection_age_max, config.connection_age_grace);
        let due = (!most.is_zero()).then(|| {
            let age = spread(most, 1.0 - JITTER..1.0 + JITTER);
            (Box::pin(tokio::time::sleep(age)), Step::GoAway)
        });
        Self { due, grace }
    }

    /// Resolves when the next step is due; never where there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Step {
        let Some((timer, step)) = &mut self.due else { return std::future::pending().await };
        timer.as_mut().await;
        let (due, wait) = (*step, if *step == Step::GoAway { self.grace } else { TOLD });
        timer.as_mut().reset(Instant::now() + wait);
        match due {
            Step::GoAway => *step = Step::Tell,
            Step::Tell => *step = Step::Cut,
            Step::Cut => self.due = None,
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
    async fn a_connection_is_told_to_go_then_its_calls_are_told_then_it_is_cut() {
        let config = Config { connection_age_max: Duration::from_secs(100), ..Config::default() };
        let (begun, mut age) = (Instant::now(), Age::begin(&config));
        assert_eq!(age.next().await, Step::GoAway);
        let at = begun.elapsed();
        assert!((90..=110).contains(&at.as_secs()), "{at:?}");
        assert_eq!((age.next().await, (begun.elapsed() - at).as_secs()), (Step::Tell, 30));
        assert_eq!((age.next().await, (begun.elapsed() - at).as_secs()), (Step::Cut, 35));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_grow_as_old_as_it_likes_by_default() {
        let mut age = Age::begin(&Config::default());
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, age.next()).await.is_err());
    }
}
