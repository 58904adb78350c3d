//! The files of identities and policy: read at the start, and again while the server runs. A file with a
//! mistake changes nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::jwks;
use super::options::{JwtOptions, Options};
use super::policy_file;
use super::rules::{Issuer, Rules};
use super::tokens::{self, Tokens};
use crate::reload;

/// Mistakes in the files, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub Vec<String>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for LoadError {}

/// The files that the options name.
#[derive(Debug, Default)]
pub(super) struct Files {
    tokens: Option<File>,
    jwks: Option<(File, JwtOptions)>,
    policy: Option<File>,
}

#[derive(Debug)]
struct File {
    setting: &'static str,
    file: reload::Files,
    /// Hash of the last content without a mistake.
    accepted: [u8; 32],
}

impl File {
    fn new(setting: &'static str, path: &Path) -> Self {
        Self { setting, file: reload::Files::new(vec![path.to_owned()]), accepted: [0; 32] }
    }

    /// Parses the content of the file, unless it is the same as the last time.
    fn changed<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Result<T, Vec<String>>,
    ) -> Result<Option<T>, Vec<String>> {
        let Some(found) = self.file.changed() else { return Ok(None) };
        let found = found.map_err(|error| vec![error.source.to_string()]);
        let text = found.and_then(|contents| {
            String::from_utf8(contents.concat()).map_err(|_| vec!["not UTF-8".to_owned()])
        });
        let parsed = text.and_then(|text| {
            let parsed = parse(&text)?;
            self.accepted = tokens::hash(text.as_bytes());
            Ok(parsed)
        });
        let place = |fault: &String| format!("{} {}: {fault}", self.setting, self.file);
        parsed.map(Some).map_err(|faults| faults.iter().map(place).collect())
    }
}

impl Files {
    /// Names the files of the options.
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

    /// Reads the rules that the files hold.
    ///
    /// # Errors
    /// Every mistake in them.
    pub(super) fn load(&mut self) -> Result<Rules, LoadError> {
        let (rules, outcome) = self.reload(&Rules::default());
        outcome.map(|()| rules.unwrap_or_default())
    }

    /// Returns the rules that follow `before`, where any file has changed, and the mistakes in those that are
    /// not taken over.
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
            take_over(file.changed(Tokens::parse), &mut rules.tokens, &mut changed, &mut faults);
        }
        if let Some((file, options)) = &mut self.jwks {
            let issuer = |keys| Issuer::new(options.clone(), keys);
            let found = file.changed(|text| jwks::parse(text).map(issuer));
            take_over(found, &mut rules.jwt, &mut changed, &mut faults);
        }
        if let Some(file) = &mut self.policy {
            take_over(file.changed(policy_file::parse), &mut rules.policy, &mut changed, &mut faults);
        }
        rules.key = self.key();
        let outcome = if faults.is_empty() { Ok(()) } else { Err(LoadError(faults)) };
        (changed.then_some(rules), outcome)
    }

    /// Hash of the accepted contents of all files.
    fn key(&self) -> [u8; 32] {
        let jwks = self.jwks.as_ref().map(|(file, _)| file);
        let accepted = |file: Option<&File>| file.map_or([0; 32], |file| file.accepted);
        let all = [self.tokens.as_ref(), jwks, self.policy.as_ref()].map(accepted);
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
