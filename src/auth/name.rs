//! The rules for principals' names.

/// Name of callers without a credential. Only a policy that names it admits them.
pub const ANONYMOUS: &str = "anonymous";
/// Name that the audit log gives to what the server did by itself. No caller may have it.
pub(super) const SERVER: &str = "streamway:server";
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
    if name == SERVER {
        return Err("is `streamway:server`, which stands for the server in the audit log");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ANONYMOUS, SERVER, check_name};

    #[test]
    fn names_that_stand_for_something_else_are_no_principals() {
        for reserved in [ANONYMOUS, SERVER] {
            assert!(check_name(reserved).unwrap_err().contains("stands for"), "{reserved}");
        }
        assert_eq!(check_name("system:serviceaccount:streamway:server"), Ok(()));
    }
}
