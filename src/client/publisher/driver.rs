//! The task that keeps one Exchange call open while there is something to publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Code;
use tracing::{debug, info, warn};

use super::receipts::receive;
use super::requests::RequestStream;
use super::shared::Shared;
use crate::client::connector::{Connector, Target};
use crate::client::error::{Error, Origin};
use crate::client::retry::Retry;

/// Name of the call in telemetry.
const EXCHANGE: &str = "streamway.v1.StreamService/Exchange";

/// The end of a call.
enum Ended {
    /// The publisher was closed and everything is acknowledged.
    Closed,
    /// The call failed.
    Broken(Error),
}

/// Publishes until the publisher is closed or fails.
pub(super) async fn run(shared: Arc<Shared>, connector: Connector) {
    let mut retry = connector.retry(shared.options.retry);
    while shared.wait_for_work().await {
        let target = connector.target(EXCHANGE, Some(shared.topic.as_str()));
        let stall_max = retry.stall_max();
        let ended = tokio::select! {
            ended = call(&shared, &connector, &target, &mut retry) => ended,
            stalled = stalled(&shared, stall_max) => {
                retry.stalled(Instant::now(), stalled);
                let stalled = humantime::format_duration(Duration::from_millis(stalled.as_millis() as u64));
                Ended::Broken(Error::transport(format!(
                    "{} has acknowledged nothing for {stalled}", target.url
                )))
            }
        };
        let error = match ended {
            Ended::Closed => return,
            Ended::Broken(error) => connector.failed(error, &target),
        };
        if shared.split(&error) {
            debug!(topic = %shared.topic, error = error.message(), "batches are split");
            continue;
        }
        let final_error = cannot_resend(&shared, &error);
        shared.end_call();
        if let Some(error) = final_error {
            return shared.end(&error);
        }
        if shared.lock().is_empty() {
            debug!(%error, "exchange ended while idle");
            continue;
        }
        let first = retry.is_well();
        let Some(delay) = retry.delay(&error, Instant::now()) else { return shared.end(&error) };
        connector.move_on(target.index);
        drop(target);
        let (topic, error, delay_ms) = (&shared.topic, error.message(), delay.as_millis() as u64);
        // An outage is logged once at this level; further attempts are details.
        if first {
            warn!(%topic, error, delay_ms, "publishing is interrupted, will continue");
        } else {
            debug!(%topic, error, delay_ms, "still interrupted");
        }
        tokio::time::sleep(delay).await;
    }
}

/// Waits until the call has acknowledged nothing for `max` although batches are pending, and returns for how long they
/// have been pending. A server whose disk hangs answers pings, so the transport does not notice.
async fn stalled(shared: &Shared, max: Duration) -> Duration {
    let started = Instant::now();
    loop {
        let since = shared.lock().waiting_since;
        // A record that is queued during the sleep has not waited for `max` when the sleep ends.
        let waited = since.map_or(Duration::ZERO, |since| since.max(started).elapsed());
        match since {
            Some(since) if waited >= max => return since.elapsed(),
            _ => tokio::time::sleep(max.saturating_sub(waited)).await,
        }
    }
}

async fn call(shared: &Arc<Shared>, connector: &Connector, target: &Target, retry: &mut Retry) -> Ended {
    let broken = |status: tonic::Status| Ended::Broken(Error::from_status(&status, &target.url));
    let requests = RequestStream::begin(shared);
    let mut incoming = match connector.streams(target).exchange(requests).await {
        Ok(response) => response.into_inner(),
        Err(status) => return broken(status),
    };
    debug!(topic = %shared.topic, server = target.url, "exchange opened");
    let mut settled = Vec::new();
    loop {
        match incoming.message().await {
            Ok(Some(response)) => {
                if !response.receipts.is_empty() {
                    if !retry.is_well() {
                        info!(topic = %shared.topic, server = target.url, "publishing continues");
                    }
                    retry.progress();
                }
                if let Err(error) = receive(shared, &response, &mut settled) {
                    return Ended::Broken(error);
                }
            }
            Ok(None) if shared.is_done() => return Ended::Closed,
            Ok(None) => {
                return Ended::Broken(Error::transport(format!("{} ended the exchange", target.url)));
            }
            Err(status) => return broken(status),
        }
    }
}

/// Returns the final error where batches that were sent must not be sent again: without idempotency, unless the server
/// itself states that it stored none of them.
fn cannot_resend(shared: &Shared, error: &Error) -> Option<Error> {
    let in_flight = shared.lock().in_flight();
    let refused = error.metadata().get("side_effects").is_some_and(|effects| effects == "none");
    if shared.options.idempotent || in_flight == 0 || (error.origin() == Origin::Server && refused) {
        return None;
    }
    if !error.is_retryable() {
        return Some(error.clone());
    }
    let message = format!("{}; {in_flight} batches may or may not have been stored", error.message());
    Some(Error::local(Code::Unknown, message))
}
