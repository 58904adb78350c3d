//! Files of the configuration and of the data, opened in one checked way: a regular file, or for the
//! configuration also a pipe whose writer finishes in time (`--config <(generate)`). Nothing waits for ever,
//! neither the start nor a stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Longest time from the opening of a pipe until its writer has finished.
const PIPE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a file of at most `bytes_max` bytes. Blocks; for a pipe, 5 s at most.
///
/// # Errors
/// The file is missing, unreadable, too large, or neither a regular file nor a pipe whose writer finishes in time.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_within(path, bytes_max, PIPE_TIMEOUT)
}

/// Reads a file that holds text.
///
/// # Errors
/// Those of [`read`], and that the file is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| io::Error::other("not UTF-8"))
}

/// Tells whether a path names a pipe, whose content can be read only once.
#[must_use]
pub fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.file_type().is_fifo())
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
    let file = open_any(path, options)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

/// Opens a file of any type. What was opened is checked then, not what has the name: that may change in between.
fn open_any(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    match options.custom_flags(flags.bits().cast_signed()).open(path) {
        // A pipe that nobody reads is not opened for writing, and a socket not at all.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Err(irregular()),
        opened => opened,
    }
}

fn irregular() -> io::Error {
    io::Error::other("not a regular file; a pipe, a device or a directory is not read")
}

fn read_within(path: &Path, bytes_max: u64, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut file = open_any(path, OpenOptions::new().read(true))?;
    let kind = file.metadata()?.file_type();
    let (limit, mut bytes) = (bytes_max.saturating_add(1), Vec::new());
    if kind.is_file() {
        file.take(limit).read_to_end(&mut bytes)?;
    } else if kind.is_fifo() {
        read_pipe(&mut file, limit, timeout, &mut bytes)?;
    } else {
        return Err(io::Error::other("not a regular file or a pipe; a device or a directory is not read"));
    }
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {}", size(bytes_max))));
    }
    Ok(bytes)
}

/// Reads a pipe, opened without blocking, to its end. Without a writer it is not even at its end, which `poll`
/// alone can tell from a writer that has finished.
fn read_pipe(pipe: &mut File, limit: u64, timeout: Duration, bytes: &mut Vec<u8>) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let seconds = timeout.as_secs_f32();
                return Err(io::Error::other(format!(
                    "a pipe whose writer did not finish within {seconds} s"
                )));
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match pipe.take(limit - bytes.len() as u64).read_to_end(bytes) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use super::{is_pipe, open, read, read_text, read_within};
    use std::fs::{self, OpenOptions};
    use std::io::{ErrorKind, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc;
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    fn fifo(dir: &Path) -> PathBuf {
        let path = dir.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[test]
    fn a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(read(&at("file"), 4).unwrap(), b"text");
        assert_eq!(read_text(&at("link"), 4).unwrap(), "text");
        assert!(read(&at("file"), 3).unwrap_err().to_string().ends_with("larger than 3 bytes"));
        fs::write(at("bytes"), [0xff]).unwrap();
        assert_eq!(read_text(&at("bytes"), 9).unwrap_err().to_string(), "not UTF-8");
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for odd in [dir.path().to_owned(), "/dev/zero".into(), "/dev/tty".into(), at("socket")] {
            let error = read(&odd, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{odd:?}: {error}");
        }
        assert_eq!(read(Path::new("/nonexistent"), 1).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// A process substitution is an anonymous pipe; its writer may have finished before, or write bit by bit.
    #[test]
    fn a_pipe_with_a_writer_is_read_to_its_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        writer.write_all(b"text").unwrap();
        drop(writer);
        assert!(is_pipe(&path));
        assert_eq!(read_within(&path, 4, LONG).unwrap(), b"text");
        assert_eq!(read_within(&path, 4, LONG).unwrap(), b"", "it is empty from then on");

        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let (told, waits) = mpsc::channel::<()>();
        let written = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(written).unwrap();
            pipe.write_all(b"bit by ").unwrap();
            waits.recv_timeout(SHORT).unwrap_err();
            pipe.write_all(b"bit").unwrap();
        });
        assert_eq!(read_within(&path, 100, LONG).unwrap(), b"bit by bit");
        writer.join().unwrap();
        drop(told);
    }

    #[test]
    fn a_pipe_is_not_opened_in_the_place_of_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        for options in [OpenOptions::new().read(true), OpenOptions::new().write(true)] {
            assert!(open(&path, options).unwrap_err().to_string().contains("not a regular file"));
        }
    }

    #[test]
    fn a_pipe_that_nobody_writes_or_closes_is_refused_in_time_and_a_large_one_at_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let error = read_within(&path, 9, SHORT).unwrap_err().to_string();
        assert!(error.contains("did not finish within 0.05 s"), "{error}");
        let mut held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        held.write_all(b"begun").unwrap();
        assert!(read_within(&path, 9, SHORT).unwrap_err().to_string().contains("did not finish"));
        held.write_all(b"ten bytes!").unwrap();
        assert!(read_within(&path, 9, LONG).unwrap_err().to_string().contains("larger than 9 bytes"));
    }
}
