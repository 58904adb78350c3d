//! Layers: defaults < file < environment < flags, into one checked [`Config`] that remembers
//! where each value came from.
//! Never: reads the environment by itself; it is handed in, so that tests can hand in theirs.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Provider};

use super::settings::{PREFIX, SETTINGS, Setting};
use super::{Config, check};
use crate::file;

/// Largest file: all settings with comments are some 20 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is laid over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The file of `--config`; where none, `STREAMWAY_CONFIG` names it.
    pub file: Option<PathBuf>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Flags given: setting and value.
    pub flags: Vec<(Setting, String)>,
}

/// A configuration, and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// Every setting with its value (secrets hidden) and its source, in the order of the help.
    pub sources: Vec<(Setting, String, String)>,
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub Vec<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Error {}

/// A value laid over the default.
struct Override {
    setting: Setting,
    value: String,
    source: String,
}

/// Loads and checks.
///
/// # Errors
/// Every unknown key, unreadable value and broken rule.
pub fn load(input: Input) -> Result<Loaded, Error> {
    let mut faults = Vec::new();
    let mut overrides = Vec::new();
    let named = input.environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
    if let Some(path) = input.file.or_else(|| named.map(|(_, path)| path.into())) {
        from_file(&path, &mut overrides, &mut faults);
    }
    from_environment(&input.environment, &mut overrides, &mut faults);
    overrides.extend(input.flags.into_iter().map(|(setting, value)| {
        let source = format!("flag --{}", setting.flag());
        Override { setting, value, source }
    }));
    let config = merge(&overrides, &mut faults);
    if faults.is_empty() {
        faults = check::faults(&config);
    }
    if !faults.is_empty() {
        return Err(Error(faults));
    }
    let sources = sources(&config, &overrides);
    Ok(Loaded { config, sources })
}

/// The defaults, as if nothing were given.
#[must_use]
pub fn defaults() -> Loaded {
    let config = Config::default();
    let sources = sources(&config, &[]);
    Loaded { config, sources }
}

/// Lays values over the defaults one by one, so that every bad one is named.
fn merge(overrides: &[Override], faults: &mut Vec<String>) -> Config {
    let mut layers = Figment::from(Serialized::defaults(Config::default()));
    let mut config = Config::default();
    for over in overrides {
        let next = layers.clone().merge(Serialized::default(over.setting.key, &over.value));
        match next.extract::<Config>() {
            Ok(merged) => (layers, config) = (next, merged),
            Err(error) => {
                let why = error.into_iter().map(|error| error.kind.to_string()).collect::<Vec<_>>();
                faults.push(format!("{} ({}): {}", over.setting.key, over.source, why.join(", ")));
            }
        }
    }
    config
}

fn sources(config: &Config, overrides: &[Override]) -> Vec<(Setting, String, String)> {
    let values = Figment::from(Serialized::defaults(config));
    let row = |setting: &Setting| {
        let value = match values.find_value(setting.key) {
            _ if setting.secret => "(hidden)".to_owned(),
            Ok(value) => value.into_string().unwrap_or_default(),
            Err(_) => String::new(),
        };
        let source = overrides.iter().rev().find(|over| over.setting == *setting);
        (*setting, value, source.map_or_else(|| "default".to_owned(), |over| over.source.clone()))
    };
    SETTINGS.iter().map(row).collect()
}

/// Names the file; not itself a setting.
pub const CONFIG_VARIABLE: &str = "STREAMWAY_CONFIG";

fn from_file(path: &Path, overrides: &mut Vec<Override>, faults: &mut Vec<String>) {
    let source = format!("file {}", path.display());
    let text = match file::read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => return faults.push(format!("{source}: {error}")),
    };
    let tables = match Toml::string(&text).data() {
        Ok(profiles) => profiles.into_values().next().unwrap_or_default(),
        Err(error) => {
            return faults.push(format!("{source}: {}", error.to_string().trim().replace('\n', " ")));
        }
    };
    let mut flat = Vec::new();
    flatten("", tables, &mut flat);
    for (key, value) in flat {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let known = SETTINGS.iter().map(|setting| setting.key);
            faults.push(format!("{source}: unknown key {key}{}", suggestion(&key, known)));
            continue;
        };
        match plain_text(&value) {
            Some(value) => overrides.push(Override { setting: *setting, value, source: source.clone() }),
            None => faults.push(format!("{source}: {key} must be a string, a number or true or false")),
        }
    }
}

