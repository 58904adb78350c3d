//! The progress of a run: a line on standard error that is updated every second, if that is a terminal.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::run::Run;

/// Interval of the updates.
const INTERVAL: Duration = Duration::from_secs(1);

/// The line of one run. It is removed on drop.
pub(super) struct Progress {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Progress {
    pub(super) fn start(run: &Arc<Run>) -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        bar.set_style(style.expect("the template is a constant"));
        let (run, shown) = (Arc::clone(run), bar.clone());
        let task = tokio::spawn(async move {
            let (mut acknowledged, mut delivered) = (0, 0);
            loop {
                tokio::time::sleep(INTERVAL).await;
                let now = (run.acknowledged.all(), run.delivered.all());
                shown.set_message(format!(
                    "{} acknowledged/s, {} delivered/s",
                    HumanCount(now.0 - acknowledged),
                    HumanCount(now.1 - delivered)
                ));
                shown.tick();
                (acknowledged, delivered) = now;
            }
        });
        Self { bar, task }
    }

    pub(super) fn end(self) {
        drop(self);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
