//! A data directory that the server cannot use: it says so in one line, exits with a non-zero code and changes nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::make::{published, records};
use crate::harness::{Server, read_all};

/// Runs `serve` on a directory that it must refuse, waits for its exit, and returns its output.
fn refuses(command: &mut Command, data_dir: &Path) -> String {
    let output = serve(command, data_dir);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "must not serve:\n{said}");
    assert_ne!(output.status.code(), None, "ends by itself: {:?}\n{said}", output.status);
    assert!(!said.contains("panicked"), "{said}");
    let error = said.lines().last().unwrap_or_default().to_owned();
    assert!(error.contains(&data_dir.display().to_string()), "names the directory: {error}");
    error.to_lowercase()
}

/// `timeout` ends it if it serves against expectation.
fn serve(command: &mut Command, data_dir: &Path) -> Output {
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"];
    command.args(serve).arg(data_dir).stdin(Stdio::null()).output().expect("runs")
}

fn binary() -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30", env!("CARGO_BIN_EXE_streamway")]);
    command
}

#[tokio::test]
async fn a_directory_in_use_is_left_to_its_owner() {
    let server = Server::start().await;
    let mut client = server.client().await;
    published(&mut client, "mine", records("a", 3)).await;
    let error = refuses(&mut binary(), server.data_dir());
    assert!(error.contains("locked by another process"), "{error}");
    published(&mut client, "mine", records("b", 3)).await;
    assert_eq!(read_all(&mut client, "mine").await.len(), 6);
}

#[test]
fn a_file_is_not_a_directory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = refuses(&mut binary(), &file);
    assert!(error.contains("not a directory"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_read_only_directory_is_refused() {
    // Root may write anywhere, so this runs as user nobody if possible, in a directory that nobody else can reach.
    let dir = TempDir::new_in("/tmp").unwrap();
    let (data, copy) = (dir.path().join("data"), dir.path().join("streamway"));
    std::fs::create_dir(&data).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_streamway"), &copy).unwrap();
    chmod("a+rx,a-w", &[dir.path(), &data, &copy]);
    let is_root = std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut command = if is_root.unwrap() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "timeout", "-s", "KILL", "30"]);
        command.arg(&copy);
        command
    } else {
        binary()
    };
    let error = refuses(command.current_dir("/"), &data);
    assert!(error.contains("read-only") || error.contains("permission denied"), "{error}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "nothing was written");
    chmod("u+w", &[dir.path(), &data, &copy]);
}

fn chmod(mode: &str, paths: &[&Path]) {
    assert!(Command::new("chmod").arg(mode).args(paths).status().unwrap().success());
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused_and_left_as_it_was() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::on(dir.path(), &[]).await;
    published(&mut server.client().await, "kept", records("a", 3)).await;
    server.sigterm().await;
    // docs/format.md: the version of the catalog is at byte 8.
    let catalog = dir.path().join("catalog");
    let before = std::fs::read(&catalog).unwrap();
    let mut newer = before.clone();
    newer[8] += 1;
    std::fs::write(&catalog, newer).unwrap();
    let files = snapshot(dir.path());
    let error = refuses(&mut binary(), dir.path());
    assert!(error.contains("newer"), "{error}");
    assert_eq!(snapshot(dir.path()), files, "not a byte was changed");
    std::fs::write(&catalog, before).unwrap();
    server.restart().await;
    assert_eq!(read_all(&mut server.client().await, "kept").await.len(), 3);
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o7777
}

fn modes(dir: &Path, found: &mut Vec<(PathBuf, u32)>) {
    found.push((dir.to_owned(), mode(dir)));
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            modes(&entry.path(), found);
        } else {
            found.push((entry.path(), mode(&entry.path())));
        }
    }
}

/// Whatever the umask, only the server's user can read what is stored.
#[tokio::test]
async fn a_new_directory_and_every_file_in_it_are_the_servers_alone() {
    let above = TempDir::new().unwrap();
    let data = above.path().join("a/data");
    let open = ["sh", "-c", r#"umask 000; exec "$0" "$@""#].map(str::to_owned).to_vec();
    let small = ["--storage-journal-bytes", "1048576", "--storage-segment-bytes", "1048576"];
    let mut server = Server::under(open, &data, &small).await;
    let mut client = server.client().await;
    for i in 0..40 {
        published(&mut client, "t", records(&format!("{i}/{}", "x".repeat(60_000)), 1)).await;
    }
    server.sigterm().await;
    server.restart().await;
    // A running server removes files while they are listed.
    server.sigterm().await;
    let mut found = Vec::new();
    modes(&data, &mut found);
    assert!(found.iter().any(|(path, _)| path.extension().is_some_and(|end| end == "seg")), "{found:?}");
    for (path, mode) in found {
        let want = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, want, "{mode:o}: {}", path.display());
    }
}

/// An existing directory that is accessible to others is left unchanged, and the log warns.
#[tokio::test]
async fn an_open_directory_is_left_as_it_is_and_told() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    chmod("755", &[&data]);
    let mut server = Server::on(&data, &[]).await;
    let said = server.log();
    assert!(said.contains("chmod -R go-rwx") && said.contains("0755"), "{said}");
    assert_eq!(mode(&data), 0o755);
    server.sigterm().await;
    chmod("700", &[&data]);
    server.restart().await;
    let said = server.log();
    assert!(!said.contains("chmod"), "{said}");
}
