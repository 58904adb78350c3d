//! What this binary was built from. The commit is known where the build was told `STREAMWAY_COMMIT`.
//! Never: anything of the machine it was built on.

/// One line of JSON: version, commit (empty where not known), rustc, engine.
pub(super) const VERSION: &str = concat!(
    r#"{"version":""#,
    env!("CARGO_PKG_VERSION"),
    r#"","commit":""#,
    env!("STREAMWAY_BUILD_COMMIT"),
    r#"","rustc":""#,
    env!("STREAMWAY_BUILD_RUSTC"),
    r#"","engine":"embedded"}"#,
    "\n"
);
