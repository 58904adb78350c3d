//! Random changes of the files of policy, tokens and keys.

use super::{ANONYMOUS, Action};

/// P9: any text of a policy file is read or its mistakes are named; and callers without a credential are never
/// admitted by a pattern.
#[test]
fn no_change_of_a_policy_makes_it_panic_or_admits_anonymous_callers() {
    crate::corpus::fuzz("policy", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match super::policy_file::parse(&text) {
            Err(faults) => assert!(!faults.is_empty()),
            Ok(policy) => {
                for name in [ANONYMOUS, "billing-eu", "spiffe://prod/x", "é\u{301}", ""] {
                    let granted = policy.granted(name);
                    for topic in ["orders", "orders.eu", "", "*"] {
                        let allowed = policy.allows(&granted, Action::Any, topic);
                        assert!(!allowed || name != ANONYMOUS || text.contains(ANONYMOUS), "{text}");
                    }
                }
            }
        }
    });
}

/// P9: any text of a file of tokens or keys is read, or its mistakes are named.
#[test]
fn no_change_of_tokens_or_keys_makes_them_panic() {
    crate::corpus::fuzz("tokens", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(faults) = super::tokens::Tokens::parse(&text) {
            assert!(!faults.is_empty());
        }
    });
    crate::corpus::fuzz("jwks", 1, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match super::jwks::parse(&text) {
            Err(faults) => assert!(!faults.is_empty()),
            Ok(keys) => keys.iter().for_each(|key| assert!(!key.verifies(b"message", b"signature"))),
        }
    });
}
