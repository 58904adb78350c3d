//! The rules for principals' names.

/// Name of callers without a credential. Only a policy that names it admits them.
pub const ANONYMOUS: &str = "anonymous";
/// Maximum bytes of a name: a SPIFFE ID is at most 2048, and those in use far shorter.
const NAME_MAX: usize = 512;

/// Checks a principal's name.
///
/// # Errors
/// The rule that it breaks.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > NAME_MAX {
        return Err("has more than 512 bytes");
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("has spaces or control characters");
    }
    if name == ANONYMOUS {
        return Err("is `anonymous`, which stands for callers without an identity");
    }
    Ok(())
}
