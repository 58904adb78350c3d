//! Authentication and authorisation: who calls, and what they may do. Knows neither gRPC nor topics beyond
//! their names, and never logs, shows or keeps a credential.
//!
//! ```text
//! token file ─┐
//! JWKS file  ─┼→ Rules (one snapshot, replaced whole) → Auth::authenticate → Caller → allows, quotas
//! policy file ┘
//! ```

mod attempts;
mod authenticator;
mod cache;
mod caller;
mod error;
mod files;
#[cfg(test)]
mod fuzz_tests;
mod identity;
mod jwks;
mod jwt;
#[cfg(test)]
mod jwt_tests;
mod name;
mod options;
mod pattern;
mod peer;
mod policy;
mod policy_file;
#[cfg(test)]
mod policy_tests;
mod principals;
mod rate_limiter;
mod rules;
mod scope;
mod seal;
mod set;
mod shared;
#[cfg(test)]
#[path = "../../tests/integration/harness/jwt.rs"]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;

pub use attempts::Attempts;
pub use authenticator::{Auth, Reloaded};
pub use caller::{Caller, CreationPermit};
pub use error::{Error, Exceeded, TooMany};
pub use files::LoadError;
pub use jwt::Refusal;
pub use name::{ANONYMOUS, check_name};
pub use options::{FailureLimits, JwtOptions, Options};
pub use peer::PeerCertificate;
pub use policy::Action;
pub use rate_limiter::{Allowance, Limits, SubscriptionPermit};
pub use scope::Scope;
pub use set::Span;
pub use tokens::{entry, new_token};
