//! Commands on several topics.

use std::process::ExitCode;

use crate::cli::{FAILURE, Failure, output};

/// Does something with each of these topics. All are tried; of several, each one that failed is reported on a line of its
/// own, and the command then fails.
pub(super) async fn for_each(
    topics: &[String],
    act: impl AsyncFn(&str) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if let [topic] = topics {
        return act(topic).await.map(|()| ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for topic in topics {
        if let Err(failure) = act(topic).await {
            output::complain(&format!("error: {topic}: {}", failure.message));
            code = ExitCode::from(FAILURE);
        }
    }
    Ok(code)
}
