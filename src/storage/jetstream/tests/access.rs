//! Tests of refusals at start: a NATS whose message size is too small, and wrong credentials.

use super::{config, created, open};
use crate::storage::Reason;
use crate::storage::jetstream::server::Nats;
use crate::storage::jetstream::{JetStreamLog, OpenError};

#[tokio::test]
async fn a_nats_that_takes_too_little_is_refused() {
    let nats = Nats::single("");
    let mut config = config(&nats);
    config.batch_bytes_max = (2 << 20) - (64 << 10) + 1;
    let error = JetStreamLog::open(&config, &Reason::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::MaxPayload { found: 0x20_0000, .. }), "{error}");
    assert!(error.to_string().contains("lower batch_bytes_max to 2031616 or less"), "{error}");
    config.batch_bytes_max -= 1;
    open(&config).await;
}

#[tokio::test]
async fn credentials_are_shown_and_wrong_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pair = nkeys_pair();
    for more in [
        "authorization { user: me, password: \"right\" }".to_owned(),
        "authorization { token: \"right\" }".to_owned(),
        format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.1),
    ] {
        let nats = Nats::single(&more);
        let mut accepted = 0;
        for way in 0..4 {
            let mut config = config(&nats);
            match way {
                0 => {
                    config.nats.user = "me".into();
                    config.nats.password = String::from("right").into();
                }
                1 => config.nats.token_file = file("token", "right\n"),
                2 => config.nats.nkey_file = file("seed", &pair.0),
                _ => {}
            }
            match JetStreamLog::open(&config, &Reason::default()).await {
                Ok(log) => {
                    accepted += 1;
                    created(&*log, "t").await;
                }
                Err(error) => assert!(matches!(error, OpenError::Refused { .. }), "{error}"),
            }
        }
        assert_eq!(accepted, 1, "{more}");
    }
    let mut config = config(&Nats::single(""));
    config.nats.creds_file = "/nonexistent/nats.creds".into();
    let error = JetStreamLog::open(&config, &Reason::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("nats.creds_file /nonexistent/nats.creds:"), "{error}");
}

/// Returns the seed and the public key of a user that exists only in this test.
fn nkeys_pair() -> (String, String) {
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    (SEED.into(), PUBLIC.into())
}
