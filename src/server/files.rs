//! The limit on open files: raised as far as the system lets the process.
//! Never: refuses to start over it; the accept loop backs off where files run out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside connections: the log's segments and journals, listeners, the runtime.
const BESIDE_CONNECTIONS: u64 = 1024;

/// Raises the soft limit to the hard one, and warns where the connections allowed do not fit.
pub(super) fn raise_limit(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        raised.current
    } else {
        limit.current
    };
    let wanted = connections_max as u64 + BESIDE_CONNECTIONS;
    if let Some(files) = files.filter(|files| *files < wanted) {
        tracing::warn!(files, wanted, "open file limit is below what connections-max may need");
    }
}
