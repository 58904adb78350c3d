//! What the C library tells the server: reads and writes that do less than asked, syncs that take
//! long, a wall clock that jumps. All of it can be set while the server runs.
//! Never: changes what is written, or says that what failed was done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::NamedTempFile;

/// Settings of one server, all off at first. Must outlive it.
pub struct Preload(NamedTempFile);

impl Preload {
    pub fn new() -> Self {
        let file = NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(24).expect("three numbers");
        Self(file)
    }

    /// The command that a server is started by way of.
    pub fn command(&self) -> Vec<String> {
        let settings = format!("TESTS_PRELOAD={}", self.0.path().display());
        vec!["env".into(), settings, format!("LD_PRELOAD={}", library().display())]
    }

    /// The wall clock is so far ahead from now on; or behind.
    pub fn set_clock(&self, seconds: i64) {
        set(self.0.as_file(), 0, seconds);
    }

    /// Every sync takes so much longer.
    pub fn set_sync(&self, time: Duration) {
        set(self.0.as_file(), 8, time.as_micros() as i64);
    }

    /// No read or write does more than so many bytes, and one in seven is interrupted; 0 for no such thing.
    pub fn set_io_bytes_max(&self, bytes: i64) {
        set(self.0.as_file(), 16, bytes);
    }
}

fn set(file: &File, at: u64, value: i64) {
    file.write_all_at(&value.to_ne_bytes(), at).expect("written");
}

/// Compiled once a run.
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
