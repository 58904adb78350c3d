//! The file of saved contexts: named servers with the TLS options and the token of the connection to each. Only its owner
//! may read it, as it may hold tokens.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Failure, files};

/// Bits of a mode by which others than the owner may read or write.
const OTHERS: u32 = 0o077;

/// Everything that a client needs to reach a server.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Context {
    pub(super) server: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    /// The token itself. It is never printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) token_over_plaintext: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compression: Option<String>,
}

/// All contexts, and the one in use.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Path of the file: `streamway/contexts.json` in `$XDG_CONFIG_HOME`, by default `~/.config`; none without a home.
    fn path() -> Option<PathBuf> {
        // By the XDG specification, a relative path is invalid and ignored.
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config =
            absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        config.map(|config| config.join("streamway").join("contexts.json"))
    }

    fn existing_path() -> Result<PathBuf, Failure> {
        Self::path().ok_or_else(|| Failure::failed("no place for contexts: set HOME or XDG_CONFIG_HOME"))
    }

    /// Reads the file; there are no contexts without one.
    ///
    /// # Errors
    /// The file cannot be read, or is not one of contexts.
    pub(super) fn load() -> Result<Self, Failure> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        let failed =
            |why: &dyn std::fmt::Display| Failure::failed(format!("contexts {}: {why}", path.display()));
        let text = match files::read_small(&path) {
            Ok(text) => text,
            // Users that own nothing have a home such as /dev/null.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            // A directory that this user may not enter holds no contexts of this user.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !owns(&path) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(&error)),
        };
        let contexts: Self = serde_json::from_str(&text).map_err(|error| failed(&error))?;
        let mode = fs::metadata(&path)?.permissions().mode();
        if mode & OTHERS != 0 && contexts.contexts.values().any(|context| context.token.is_some()) {
            return Err(failed(&format!("others may read its tokens: chmod 600 {}", path.display())));
        }
        Ok(contexts)
    }

    /// Changes the contexts and replaces the file. It is readable for its owner only, and so is its directory where that is
    /// new. `change` is tried first, so that one that fails writes nothing, and then made under a lock, so that of several
    /// commands at once each changes what the one before it has written.
    ///
    /// # Errors
    /// `change` fails; or the file cannot be written, or would be too long to be read.
    pub(super) fn change(change: impl Fn(&mut Self) -> Result<(), Failure>) -> Result<(), Failure> {
        let path = Self::existing_path()?;
        let failed = |error| Failure::failed(format!("contexts {}: {error}", path.display()));
        let changed = || -> Result<String, Failure> {
            let mut contexts = Self::load()?;
            change(&mut contexts)?;
            contexts.text().map_err(failed)
        };
        changed()?;
        let lock = || -> io::Result<File> {
            DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new(".")))?;
            let lock = files::open_kept(&path.with_extension("lock"))?;
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(lock)
        };
        let _lock = lock().map_err(failed)?;
        files::replace_private(&path, &changed()?).map_err(failed)
    }

    fn text(&self) -> io::Result<String> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        if text.len() as u64 > files::SMALL_MAX {
            let why = format!("more than {} bytes; nothing was saved", files::SMALL_MAX);
            return Err(io::Error::other(why));
        }
        Ok(text)
    }

    /// The context in use; none where no context is.
    ///
    /// # Errors
    /// It was removed from the file.
    pub(super) fn in_use(&self) -> Result<Option<&Context>, Failure> {
        self.current.as_ref().map(|name| self.named(name)).transpose()
    }

    /// The context of this name.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::usage(format!("there is no context {name}; there are: {known}"))
        })
    }
}

/// Returns true if the home of a file is this user's.
fn owns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let uid = rustix::process::geteuid().as_raw();
    path.ancestors().find_map(|above| fs::metadata(above).ok()).is_some_and(|found| found.uid() == uid)
}
