//! The rules that the settings of NATS keep, where the engine uses them.

use super::settings::Config;
use super::types::Engine;

/// Lists what is wrong with the settings of NATS.
pub(super) fn check(config: &Config, errors: &mut Vec<String>) {
    /// Maximum records of one message: an offset of the engine has room for no more.
    const RECORDS_MAX: u32 = 1024;
    /// Maximum copies that JetStream keeps.
    const REPLICAS_MAX: usize = 5;
    let nats = &config.nats;
    if config.engine != Engine::JetStream {
        return;
    }
    if nats.url.trim().is_empty() {
        errors
            .push("nats.url is needed by the engine jetstream: nats://HOST:4222, several with commas".into());
    }
    if nats.url.contains('@') {
        let instead = "use nats.user and nats.password, nats.token_file, nats.nkey_file or nats.creds_file";
        errors.push(format!("nats.url must hold no credentials, as it is printed: {instead}"));
    }
    if !(1..=REPLICAS_MAX).contains(&nats.replicas) {
        errors.push(format!("nats.replicas must be 1 to {REPLICAS_MAX}"));
    }
    if config.batch_records_max > RECORDS_MAX {
        errors.push(format!("batch_records_max must be at most {RECORDS_MAX} with the engine jetstream"));
    }
    let given = [&nats.creds_file, &nats.nkey_file, &nats.token_file];
    let ways = given.iter().filter(|file| !file.as_os_str().is_empty()).count();
    if ways + usize::from(!nats.user.is_empty()) > 1 {
        errors
            .push("nats.creds_file, nats.nkey_file, nats.token_file and nats.user exclude each other".into());
    }
    if nats.user.is_empty() != nats.password.reveal().is_empty() {
        errors.push("nats.user and nats.password belong together".into());
    }
    if nats.tls_cert.as_os_str().is_empty() != nats.tls_key.as_os_str().is_empty() {
        errors.push("nats.tls_cert and nats.tls_key belong together".into());
    }
}

#[cfg(test)]
mod tests {
    use crate::config::check::errors;
    use crate::config::{Config, Engine, Input, SETTINGS, Secret, Setting, load};

    #[test]
    fn settings_of_nats_are_checked_where_they_are_used() {
        let mut config = Config { batch_records_max: 1025, ..Config::default() };
        config.nats.replicas = 6;
        config.nats.user = "me".into();
        config.nats.token_file = "token".into();
        config.nats.tls_key = "key".into();
        assert_eq!(errors(&config), Vec::<String>::new());
        config.engine = Engine::JetStream;
        let found = errors(&config);
        for part in
            ["nats.url", "nats.replicas", "batch_records_max", "exclude", "nats.password", "nats.tls_key"]
        {
            assert!(found.iter().any(|error| error.contains(part)), "{part} in {found:?}");
        }
        assert_eq!(found.len(), 6, "{found:?}");
        let with_password = Config { engine: Engine::JetStream, ..Config::default() };
        let mut config = with_password;
        config.nats.url = "nats://me:secret@host:4222".into();
        assert!(errors(&config)[0].contains("credentials"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let setting: Setting = *SETTINGS.iter().find(|setting| setting.key == "nats.password").unwrap();
        let input = Input { flags: vec![(setting, "tell-nobody".into())], ..Input::default() };
        let loaded = load(input).unwrap();
        assert_eq!(loaded.config.nats.password, Secret::from("tell-nobody".to_owned()));
        assert!(!format!("{loaded:?}").contains("tell-nobody"));
    }
}
