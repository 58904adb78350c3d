//! What this binary was built from. The commit is known where the build was told `BUILD_COMMIT`.
//! Never: anything of the machine it was built on.

/// One line of JSON: version, commit (empty where not known), rustc.
pub(super) const VERSION: &str = concat!(
    r#"{"version":""#,
    env!("CARGO_PKG_VERSION"),
    r#"","commit":""#,
    env!("BUILT_FROM_COMMIT"),
    r#"","rustc":""#,
    env!("BUILT_FROM_RUSTC"),
    r#""}"#,
    "\n"
);
