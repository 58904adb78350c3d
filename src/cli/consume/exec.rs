//! A command for each record: the value on its standard input, the rest in its environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::pin::pin;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::client::{Handled, Received, Rejection};
use crate::json::time;

/// Exit code of a command that says that a record cannot be handled (EX_DATAERR).
const DATA_ERROR: i32 = 65;

/// The command.
#[derive(Clone, Debug)]
pub(super) struct Exec(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    command: String,
    topic: String,
    group: String,
}

impl Exec {
    pub(super) fn new(command: String, topic: &str, group: &str) -> Self {
        Self(Arc::new(Inner { command, topic: topic.to_owned(), group: group.to_owned() }))
    }

    /// Runs the command for a record.
    pub(super) async fn run(self, received: Received) -> Handled {
        let status = match self.status(&received).await {
            Ok(Some(status)) => status,
            // The lease is lost, and the result does not matter.
            Ok(None) => return Err(Rejection::Return),
            Err(error) => {
                let reason = format!("cannot run the command: {error}");
                warn!(offset = received.offset().get(), reason, "the record will be delivered again");
                return Err(Rejection::retry(reason));
            }
        };
        let reason = match (status.code(), status.signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        let (offset, delivery) = (received.offset().get(), received.delivery());
        if status.code() == Some(DATA_ERROR) {
            warn!(offset, delivery, reason, "the record is given up");
            return Err(Rejection::dead_letter(reason));
        }
        warn!(offset, delivery, reason, "the record will be delivered again");
        Err(Rejection::retry(reason))
    }

    /// Runs the command to its end; none if the lease was lost before.
    async fn status(&self, received: &Received) -> io::Result<Option<ExitStatus>> {
        // Watched from before the start, so that no end is missed.
        let mut ended = signal(SignalKind::child())?;
        let mut child = self.command(received).spawn()?;
        let stdin = child.stdin.take();
        let mut running = Running(Some(child));
        let wait = async {
            loop {
                if let Some(status) = running.try_wait()? {
                    return Ok(Some(status));
                }
                ended.recv().await;
            }
        };
        let (mut wait, mut feed) = (pin!(wait), pin!(feed(stdin, received.value().clone())));
        let mut is_fed = false;
        loop {
            tokio::select! {
                // A command that ends need not have read everything.
                biased;
                status = &mut wait => return status,
                fed = &mut feed, if !is_fed => {
                    fed?;
                    is_fed = true;
                }
                () = received.lost() => return Ok(None),
            }
        }
    }

    fn command(&self, received: &Received) -> Command {
        let record = received.record();
        let mut command = Command::new("sh");
        // A process group of its own: Ctrl-C is for this program, which lets the command end.
        command.args(["-c", &self.0.command]).stdin(Stdio::piped()).process_group(0);
        command.env("STREAMWAY_TOPIC", &self.0.topic).env("STREAMWAY_GROUP", &self.0.group);
        command.env("STREAMWAY_GROUP_ID", received.group_id());
        command.env("STREAMWAY_OFFSET", record.offset.get().to_string());
        command.env("STREAMWAY_PUBLISH_TIME", time(record.publish_time));
        command.env("STREAMWAY_DELIVERY", received.delivery().to_string());
        command.env("STREAMWAY_FENCE", received.fence().to_string());
        if !received.traceparent().is_empty() {
            command.env("TRACEPARENT", received.traceparent());
        }
        let headers: BTreeMap<&str, &str> = record.headers().collect();
        command.env("STREAMWAY_HEADERS", serde_json::json!(headers).to_string());
        // The environment cannot hold a zero byte.
        let key = if record.key.contains(&0) { &[] } else { record.key };
        command.env("STREAMWAY_KEY", OsStr::from_bytes(key));
        command
    }
}

/// Writes the value to a command. One that reads no further is no error.
async fn feed(stdin: Option<ChildStdin>, value: Bytes) -> io::Result<()> {
    let Some(stdin) = stdin else { return Ok(()) };
    let mut stdin = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
    match stdin.write_all(&value).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A command that runs. It is ended when it is dropped, as when its record was taken away.
struct Running(Option<Child>);

impl Running {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.0 else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.0 = None;
        }
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // It was not waited for, so that its id is still its own.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::TERM);
        }
        // A thread of its own collects its exit code; a command that ignores SIGTERM runs on.
        let _ = std::thread::Builder::new().name("reap".into()).spawn(move || child.wait());
    }
}
