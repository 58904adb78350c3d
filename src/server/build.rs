//! The source that this binary was built from. The commit is that of `BUILD_COMMIT`, or of the clone that a release
//! build was made in.

/// One line of JSON: version, commit (empty if not known), rustc.
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
