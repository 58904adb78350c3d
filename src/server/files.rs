//! The limit on open files: it is raised as far as the system allows, connections are limited to what the log's files
//! leave of it, and descriptors are reserved for a port that must always answer.

use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files other than connections and segments: journals, directories, listeners, the runtime.
const OTHER_FILES: u64 = 128;

/// Raises the soft limit to the hard one. Returns the limit on connections that leaves the log its files, however many
/// connections come.
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

/// Returns the connections that fit besides all other files; a quarter of a limit too small for even these.
fn fitting(files: u64, config: &Config) -> usize {
    let others = OTHER_FILES + config.storage.open_files_max as u64 + config.admin_connections_max as u64;
    usize::try_from(files.saturating_sub(others).max(files / 4)).unwrap_or(usize::MAX)
}

/// Reserved descriptors. They are released one by one where the system has no more, and reserved again once the
/// connection that used one has ended, so that probes are answered when nobody else is.
#[derive(Clone, Default)]
pub(super) struct Spares(Option<Arc<Inner>>);

struct Inner {
    anchor: UnixDatagram,
    held: Mutex<Vec<UnixDatagram>>,
    max: usize,
}

impl Spares {
    /// Reserves `max` descriptors, or as many as the system has.
    pub(super) fn hold(max: usize) -> Self {
        let inner = UnixDatagram::unbound().map(|anchor| Inner { anchor, held: Mutex::new(Vec::new()), max });
        let spares = Self(inner.ok().map(Arc::new));
        spares.refill();
        spares
    }

    /// Releases one. Returns false if there was none.
    pub(super) fn release(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        inner.held.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Reserves again what was released, as far as the system allows.
    pub(super) fn refill(&self) {
        let Some(inner) = &self.0 else { return };
        let mut held = inner.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() < inner.max {
            let Ok(spare) = inner.anchor.try_clone() else { return };
            held.push(spare);
        }
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spares").field(&self.0.as_ref().map_or(0, |inner| inner.max)).finish()
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
    fn spares_are_released_one_by_one_and_reserved_again() {
        let spares = Spares::hold(2);
        assert!(spares.release() && spares.release() && !spares.release());
        spares.refill();
        assert!(spares.release());
        assert!(!Spares::default().release());
    }
}
