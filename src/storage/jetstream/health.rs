//! Whether JetStream can be used: asked again and again, and told once it has not answered for a
//! while. Goes back to serving by itself.
//! Never: fails for good; NATS may return.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::nats::Nats;
use crate::storage::Health;

/// How long JetStream may be silent before readiness turns off: less than a new leader takes is no
/// reason to move clients.
const GRACE: Duration = Duration::from_secs(5);
/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks until the log closes.
pub async fn watch(nats: Arc<Nats>, health: Arc<channel::Sender<Health>>) {
    let mut silent: Option<Instant> = None;
    loop {
        let answer = tokio::select! {
            () = nats.closing.cancelled() => return,
            answer = timeout(ANSWER_TIMEOUT, nats.topics()) => answer,
        };
        let fault = match answer {
            _ if !nats.link.state().up => Some("not connected to NATS".to_owned()),
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("JetStream does not answer".to_owned()),
        };
        match fault {
            None => {
                silent = None;
                if health.send_if_modified(|health| {
                    let returned = matches!(health, Health::Unavailable(_));
                    if returned {
                        *health = Health::Serving;
                    }
                    returned
                }) {
                    info!("JetStream answers again");
                }
            }
            Some(fault) if silent.get_or_insert_with(Instant::now).elapsed() >= GRACE => {
                if health.send_if_modified(|health| {
                    let first = *health == Health::Serving;
                    if first {
                        *health = Health::Unavailable(fault.as_str().into());
                    }
                    first
                }) {
                    warn!(reason = fault, "JetStream cannot be used; going on as soon as it can");
                }
            }
            Some(_) => {}
        }
        tokio::select! {
            () = nats.closing.cancelled() => return,
            () = sleep(INTERVAL) => {}
        }
    }
}
