//! Commands on several topics.

use std::process::ExitCode;

use crate::cli::Failure;
use crate::cli::failure::of_several;
use crate::cli::format::Format;

/// Does something with each of these topics. All are tried; of several, each one that failed is reported on a line of its
/// own, and the command then fails.
pub(super) async fn for_each(
    topics: &[String],
    format: Format,
    act: impl AsyncFn(&str) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if let [topic] = topics {
        return act(topic).await.map(|()| ExitCode::SUCCESS);
    }
    let mut code = 0;
    for topic in topics {
        if let Err(failure) = act(topic).await {
            code = of_several(code, failure.code);
            format.complain(&failure.about("topic", topic));
        }
    }
    Ok(ExitCode::from(code))
}
