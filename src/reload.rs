//! Files that are read again and again, so that certificates, tokens and policies can change under a
//! running process. Only their contents are compared: a file that is written anew, one that is renamed
//! over it and a symbolic link that is swapped (Kubernetes) are all the same. A pipe gives its content
//! once, and is never read again. No content is kept or logged.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{info, warn};

use crate::file;

/// Largest file taken: a certificate chain and a policy are a few KiB, a bundle of every public CA 300.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
pub struct Error {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason.
    pub source: io::Error,
}

/// Content of each file, in the order of their paths.
pub type Contents = Vec<Vec<u8>>;

/// Files that belong together: a change of one is a change of all.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// Nothing before the first reading.
    seen: Option<Fingerprint>,
}

/// Hash of the contents that were read last, or of the reason why they could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fingerprint {
    Read(u64),
    Unreadable(u64),
}

impl Files {
    /// Names the files, without reading them.
    #[must_use]
    pub const fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, seen: None }
    }

    /// Reads the files for the first time. Blocking.
    ///
    /// # Errors
    /// One is missing, unreadable, too large, or not a file.
    pub fn read(paths: Vec<PathBuf>) -> Result<(Self, Contents), Error> {
        let contents = read(&paths)?;
        let seen = Some(fingerprint(&Ok(&contents)));
        Ok((Self { paths, seen }, contents))
    }

    /// Reads the files and returns their contents, unless they are the same as the last time. Blocking.
    pub fn changed(&mut self) -> Option<Result<Contents, Error>> {
        if self.seen.is_some() && self.paths.iter().any(|path| file::is_pipe(path)) {
            return None;
        }
        let contents = read(&self.paths);
        let seen = Some(fingerprint(&contents.as_ref()));
        let is_same = seen == self.seen;
        self.seen = seen;
        (!is_same).then_some(contents)
    }

    /// Reads the files every `interval`, for ever, and hands changed contents to `apply`. A warning about
    /// contents that `apply` refuses is logged once, and only after they were found the same twice: files
    /// that are replaced one after the other do not fit each other for a moment.
    pub async fn follow(
        mut self,
        interval: Duration,
        mut apply: impl FnMut(&Contents) -> Result<(), String>,
    ) {
        let names = self.to_string();
        let mut refused: Option<String> = None;
        loop {
            tokio::time::sleep(interval).await;
            let reading = tokio::task::spawn_blocking(move || {
                let changed = self.changed();
                (self, changed)
            });
            // Fails only where the process ends.
            let Ok((files, changed)) = reading.await else { return };
            self = files;
            let outcome = match changed {
                Some(Ok(contents)) => apply(&contents),
                Some(Err(error)) => Err(error.to_string()),
                None => {
                    if let Some(error) = refused.take() {
                        warn!(
                            files = names,
                            error, "changed files cannot be used, the earlier ones stay in use"
                        );
                    }
                    continue;
                }
            };
            refused = outcome.err();
            if refused.is_none() {
                info!(files = names, "changed files are in use");
            }
        }
    }
}

/// Writes the paths.
impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.paths.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, path.display())?;
        }
        Ok(())
    }
}

fn read(paths: &[PathBuf]) -> Result<Contents, Error> {
    paths
        .iter()
        .map(|path| file::read(path, FILE_BYTES_MAX).map_err(|source| Error { path: path.clone(), source }))
        .collect()
}

fn fingerprint(contents: &Result<&Contents, &Error>) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    match contents {
        Ok(contents) => {
            contents.hash(&mut hasher);
            Fingerprint::Read(hasher.finish())
        }
        Err(error) => {
            error.to_string().hash(&mut hasher);
            Fingerprint::Unreadable(hasher.finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Files;
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[test]
    fn a_change_is_reported_once_however_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // What Kubernetes makes of a secret: file → ..data/file, ..data → ..one.
        for name in ["..one", "..two"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        fs::write(at("other"), "a").unwrap();
        let (mut files, contents) = Files::read(vec![at("file"), at("other")]).unwrap();
        assert_eq!(contents, [b"..one".to_vec(), b"a".to_vec()]);
        assert!(files.changed().is_none());
        symlink("..two", at("..swapped")).unwrap();
        fs::rename(at("..swapped"), at("..data")).unwrap();
        assert_eq!(files.changed().unwrap().unwrap()[0], b"..two");
        fs::write(at("other"), "b").unwrap();
        assert_eq!(files.changed().unwrap().unwrap()[1], b"b");
        fs::write(at("renamed"), "c").unwrap();
        fs::rename(at("renamed"), at("other")).unwrap();
        assert_eq!(files.changed().unwrap().unwrap()[1], b"c");
        assert!(files.changed().is_none());
        fs::remove_file(at("other")).unwrap();
        assert!(files.changed().unwrap().unwrap_err().to_string().contains("other: No such file"));
        assert!(files.changed().is_none(), "reported once");
        fs::write(at("other"), "c").unwrap();
        assert!(files.changed().unwrap().is_ok(), "it is back");
    }

    #[test]
    fn a_directory_and_a_file_that_is_too_large_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Files::read(vec![dir.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let large = dir.path().join("large");
        fs::File::create(&large).unwrap().set_len(5 << 20).unwrap();
        assert!(Files::read(vec![large]).unwrap_err().to_string().ends_with("larger than 4 MiB"));
    }

    #[test]
    fn a_pipe_is_read_once() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"a").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd()).into();
        let (mut files, contents) = Files::read(vec![path]).unwrap();
        assert_eq!(contents, [b"a".to_vec()]);
        assert!(files.changed().is_none(), "its end is no change");
    }

    #[tokio::test]
    async fn a_good_change_is_applied_after_a_bad_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (files, _) = Files::read(vec![file.path().to_owned()]).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (applied, path) = (Arc::clone(&seen), file.path().to_owned());
        let follow = files.follow(Duration::from_millis(1), move |contents| {
            applied.lock().unwrap().push(contents[0].clone());
            if contents[0] == b"bad" { Err("bad".into()) } else { Ok(()) }
        });
        let change = async {
            for text in ["bad", "good"] {
                fs::write(&path, text).unwrap();
                while seen.lock().unwrap().last().is_none_or(|last| last != text.as_bytes()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        tokio::select! {
            () = follow => panic!("it follows for ever"),
            () = change => {}
        }
    }
}
