//! Open files: the limit raised as far as the system lets the process, connections kept below what
//! is left beside the log's files, and descriptors put aside for a port that must always answer.
//! Never: refuses to start over it; the accept loop backs off where files run out.

use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files beside connections and segments: journals, directories, listeners, the runtime.
const BESIDE: u64 = 128;

/// Raises the soft limit to the hard one, and answers how many connections there may be, so that a
/// flood of them cannot leave the log without a file to write to.
pub(super) fn connections_max(config: &Config) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        raised.current
    } else {
        limit.current
    };
    let Some(files) = files else { return config.connections_max };
    let fitting = fitting(files, config);
    if fitting < config.connections_max {
        let wanted = config.connections_max;
        tracing::warn!(files, wanted, connections_max = fitting, "open file limit is below what is wanted");
    }
    fitting.min(config.connections_max)
}

/// Connections that fit in beside all else; a quarter of a limit too small for even that.
fn fitting(files: u64, config: &Config) -> usize {
    let beside = BESIDE + config.storage.open_files_max as u64 + config.admin_connections_max as u64;
    usize::try_from(files.saturating_sub(beside).max(files / 4)).unwrap_or(usize::MAX)
}

/// Descriptors put aside: given up one by one where the system has no more, taken back once a
/// connection that lived on one has ended. A probe is answered then when nobody else is.
#[derive(Clone, Default)]
pub(super) struct Spares(Option<Arc<Inner>>);

struct Inner {
    anchor: UnixDatagram,
    held: Mutex<Vec<UnixDatagram>>,
    most: usize,
}

impl Spares {
    /// Puts so many aside; none where the system has none.
    pub(super) fn hold(most: usize) -> Self {
        let inner =
            UnixDatagram::unbound().map(|anchor| Inner { anchor, held: Mutex::new(Vec::new()), most });
        let spares = Self(inner.ok().map(Arc::new));
        spares.refill();
        spares
    }

    /// Gives one up; whether there was one.
    pub(super) fn release(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        inner.held.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Puts aside again what was given up, as far as the system allows.
    pub(super) fn refill(&self) {
        let Some(inner) = &self.0 else { return };
        let mut held = inner.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() < inner.most {
            let Ok(spare) = inner.anchor.try_clone() else { return };
            held.push(spare);
        }
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spares").field(&self.0.as_ref().map_or(0, |inner| inner.most)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Spares, fitting};
    use crate::config::Config;

    #[test]
    fn connections_leave_files_for_the_log_and_the_admin_port() {
        let config = Config::default();
        assert_eq!(fitting(20_000, &config), 20_000 - 512 - 256 - 128);
        assert_eq!(fitting(1024, &config), 256);
        assert_eq!(fitting(64, &config), 16);
    }

    #[test]
    fn spares_are_given_up_one_by_one_and_taken_back() {
        let spares = Spares::hold(2);
        assert!(spares.release() && spares.release() && !spares.release());
        spares.refill();
        assert!(spares.release());
        assert!(!Spares::default().release());
    }
}
