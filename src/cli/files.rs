//! Files that commands write. They are opened so that another user with write access to the directory cannot redirect
//! them with a link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Largest file of positions or of contexts, in bytes: a position and its topic take up to 166.
pub(super) const SMALL_MAX: u64 = 64 << 10;
/// The bit of a directory's mode that allows everybody to create files in it.
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

/// Reads a small text file. A pipe or a device is refused without waiting for it.
pub(super) fn read_small(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut text = String::new();
    file.take(SMALL_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SMALL_MAX {
        return Err(refused("too long"));
    }
    Ok(text)
}

/// Replaces a file atomically: a reader sees the old or the new text, also after a crash. The file keeps its mode.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path).ok().map(|old| old.permissions().mode());
    replace_with(path, text, mode)
}

/// The same as [`replace`], for a file that only its owner may read and write.
pub(super) fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    replace_with(path, text, Some(0o600))
}

fn replace_with(path: &Path, text: &str, mode: Option<u32>) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!(".streamway-{:016x}.new", u64::from_be_bytes(random));
    let new = parent(path).join(name);
    // This fails if there is anything of that name, a link included.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode.unwrap_or(0o666) & 0o777).open(&new)?;
    let mut put = || -> io::Result<()> {
        if let Some(mode) = mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(text.as_bytes())?;
        // Without the sync, the renamed file could be empty after a power failure.
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let put = put();
    if put.is_err() {
        let _ = fs::remove_file(&new);
    }
    put
}

/// Opens a file that is continued by every run, or creates one that only its owner may read. A link, and a file that
/// another user may have put there, is refused.
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

/// Renames a file to its final name, which must not exist.
pub(super) fn finish_kept(kept: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, kept, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system supports NOREPLACE.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if fs::symlink_metadata(path).is_err() => {
            fs::rename(kept, path)?;
        }
        renamed => renamed?,
    }
    File::open(parent(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{finish_kept, open_kept, read_small, replace, replace_private};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_next_to_a_file_that_is_replaced_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [path, victim] = ["pos", "victim"].map(|name| dir.path().join(name));
        fs::write(&victim, "precious").unwrap();
        // An earlier version used this name for the new file.
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
        replace_private(&path, "3\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // A directory of that name cannot be replaced, and no temporary file is left.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, "1\n").is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    #[test]
    fn pipes_and_large_files_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, long] = ["pipe", "long"].map(|name| dir.path().join(name));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(&long, vec![b'x'; 70_000]).unwrap();
        for (path, why) in [(&pipe, "not a regular file"), (&long, "too long")] {
            assert!(read_small(path).unwrap_err().to_string().contains(why));
        }
        assert!(read_small("/dev/null".as_ref()).is_err());
    }

    #[test]
    fn a_continued_file_is_private_and_not_a_link() {
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
