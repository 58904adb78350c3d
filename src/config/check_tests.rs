use std::time::Duration;

use super::Config;
use super::check::errors;

#[test]
fn the_defaults_are_consistent() {
    assert_eq!(errors(&Config::default()), Vec::<String>::new());
}

#[test]
fn every_broken_rule_is_reported() {
    let mut config = Config { batch_bytes_max: 8 << 20, ..Config::default() };
    config.admin_listen = ([127, 0, 0, 1], 50051).into();
    config.drain_delay = Duration::from_secs(8);
    config.storage.unflushed_bytes_max = 1 << 20;
    let errors = errors(&config);
    for key in ["message_bytes_max", "admin_listen", "drain_delay", "storage.unflushed"] {
        assert!(errors.iter().any(|error| error.contains(key)), "{key} in {errors:?}");
    }
    assert_eq!(errors.len(), 4, "{errors:?}");
}

#[test]
fn limits_that_contradict_each_other_are_refused_with_the_reason() {
    let mut config = Config { stream_age_max: Duration::from_secs(3600), ..Config::default() };
    config.connection_age_max = Duration::from_secs(1);
    config.http2.stream_window_bytes = 32 << 20;
    config.http2.keepalive_timeout = Duration::from_secs(31);
    config.connection_inflight_bytes_max = 1 << 20;
    let errors = errors(&config);
    for reason in [
        "can never be reached",
        "would starve the others",
        "only once it has answered",
        "connection_inflight_bytes_max 1MiB must be at least message_bytes_max, 4MiB",
    ] {
        assert!(errors.iter().any(|error| error.contains(reason)), "{reason} in {errors:?}");
    }
    assert_eq!(errors.len(), 4, "{errors:?}");
}

#[test]
fn missing_settings_of_tls_are_named() {
    let of = |pairs: &[&str]| {
        let mut config = Config::default();
        for key in pairs {
            let file = Some("x".into());
            match *key {
                "cert" => config.tls.cert = file,
                "key" => config.tls.key = file,
                // A client certificate is an identity, which needs a policy.
                "ca" => (config.tls.client_ca, config.auth_policy) = (file.clone(), file),
                _ => config.tls.client_auth = Some(key.parse().unwrap()),
            }
        }
        errors(&config)
    };
    for good in [&["cert", "key"][..], &["cert", "key", "ca"], &["cert", "key", "ca", "optional"], &["none"]]
    {
        assert_eq!(of(good), Vec::<String>::new(), "{good:?}");
    }
    for (bad, named) in [
        (&["cert"][..], "tls.cert needs tls.key"),
        (&["key"], "tls.key needs tls.cert"),
        (&["ca"], "tls.client_ca needs tls.cert"),
        (&["cert", "key", "required"], "tls.client_auth needs tls.client_ca"),
    ] {
        let errors = of(bad);
        assert!(errors.len() == 1 && errors[0].starts_with(named), "{bad:?}: {errors:?}");
    }
}

#[test]
fn identities_need_all_their_settings() {
    let some = |text: &str| Some(text.to_owned());
    let of = |config: Config| errors(&config).join("\n");
    let jwks = Config { auth_jwks: Some("jwks".into()), ..Config::default() };
    for missing in ["auth_policy", "auth_jwks needs auth_jwt_issuer", "auth_jwks needs auth_jwt_audience"] {
        assert!(of(jwks.clone()).contains(missing), "{missing}");
    }
    let (issuer, audience) = (some("i"), some("a"));
    let whole = Config {
        auth_policy: Some("p".into()),
        auth_jwt_issuer: issuer,
        auth_jwt_audience: audience,
        ..jwks
    };
    assert_eq!(of(whole.clone()), "");
    assert_eq!(of(Config { auth_jwks: None, ..whole }).lines().count(), 2, "they would do nothing");
    assert!(of(Config { auth_tokens: Some("t".into()), ..Config::default() }).contains("auth_policy"));
    assert_eq!(of(Config { auth_policy: Some("p".into()), ..Config::default() }), "");
}

#[test]
fn a_drain_delay_leaves_time_to_drain() {
    let of = |delay, timeout| {
        let [drain_delay, drain_timeout] = [delay, timeout].map(Duration::from_millis);
        errors(&Config { drain_delay, drain_timeout, ..Config::default() }).len()
    };
    assert_eq!((of(4000, 8000), of(4001, 8000)), (0, 1));
    assert_eq!((of(500, 1000), of(501, 1000)), (0, 1));
    assert_eq!((of(20_500, 30_000), of(20_501, 30_000)), (0, 1));
}
