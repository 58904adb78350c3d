//! A preloaded library that changes what system calls return: short reads and writes, slow syncs, a wall clock
//! that jumps, no IPv6. Settings change while the server runs. It neither changes data nor hides failures.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::NamedTempFile;

/// Settings for one server, all off at first. They must outlive it.
pub struct Preload(NamedTempFile);

impl Preload {
    pub fn new() -> Self {
        let file = NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(32).expect("four numbers");
        Self(file)
    }

    /// Command through which the server is started.
    pub fn command(&self) -> Vec<String> {
        let settings = format!("TESTS_PRELOAD={}", self.0.path().display());
        vec!["env".into(), settings, format!("LD_PRELOAD={}", library().display())]
    }

    /// Sets the wall clock ahead, or behind by a negative number.
    pub fn set_clock(&self, seconds: i64) {
        set(self.0.as_file(), 0, seconds);
    }

    /// Delays every sync.
    pub fn set_sync(&self, time: Duration) {
        set(self.0.as_file(), 8, time.as_micros() as i64);
    }

    /// Limits every read and write to this many bytes and interrupts one in seven; 0 turns this off.
    pub fn set_io_bytes_max(&self, bytes: i64) {
        set(self.0.as_file(), 16, bytes);
    }

    /// Refuses sockets of IPv6, as a machine without it does.
    pub fn set_no_ipv6(&self) {
        set(self.0.as_file(), 24, 1);
    }
}

fn set(file: &File, at: u64, value: i64) {
    file.write_all_at(&value.to_ne_bytes(), at).expect("written");
}

/// Compiles the library once for all tests.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/harness/preload.c");
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("preload.so");
        let making = library.with_extension(format!("{}.so", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        let compiled = cc.arg(&making).arg(source).arg("-ldl").status();
        assert!(compiled.expect("cc is installed: tests/run installs it").success(), "{source} compiles");
        std::fs::rename(&making, &library).expect("put in place whole");
        library
    })
}