fn flatten(prefix: &str, dict: Dict, out: &mut Vec<(String, Value)>) {
    for (key, value) in dict {
        match value {
            Value::Dict(_, inner) => flatten(&format!("{prefix}{key}."), inner, out),
            value => out.push((format!("{prefix}{key}"), value)),
        }
    }
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, _) => value.to_i128().map(|number| number.to_string()),
        _ => None,
    }
}

/// Variables of ours that are not the server's settings but a client's, and none of which may be both.
const OTHER_VARIABLES: [&str; 10] = [
    CONFIG_VARIABLE,
    "STREAMWAY_SERVER",
    "STREAMWAY_CLIENT_TLS_CA",
    "STREAMWAY_CLIENT_TLS_CERT",
    "STREAMWAY_CLIENT_TLS_KEY",
    "STREAMWAY_CLIENT_TLS_SERVER_NAME",
    "STREAMWAY_TOKEN",
    "STREAMWAY_TOKEN_FILE",
    "STREAMWAY_TOKEN_OVER_PLAINTEXT",
    "STREAMWAY_COMPRESSION",
];

fn from_environment(
    environment: &[(String, String)],
    overrides: &mut Vec<Override>,
    faults: &mut Vec<String>,
) {
    let variables: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if let Some(at) = variables.iter().position(|variable| variable == name) {
            let source = format!("environment {name}");
            overrides.push(Override { setting: SETTINGS[at], value: value.clone(), source });
        } else if !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(rest, value) {
            let known = variables.iter().map(String::as_str);
            faults.push(format!("unknown environment variable {name}{}", suggestion(name, known)));
        }
    }
}

/// Whether Kubernetes set it: for a Service named `streamway` or `streamway-anything`, every pod
/// of the namespace gets `STREAMWAY_…SERVICE_HOST`, `…SERVICE_PORT`, `…SERVICE_PORT_<name>`,
/// `…PORT=tcp://…` and `…PORT_<number>_TCP…`, and must start all the same. What only looks like one,
/// `STREAMWAY_PORT=9000`, is somebody's mistake.
fn is_service_link(rest: &str, value: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let service =
        parts.ends_with(&["SERVICE", "HOST"]) || parts.windows(2).any(|pair| pair == ["SERVICE", "PORT"]);
    let is_number = |part: &str| part.parse::<u16>().is_ok();
    let of_port =
        |run: &[&str]| run[0] == "PORT" && is_number(run[1]) && matches!(run[2], "TCP" | "UDP" | "SCTP");
    let link = match parts.split_last() {
        Some((&("PROTO" | "PORT" | "ADDR"), before)) => {
            before.last_chunk::<3>().is_some_and(|run| of_port(run))
        }
        _ => value.contains("://") && parts.last_chunk::<3>().is_some_and(|run| of_port(run)),
    };
    let url = parts.last() == Some(&"PORT") && value.contains("://");
    service || link || url
}

