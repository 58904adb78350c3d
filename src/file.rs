//! One file of the configuration, opened the one checked way: a regular file of bounded size, by an
//! open that waits for nobody. A pipe in its place would hold up the start, and then the stop, until
//! somebody writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Reads a file of at most `bytes_max` bytes; blocking, though never for another process.
///
/// # Errors
/// It is missing, unreadable, too large, or not a regular file.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, OpenOptions::new().read(true))?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {}", size(bytes_max))));
    }
    Ok(bytes)
}

/// The same where the file holds text.
///
/// # Errors
/// As [`read`], or it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| io::Error::other("not UTF-8"))
}

/// Number of the line in which a byte of a text stands.
#[must_use]
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}

/// Opens a regular file with `options`, and waits for no other process.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let irregular = || io::Error::other("not a regular file; a pipe, a device or a directory is not read");
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match options.custom_flags(flags.bits().cast_signed()).open(path) {
        // A pipe that nobody reads is not opened for writing, and a socket not at all.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => return Err(irregular()),
        opened => opened?,
    };
    // The file that was opened is checked, not its name: that may mean another file in between.
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use super::{open, read, read_text};
    use std::fs::{self, OpenOptions};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read(&at("file"), 4).unwrap(), b"text");
        assert_eq!(read_text(&at("link"), 4).unwrap(), "text");
        assert!(read(&at("file"), 3).unwrap_err().to_string().ends_with("larger than 3 bytes"));
        fs::write(at("bytes"), [0xff]).unwrap();
        assert_eq!(read_text(&at("bytes"), 9).unwrap_err().to_string(), "not UTF-8");
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for odd in [at("pipe"), dir.path().to_owned(), "/dev/zero".into(), "/dev/tty".into(), at("socket")] {
            let error = read(&odd, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{odd:?}: {error}");
        }
        let error = open(&at("pipe"), OpenOptions::new().write(true)).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert_eq!(read(Path::new("/nonexistent"), 1).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
