//! The loop of one connection, whatever protocol it speaks: until its peer closes it, the drain is over, it is too old or
//! idle, or its client was sent away.

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::{Pin, pin};

use hyper_util::server::graceful::GracefulConnection;
use tracing::debug;

use super::activity::Overdue;
use super::age::{Age, Step};
use super::io::Cork;
use super::listener::ConnectionLimiter;
use crate::config::Config;
use crate::topic::{Cause, ShutdownSignal};

/// Causes for which a connection ends.
pub(super) struct Ends<'a> {
    pub(super) limiter: &'a ConnectionLimiter,
    pub(super) config: &'a Config,
    /// Signal of the connection's calls.
    pub(super) shutdown: &'a ShutdownSignal,
}

/// Polls a connection until it has ended, and lets what it wrote leave. `overdue` resolves when it had no request for too
/// long.
pub(super) async fn drive<C>(
    mut connection: Pin<&mut C>,
    ends: Ends<'_>,
    cork: Cork,
    overdue: impl Future<Output = Overdue>,
) where
    C: GracefulConnection<Error: Display>,
{
    let Ends { limiter, config, shutdown } = ends;
    let (mut leaving, mut age) = (false, Age::start(config));
    let (mut told, mut ending) = (false, pin!(shutdown.cancelled()));
    let (mut is_overdue, mut overdue) = (false, pin!(overdue));
    loop {
        tokio::select! {
            ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                cork.release();
                polled
            }) => {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = limiter.leaving.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut ending, if !told => {
                told = true;
                if let Some(Cause::Disconnected { .. }) = shutdown.cause() {
                    connection.as_mut().graceful_shutdown();
                    age.close_soon();
                }
            }
            () = limiter.abort.cancelled() => return,
            why = &mut overdue, if !is_overdue => match why {
                Overdue::Headers => return debug!("connection with headers that do not end closed"),
                Overdue::Left => return debug!("connection whose peer has left closed"),
                Overdue::Idle => {
                    (leaving, is_overdue) = (true, true);
                    connection.as_mut().graceful_shutdown();
                    age.close_soon();
                }
            },
            step = age.next() => match step {
                Step::GoAway if leaving => {}
                Step::GoAway => connection.as_mut().graceful_shutdown(),
                Step::EndCalls => shutdown.cancel(Cause::MaxAge),
                Step::Close => return debug!("connection past its time cut off"),
            },
        }
    }
}