/// `, did you mean …?` where a known key is near.
fn suggestion<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Edits of a typing mistake.
    const NEAR: usize = 3;
    let nearest = known.map(|known| (distance(key, known), known)).min();
    nearest
        .filter(|(distance, _)| *distance <= NEAR)
        .map_or_else(String::new, |(_, known)| format!(", did you mean {known}?"))
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{Input, load};
    use crate::config::settings::{SETTINGS, Setting};
    use crate::config::{ClientAuth, Config, TlsVersion, human};
    use figment::{Figment, providers::Serialized, value::Value};
    use std::time::Duration;

    fn environment(pairs: &[(&str, &str)]) -> Input {
        let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Input { environment, ..Input::default() }
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, Input) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let input = Input { file: Some(file.path().to_owned()), ..Input::default() };
        (file, input)
    }

    fn setting(key: &str) -> Setting {
        *SETTINGS.iter().find(|setting| setting.key == key).unwrap()
    }

    #[test]
    fn every_field_is_a_setting() {
        let values = Figment::from(Serialized::defaults(Config::default()));
        let mut fields = Vec::new();
        super::flatten("", values.extract().unwrap(), &mut fields);
        let mut fields: Vec<_> = fields.into_iter().map(|(key, _): (String, Value)| key).collect();
        let mut settings: Vec<_> = SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
        fields.sort();
        settings.sort();
        assert_eq!(fields, settings);
    }

    #[test]
    fn nothing_given_is_the_default() {
        let loaded = load(Input::default()).unwrap();
        assert_eq!(format!("{:?}", loaded.config), format!("{:?}", Config::default()));
        assert!(loaded.sources.iter().all(|(_, _, source)| source == "default"));
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let (_file, mut input) = file(
            "drain_timeout = \"20s\"\ntopics_max = 7\nreflection = false\n[storage]\ncache_bytes = \"1MiB\"",
        );
        input.environment =
            environment(&[("STREAMWAY_TOPICS_MAX", "8"), ("STREAMWAY_STORAGE_OPEN_FILES_MAX", "9")])
                .environment;
        input.flags = vec![(setting("storage.open_files_max"), "10".to_owned())];
        let loaded = load(input).unwrap();
        let config = &loaded.config;
        assert_eq!((config.topics_max, config.reflection), (8, false));
        assert_eq!(config.drain_timeout, Duration::from_secs(20));
        assert_eq!((config.storage.cache_bytes, config.storage.open_files_max), (1 << 20, 10));
        let source = |key| &loaded.sources.iter().find(|(setting, ..)| setting.key == key).unwrap().2;
        assert_eq!(source("topics_max"), "environment STREAMWAY_TOPICS_MAX");
        assert_eq!(source("storage.open_files_max"), "flag --storage-open-files-max");
        assert!(source("drain_timeout").starts_with("file "));
        assert_eq!(source("window_max"), "default");
    }

    #[test]
    fn what_is_optional_may_be_empty() {
        let (_file, mut input) = file("[tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\nmin_version = \"1.3\"");
        input.environment = environment(&[
            ("STREAMWAY_TLS_CLIENT_CA", "ca.pem"),
            ("STREAMWAY_TLS_CLIENT_AUTH", "optional"),
            ("STREAMWAY_AUTH_POLICY", "policy.toml"),
        ])
        .environment;
        let loaded = load(input).unwrap();
        let tls = &loaded.config.tls;
        assert_eq!((tls.cert.as_deref(), tls.client_auth()), (Some("c.pem".as_ref()), ClientAuth::Optional));
        assert_eq!(tls.min_version, TlsVersion::V1_3);
        let value = |key| loaded.sources.iter().find(|(setting, ..)| setting.key == key).unwrap().1.clone();
        assert_eq!(
            ["tls.cert", "tls.client_auth", "tls.min_version"].map(value),
            ["c.pem", "optional", "1.3"]
        );
        let emptied = load(environment(&[("STREAMWAY_TLS_CERT", ""), ("STREAMWAY_TLS_CLIENT_AUTH", " ")]));
        assert!(emptied.unwrap().config.tls.cert.is_none());
        for bad in [("STREAMWAY_TLS_CLIENT_AUTH", "yes"), ("STREAMWAY_TLS_MIN_VERSION", "1.1")] {
            assert!(load(environment(&[bad])).unwrap_err().to_string().contains(": write "), "{bad:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let (_file, mut input) =
            file("listne = \"x\"\nbatch_bytes_max = []\n[storage]\ncash_bytes = 1\n[other]\nx = 1");
        input.environment =
            environment(&[("STREAMWAY_DRAIN_TIMEOUT", "8"), ("STREAMWAY_LISTENS", "x")]).environment;
        let faults = load(input).unwrap_err().0;
        let expected = [
            "unknown key listne, did you mean listen?",
            "batch_bytes_max must be a string",
            "unknown key storage.cash_bytes, did you mean storage.cache_bytes?",
            "unknown key other.x",
            "drain_timeout (environment STREAMWAY_DRAIN_TIMEOUT): \"8\" is not a duration; write 500ms, 8s or 1h",
            "unknown environment variable STREAMWAY_LISTENS, did you mean STREAMWAY_LISTEN?",
        ];
        for text in expected {
            assert!(faults.iter().any(|fault| fault.contains(text)), "{text} in {faults:#?}");
        }
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    }

    #[test]
    fn a_clients_variables_are_no_settings_and_disturb_none() {
        let input = super::OTHER_VARIABLES.iter().filter(|name| **name != super::CONFIG_VARIABLE);
        let pairs: Vec<_> = input.map(|name| (*name, "x")).collect();
        let loaded = load(environment(&pairs)).unwrap();
        assert!(loaded.sources.iter().all(|(_, _, source)| source == "default"));
    }

    #[test]
    fn the_variables_kubernetes_sets_kill_no_pod() {
        let input = environment(&[
            ("STREAMWAY_PORT", "tcp://10.0.0.1:50051"),
            ("STREAMWAY_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("STREAMWAY_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("STREAMWAY_SERVICE_HOST", "10.0.0.1"),
            ("STREAMWAY_SERVICE_PORT_GRPC", "50051"),
            ("STREAMWAY_HEADLESS_SERVICE_HOST", "10.0.0.1"),
            ("STREAMWAY_HEADLESS_PORT", "tcp://10.0.0.1:50051"),
            ("STREAMWAY_HEADLESS_PORT_8081_TCP_PROTO", "tcp"),
            ("STREAMWAY_SERVER", "http://x:1"),
            ("PATH", "/bin"),
        ]);
        assert!(load(input).is_ok());
    }

    #[test]
    fn what_only_looks_like_kubernetes_is_named() {
        for (name, value) in [
            ("STREAMWAY_PORT", "9000"),
            ("STREAMWAY_GRPC_PORT", "9000"),
            ("STREAMWAY_PORT_GRPC", "9000"),
            ("STREAMWAY_PORT_9000_TCP", "true"),
            ("STREAMWAY_SERVICE_NAME", "x"),
        ] {
            let error = load(environment(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_or_not_toml_is_an_error() {
        let input = environment(&[("STREAMWAY_CONFIG", "/nonexistent/x.toml")]);
        assert!(load(input).unwrap_err().to_string().contains("/nonexistent/x.toml"));
        let (_file, input) = file("listen = ");
        assert_eq!(load(input).unwrap_err().0.len(), 1);
    }

    #[test]
    fn values_print_as_they_are_written() {
        let loaded = load(Input::default()).unwrap();
        let value = |key| loaded.sources.iter().find(|(setting, ..)| setting.key == key).unwrap().1.clone();
        assert_eq!(value("drain_timeout"), "8s");
        assert_eq!(value("storage.segment_bytes"), human::format_size(64 << 20));
        assert_eq!(value("storage.request_id_window"), "10m");
    }
}

#[cfg(test)]
mod fuzz {
    use super::{Input, load};

    /// P9: from configurations that people write: one that passes its own checks, or errors.
    #[test]
    fn no_change_of_a_file_makes_loading_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        crate::corpus::fuzz("config", 20, |bytes| {
            std::fs::write(file.path(), bytes).unwrap();
            match load(Input { file: Some(file.path().into()), ..Input::default() }) {
                Ok(loaded) => assert!(crate::config::faults(&loaded.config).is_empty()),
                Err(error) => assert!(!error.0.is_empty()),
            }
        });
    }

    use crate::config::SETTINGS;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is given for whatever setting: a configuration that passes its own checks, or
        /// errors that name the setting; never a panic.
        #[test]
        fn no_value_makes_loading_panic(
            setting: prop::sample::Index,
            value in prop_oneof![".{0,20}", "-?[0-9]{0,25}(s|ms|h|KiB|MB|GiB|%)?", "[0-9.:\\[\\]]{0,20}"],
            by_flag: bool,
        ) {
            let setting = SETTINGS[setting.index(SETTINGS.len())];
            let input = if by_flag {
                Input { flags: vec![(setting, value)], ..Input::default() }
            } else {
                let name = format!("STREAMWAY_{}", setting.flag().replace('-', "_").to_uppercase());
                Input { environment: vec![(name, value)], ..Input::default() }
            };
            match load(input) {
                Ok(loaded) => prop_assert!(crate::config::faults(&loaded.config).is_empty()),
                Err(error) => prop_assert!(!error.0.is_empty()),
            }
        }

        #[test]
        fn no_file_makes_loading_panic(text in "([a-z_]{1,12}( ?= ?(\\[|\"|[0-9]|true|\\{).{0,12})?\n|\\[storage\\]\n|.{0,20}\n){0,6}") {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let _ = load(Input { file: Some(file.path().into()), ..Input::default() });
        }
    }
}
