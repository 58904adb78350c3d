//! Commands on several topics.

use std::process::ExitCode;

use crate::cli::failure::SENT_AWAY;
use crate::cli::{FAILURE, Failure, output};

/// Does something with each of these topics. All are tried; of several, each one that failed is reported on a line of its
/// own, and the command then fails. An operator who sends it away decides the exit code, whichever topic that was told for.
pub(super) async fn for_each(
    topics: &[String],
    act: impl AsyncFn(&str) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if let [topic] = topics {
        return act(topic).await.map(|()| ExitCode::SUCCESS);
    }
    let mut code = 0;
    for topic in topics {
        if let Err(failure) = act(topic).await {
            output::complain(&format!("error: {topic}: {}", failure.message));
            let is_sent_away = code == SENT_AWAY || failure.code == SENT_AWAY;
            code = if is_sent_away { SENT_AWAY } else { FAILURE };
        }
    }
    Ok(ExitCode::from(code))
}
