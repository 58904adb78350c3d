//! Random numbers that tell things apart. They are no secrets.

/// A random number.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}
