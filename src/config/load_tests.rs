use std::time::Duration;

use proptest::prelude::*;

use super::check;
use super::environment::{CONFIG_VARIABLE, OTHER_VARIABLES};
use super::{ClientAuth, Config, Input, SETTINGS, Setting, TlsVersion, load};

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
fn every_value_is_read_back_from_what_is_printed_of_it() {
    let mut config = Config::default();
    for setting in SETTINGS.iter().filter(|setting| !setting.is_secret()) {
        let printed = (setting.get)(&config);
        assert_eq!((setting.set)(&mut config, &printed), Ok(()), "{}", setting.key);
        assert_eq!((setting.get)(&config), printed, "{}", setting.key);
    }
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn a_value_beyond_its_bounds_is_refused_with_the_bound() {
    for (key, value, bound) in [
        ("topics_max", "0", "at least 1"),
        ("batch_bytes_max", "17MiB", "at most 16MiB"),
        ("drain_timeout", "0", "at least 1us"),
        ("drain_timeout", "25h", "at most 24h"),
        ("storage.request_id_window", "1day 1ns", "at most 24h"),
        ("connections_max", "18446744073709551615", "at most 2305843009213693951"),
        ("heartbeat_interval", "5ms", "at least 1s"),
        ("http2.keepalive_interval", "999ms", "at least 1s"),
        ("http2.header_list_bytes_max", "1000", "at least 8KiB"),
        ("http2.connection_window_bytes", "2GiB", "at most 2147483647"),
        ("auth_jwt_leeway", "301s", "at most 5m"),
        ("reload_interval", "0", "at least 10ms"),
        ("stream_age_max", "20ms", "0 for none, or at least 1s"),
        ("window_max", "4294967296", "is too large"),
        ("data_dir", "", "must not be empty"),
    ] {
        let input = Input { flags: vec![(setting(key), value.to_owned())], ..Input::default() };
        let errors = load(input).unwrap_err().0;
        assert!(errors.len() == 1 && errors[0].ends_with(bound), "{key}: {errors:?}");
        assert!(errors[0].starts_with(&format!("{key} (flag --")), "{errors:?}");
    }
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
        environment(&[("STREAMWAY_TOPICS_MAX", "8"), ("STREAMWAY_STORAGE_OPEN_FILES_MAX", "9")]).environment;
    input.flags = vec![(setting("storage.open_files_max"), "10".to_owned())];
    let loaded = load(input).unwrap();
    let config = &loaded.config;
    assert_eq!((config.topics_max, config.reflection), (8, false));
    assert_eq!(config.drain_timeout, Duration::from_secs(20));
    assert_eq!((config.storage.cache_bytes, config.storage.open_files_max), (1 << 20, 10));
    let source = |key| &loaded.sources.iter().find(|(setting, ..)| setting.key == key).unwrap().2;
    assert_eq!(source("topics_max"), "environment STREAMWAY_TOPICS_MAX");
    assert_eq!(source("storage.open_files_max"), "flag --storage-open-files-max");
    let place = source("drain_timeout");
    assert!(place.starts_with("file ") && place.ends_with(", line 1"), "{place}");
    assert_eq!(source("window_max"), "default");
}

#[test]
fn optional_settings_may_be_empty() {
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
    assert_eq!(["tls.cert", "tls.client_auth", "tls.min_version"].map(value), ["c.pem", "optional", "1.3"]);
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
    let errors = load(input).unwrap_err().0;
    let expected = [
        "line 1: unknown key listne, did you mean listen?",
        "line 2: batch_bytes_max must be a string",
        "line 4: unknown key storage.cash_bytes, did you mean storage.cache_bytes?",
        "line 6: unknown key other.x",
        "drain_timeout (environment STREAMWAY_DRAIN_TIMEOUT): \"8\" is not a duration; write 500ms, 8s or 1h",
        "unknown environment variable STREAMWAY_LISTENS, did you mean STREAMWAY_LISTEN?",
    ];
    for text in expected {
        assert!(errors.iter().any(|error| error.contains(text)), "{text} in {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn variables_of_clients_are_no_settings_and_disturb_none() {
    let input = OTHER_VARIABLES.iter().filter(|name| **name != CONFIG_VARIABLE);
    let pairs: Vec<_> = input.map(|name| (*name, "x")).collect();
    let loaded = load(environment(&pairs)).unwrap();
    assert!(loaded.sources.iter().all(|(_, _, source)| source == "default"));
}

#[test]
fn variables_that_kubernetes_sets_are_ignored() {
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
fn variables_that_only_look_like_kubernetes_are_refused_by_name() {
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
fn a_file_that_is_missing_or_not_toml_is_an_error() {
    let input = environment(&[("STREAMWAY_CONFIG", "/nonexistent/x.toml")]);
    assert!(load(input).unwrap_err().to_string().contains("/nonexistent/x.toml"));
    for (text, line) in
        [("listen = ", "line 1: "), ("\nlisten = 1\nlisten = 2", "line 3: "), ("[a", "line 1: ")]
    {
        let (_file, input) = file(text);
        let errors = load(input).unwrap_err().0;
        assert!(!errors.is_empty() && errors[0].contains(line), "{text:?}: {errors:?}");
    }
}

#[test]
fn values_print_as_they_are_written() {
    let loaded = load(Input::default()).unwrap();
    let value = |key| loaded.sources.iter().find(|(setting, ..)| setting.key == key).unwrap().1.clone();
    assert_eq!(value("drain_timeout"), "8s");
    assert_eq!(value("storage.segment_bytes"), "64MiB");
    assert_eq!(value("storage.request_id_window"), "10m");
}

/// P9: changes of configurations that people write lead to one that passes its own checks, or to errors.
#[test]
fn no_change_of_a_file_makes_loading_panic() {
    let file = tempfile::NamedTempFile::new().unwrap();
    crate::corpus::fuzz("config", 20, |bytes| {
        std::fs::write(file.path(), bytes).unwrap();
        match load(Input { file: Some(file.path().into()), ..Input::default() }) {
            Ok(loaded) => assert!(check::errors(&loaded.config).is_empty()),
            Err(error) => assert!(!error.0.is_empty()),
        }
    });
}

proptest! {
    /// Any value of any setting leads to a configuration that passes its own checks, or to errors; never to a
    /// panic.
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
            Ok(loaded) => prop_assert!(check::errors(&loaded.config).is_empty()),
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
