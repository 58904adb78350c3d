//! Settings of the JetStream engine, and the small types they need.
//! Never: reads a file; the engine does, when it connects.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::human;

/// Where topics are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// In files of this process.
    #[default]
    Embedded,
    /// In a NATS cluster, shared with other replicas.
    JetStream,
}

/// Where NATS keeps what it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatsStorage {
    /// On disk.
    #[default]
    File,
    /// In memory: a restart of all its servers loses it.
    Memory,
}

macro_rules! words {
    ($type:ident, $what:literal, $($word:literal => $variant:ident),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err($what) }
            }
        }
    };
}

words!(Engine, "write embedded or jetstream", "embedded" => Embedded, "jetstream" => JetStream);
words!(NatsStorage, "write file or memory", "file" => File, "memory" => Memory);

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Settings of the JetStream engine. Flags and variables carry the prefix `nats-`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Servers to connect to, with commas between them.
    pub url: String,
    /// Copies that NATS keeps of every topic created from now on.
    #[serde(with = "human::plain")]
    pub replicas: usize,
    /// Where it keeps them.
    #[serde(with = "human::plain")]
    pub storage: NatsStorage,
    /// File of a JWT and its seed.
    pub creds_file: PathBuf,
    /// File of an nkey's seed.
    pub nkey_file: PathBuf,
    /// File of a token.
    pub token_file: PathBuf,
    /// User, with a password.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Certificates that the servers' are checked against; where none, the system's.
    pub tls_ca: PathBuf,
    /// Certificate shown to the servers.
    pub tls_cert: PathBuf,
    /// Its key.
    pub tls_key: PathBuf,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            replicas: 3,
            storage: NatsStorage::File,
            creds_file: PathBuf::new(),
            nkey_file: PathBuf::new(),
            token_file: PathBuf::new(),
            user: String::new(),
            password: Secret::default(),
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

/// What the settings of NATS must keep among each other, where they are used.
pub(super) fn faults(config: &super::Config, faults: &mut Vec<String>) {
    /// What an offset of the engine has room for in one message.
    const RECORDS_MAX: u32 = 1024;
    /// What JetStream keeps at most.
    const REPLICAS_MAX: usize = 5;
    let nats = &config.nats;
    if config.engine != Engine::JetStream {
        return;
    }
    if nats.url.trim().is_empty() {
        faults
            .push("nats.url is needed by the engine jetstream: nats://HOST:4222, several with commas".into());
    }
    if nats.url.contains('@') {
        let instead = "use nats.user and nats.password, nats.token_file, nats.nkey_file or nats.creds_file";
        faults.push(format!("nats.url must hold no credentials, as it is printed: {instead}"));
    }
    if !(1..=REPLICAS_MAX).contains(&nats.replicas) {
        faults.push(format!("nats.replicas must be 1 to {REPLICAS_MAX}"));
    }
    if config.batch_records_max > RECORDS_MAX {
        faults.push(format!("batch_records_max must be at most {RECORDS_MAX} with the engine jetstream"));
    }
    let given = [&nats.creds_file, &nats.nkey_file, &nats.token_file];
    let ways = given.iter().filter(|file| !file.as_os_str().is_empty()).count();
    if ways + usize::from(!nats.user.is_empty()) > 1 {
        faults
            .push("nats.creds_file, nats.nkey_file, nats.token_file and nats.user exclude each other".into());
    }
    if nats.user.is_empty() != nats.password.reveal().is_empty() {
        faults.push("nats.user and nats.password belong together".into());
    }
    if nats.tls_cert.as_os_str().is_empty() != nats.tls_key.as_os_str().is_empty() {
        faults.push("nats.tls_cert and nats.tls_key belong together".into());
    }
}

#[cfg(test)]
mod tests {
    use super::{Engine, Secret};
    use crate::config::{Config, Input, SETTINGS, Setting, faults, load};

    #[test]
    fn settings_of_nats_are_checked_where_they_are_used() {
        let mut config = Config { batch_records_max: 1025, ..Config::default() };
        config.nats.replicas = 6;
        config.nats.user = "me".into();
        config.nats.token_file = "token".into();
        config.nats.tls_key = "key".into();
        assert_eq!(faults(&config), Vec::<String>::new());
        config.engine = Engine::JetStream;
        let found = faults(&config);
        for part in
            ["nats.url", "nats.replicas", "batch_records_max", "exclude", "nats.password", "nats.tls_key"]
        {
            assert!(found.iter().any(|fault| fault.contains(part)), "{part} in {found:?}");
        }
        assert_eq!(found.len(), 6, "{found:?}");
        let with_password = Config { engine: Engine::JetStream, ..Config::default() };
        let mut config = with_password;
        config.nats.url = "nats://me:secret@host:4222".into();
        assert!(faults(&config)[0].contains("credentials"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let setting: Setting = *SETTINGS.iter().find(|setting| setting.key == "nats.password").unwrap();
        let input = Input { flags: vec![(setting, "tell-nobody".into())], ..Input::default() };
        let loaded = load(input).unwrap();
        assert_eq!(loaded.config.nats.password, Secret("tell-nobody".into()));
        assert!(!format!("{loaded:?}").contains("tell-nobody"));
    }
}
