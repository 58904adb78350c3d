//! Files that commands keep: opened so that nobody who may write beside them can redirect them.
//! Never: follows a link at a name that was not given on the command line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Longest file of a position: an epoch and an offset are 37 bytes.
const SMALL_MAX: u64 = 4096;
/// The bit of a directory's mode that lets everybody make files in it.
const WRITABLE_BY_ALL: u32 = 0o002;

const fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a small text. A pipe or a device is refused rather than waited for.
pub(super) fn read_small(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut text = String::new();
    file.take(SMALL_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SMALL_MAX {
        return Err(refused("too long to be one of ours"));
    }
    Ok(text)
}

/// Writes a file whole or not at all: a reader or a crash sees the old text or the new one.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!(".streamway-{:016x}.new", u64::from_be_bytes(random));
    let new = parent(path).join(name);
    // Fails at whatever is there, a link included.
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let mut put = || -> io::Result<()> {
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        // Renamed before its content is on disk, it could be found empty after a power cut.
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let put = put();
    if put.is_err() {
        let _ = fs::remove_file(&new);
    }
    put
}

/// Opens a file that is continued from run to run, or makes one that only its owner may read. A link, and
/// what somebody else may have put there, is refused.
pub(super) fn open_kept(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => refused("a symbolic link"),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Err(refused("not a regular file with one name"));
    }
    let foreign = found.uid() != rustix::process::geteuid().as_raw();
    if foreign && fs::metadata(parent(path))?.mode() & WRITABLE_BY_ALL != 0 {
        return Err(refused("another user's, in a directory where everybody may make files"));
    }
    Ok(file)
}

/// Gives a file that was kept its final name, at which there must be nothing.
pub(super) fn finish_kept(kept: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, kept, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system has it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if fs::symlink_metadata(path).is_err() => {
            fs::rename(kept, path)?;
        }
        renamed => renamed?,
    }
    File::open(parent(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{finish_kept, open_kept, read_small, replace};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_beside_a_file_that_is_replaced_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [path, victim] = ["pos", "victim"].map(|name| dir.path().join(name));
        fs::write(&victim, "precious").unwrap();
        // The name that used to be taken.
        symlink(&victim, dir.path().join("pos.new")).unwrap();
        replace(&path, "1\n").unwrap();
        replace(&path, "2\n").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(read_small(&path).unwrap(), "2\n");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "nothing is left behind");
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        replace(&path, "1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "2\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        // A directory of that name cannot be replaced, and nothing stays beside it.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, "1\n").is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_small_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, long] = ["pipe", "long"].map(|name| dir.path().join(name));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(&long, vec![b'x'; 5000]).unwrap();
        for (path, why) in [(&pipe, "not a regular file"), (&long, "too long")] {
            assert!(read_small(path).unwrap_err().to_string().contains(why));
        }
        assert!(read_small("/dev/null".as_ref()).is_err());
    }

    #[test]
    fn a_kept_file_is_its_owners_and_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let [kept, victim, link, second] =
            ["kept", "victim", "link", "second"].map(|name| dir.path().join(name));
        drop(open_kept(&kept).unwrap());
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(open_kept(&link).unwrap_err().to_string().contains("a symbolic link"));
        fs::hard_link(&victim, &second).unwrap();
        assert!(open_kept(&second).unwrap_err().to_string().contains("with one name"));
        assert!(finish_kept(&kept, &victim).is_err(), "there is something");
        finish_kept(&kept, &dir.path().join("done")).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
