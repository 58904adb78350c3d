//! Options of commands that resume a broken connection.

use std::time::Duration;

use clap::Args;

/// Options of commands that resume a broken connection.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// Give up when the server has been away, or has made no progress, for this time. A server that has never been
    /// reached fails at once.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::config::parse_duration)]
    retry_for: Duration,
}

impl Patience {
    /// Returns the policy of a client that waits as long.
    #[must_use]
    pub fn policy(self) -> crate::client::RetryPolicy {
        crate::client::RetryPolicy {
            give_up_after: self.retry_for,
            connect_give_up_after: Duration::ZERO,
            ..Default::default()
        }
    }
}
