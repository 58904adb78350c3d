//! The files of identities and policy: read at start, looked at again while serving.
//! Never: takes over a file with a mistake, or decides when to look.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::policy::Policy;
use super::rules::{Issuer, Rules};
use super::tokens::{self, Tokens};
use super::{JwtOptions, Options, jwks};
use crate::file;

/// Largest file: some ten thousand rules.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every mistake in the files, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub Vec<String>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for LoadError {}

/// The files there are, and what was last found in each.
#[derive(Debug, Default)]
pub(super) struct Files {
    tokens: Option<File>,
    jwks: Option<(File, JwtOptions)>,
    policy: Option<File>,
}

#[derive(Debug)]
struct File {
    kind: &'static str,
    path: PathBuf,
    /// What was looked at last, right or wrong, so that a mistake is told once.
    seen: Option<Seen>,
    /// The hash of what was read last and had no mistake.
    taken: [u8; 32],
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Content([u8; 32]),
    Unreadable(String),
}

impl File {
    fn new(kind: &'static str, path: &Path) -> Self {
        Self { kind, path: path.to_owned(), seen: None, taken: [0; 32] }
    }

    /// What it holds now, made into a `T`; none where that is what it held the last time.
    fn look<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, Vec<String>>,
    ) -> Result<Option<T>, Vec<String>> {
        let place = format!("{} {}", self.kind, self.path.display());
        let found = file::read_text(&self.path, FILE_BYTES_MAX).map_err(|why| why.to_string());
        let seen = match &found {
            Ok(text) => Seen::Content(tokens::hash(text.as_bytes())),
            Err(why) => Seen::Unreadable(why.clone()),
        };
        if self.seen.as_ref() == Some(&seen) {
            return Ok(None);
        }
        let parsed = found.map_err(|why| vec![why]).and_then(|text| parse(&text));
        if let (Seen::Content(hash), Ok(_)) = (&seen, &parsed) {
            self.taken = *hash;
        }
        self.seen = Some(seen);
        parsed.map(Some).map_err(|faults| faults.iter().map(|fault| format!("{place}: {fault}")).collect())
    }
}

impl Files {
    /// The files of these options.
    ///
    /// # Errors
    /// There are identities, but no policy: nobody would be allowed anything.
    pub(super) fn new(options: &Options) -> Result<Self, LoadError> {
        let identities = options.tokens.is_some() || options.jwt.is_some() || options.certificates;
        if identities && options.policy.is_none() {
            return Err(LoadError(vec!["identities without a policy: nobody may do anything".to_owned()]));
        }
        let file = |kind, path: &Option<PathBuf>| path.as_deref().map(|path| File::new(kind, path));
        Ok(Self {
            tokens: file("auth_tokens", &options.tokens),
            jwks: options.jwt.as_ref().map(|jwt| (File::new("auth_jwks", &jwt.jwks), jwt.clone())),
            policy: file("auth_policy", &options.policy),
        })
    }

    /// The rules that the files hold.
    ///
    /// # Errors
    /// Every mistake in them.
    pub(super) fn load(&mut self) -> Result<Rules, LoadError> {
        let (rules, outcome) = self.reload(&Rules::default());
        outcome.map(|()| rules.unwrap_or_default())
    }

    /// The rules that follow `before`, where any file has changed; beside them what is wrong with
    /// those that are not taken over.
    pub(super) fn reload(&mut self, before: &Rules) -> (Option<Rules>, Result<(), LoadError>) {
        let (mut changed, mut faults) = (false, Vec::new());
        let mut rules = Rules {
            policy: before.policy.clone(),
            tokens: before.tokens.clone(),
            jwt: before.jwt.clone(),
            key: [0; 32],
            replaced: CancellationToken::new(),
        };
        if let Some(file) = &mut self.tokens {
            take_over(file.look(Tokens::parse), &mut rules.tokens, &mut changed, &mut faults);
        }
        if let Some((file, options)) = &mut self.jwks {
            let issuer = |keys| Issuer::new(options.clone(), keys);
            let found = file.look(|text| jwks::parse(text).map(issuer));
            take_over(found, &mut rules.jwt, &mut changed, &mut faults);
        }
        if let Some(file) = &mut self.policy {
            take_over(file.look(Policy::parse), &mut rules.policy, &mut changed, &mut faults);
        }
        rules.key = self.key();
        let outcome = if faults.is_empty() { Ok(()) } else { Err(LoadError(faults)) };
        (changed.then_some(rules), outcome)
    }
}

impl Files {
    /// A hash of what all of them hold.
    fn key(&self) -> [u8; 32] {
        let jwks = self.jwks.as_ref().map(|(file, _)| file);
        let taken = |file: Option<&File>| file.map_or([0; 32], |file| file.taken);
        let all = [self.tokens.as_ref(), jwks, self.policy.as_ref()].map(taken);
        tokens::hash(&[b"streamway: places in lists".as_slice(), all.as_flattened()].concat())
    }
}

fn take_over<T>(
    found: Result<Option<T>, Vec<String>>,
    held: &mut Option<Arc<T>>,
    changed: &mut bool,
    faults: &mut Vec<String>,
) {
    match found {
        Ok(None) => {}
        Ok(Some(new)) => (*held, *changed) = (Some(Arc::new(new)), true),
        Err(wrong) => faults.extend(wrong),
    }
}
