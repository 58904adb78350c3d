//! args → config → command → exit code.
fn main() {}
