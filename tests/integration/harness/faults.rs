//! Disk faults under a running server: system calls that fail or are slow, by strace, and small file
//! systems. All of them end when dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use super::{signal, within};

/// Fault that lasts until it is dropped.
pub struct Fault {
    strace: Child,
    /// Output of strace, which would exit at the next thread if this were closed.
    _says: BufReader<ChildStderr>,
}

impl Fault {
    /// Injects a fault into the process `pid`. `what` is strace's syntax, such as `fdatasync:error=EIO`.
    pub async fn inject(pid: u32, what: &str) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("inject={what}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed: tests/run installs it");
        let stderr = child.stderr.take().expect("piped");
        let attached = tokio::task::spawn_blocking(move || {
            let mut says = BufReader::new(stderr);
            let mut lines = says.by_ref().lines().map_while(Result::ok);
            let said = lines.find(|line| line.contains("attached") || line.contains("not permitted"));
            (said, says)
        });
        let (said, says) = within(10, "strace", attached).await.expect("no panic");
        let said = said.expect("strace says whether it is attached");
        assert!(said.contains("attached"), "strace may trace: {said}");
        Self { strace: child, _says: says }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // On this signal strace detaches from the process before it exits.
        signal(self.strace.id(), "TERM");
        let _ = self.strace.wait();
    }
}

/// File system in memory, mounted until it is dropped. Needs root, or sudo without a password.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(bytes: u64) -> Self {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let options = format!("size={bytes},mode=0777");
        let mounted = root(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs"], dir.path());
        assert!(mounted, "a tmpfs can be mounted");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        root(&["umount", "-l"], self.0.path());
    }
}

/// ext4 file system in a file, mounted until it is dropped, that a fault makes read-only while it is in use.
/// Needs root, or sudo without a password.
pub struct FragileDisk {
    dir: tempfile::TempDir,
    mount: PathBuf,
}

impl FragileDisk {
    pub fn mount(bytes: u64) -> Self {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        std::fs::create_dir(&mount).expect("a mount point");
        std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        let made = Command::new("mkfs.ext4").arg("-qF").arg(&image).status();
        assert!(made.expect("mkfs.ext4 is installed: tests/run installs it").success(), "an ext4");
        let disk = Self { dir, mount };
        assert!(disk.attach(), "an image can be mounted");
        assert!(root(&["chmod", "0777"], &disk.mount), "anybody may write");
        disk
    }

    fn attach(&self) -> bool {
        let image = self.dir.path().join("image").display().to_string();
        root(&["mount", "-o", "loop,errors=remount-ro", &image], &self.mount)
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes the mounted file system read-only, including files open for writing, as a disk fault does.
    pub fn turn_read_only(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mine = self.mount.display().to_string();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&mine)).expect("mounted");
        let device = line.split(' ').next().and_then(|path| path.rsplit('/').next()).expect("a device");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        assert!(root(&["sh", "-c", "echo test > \"$0\""], Path::new(&trigger)), "{trigger} can be written");
    }

    /// Unmounts and mounts it, as an administrator does after a check. No process may use it.
    pub fn mount_again(&self) {
        assert!(root(&["umount"], &self.mount), "nobody holds it");
        assert!(self.attach(), "mounted again");
    }

    /// Remounts it as `ro` or `rw`, while no process writes.
    pub fn remount(&self, mode: &str) {
        assert!(root(&["mount", "-o", &format!("remount,{mode}")], &self.mount), "remounted");
    }
}

impl Drop for FragileDisk {
    fn drop(&mut self) {
        root(&["umount", "-l"], &self.mount);
    }
}

fn root(command: &[&str], path: &Path) -> bool {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let all = [sudo, command].concat();
    Command::new(all[0]).args(&all[1..]).arg(path).status().is_ok_and(|status| status.success())
}
