//! One caller, as the server came to know it: who it is, until when, and what it may do.
//! Never: holds a credential; a token is remembered by its hash.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::policy::Action;
use super::principals::Principal;
use super::rate_limiter::{Allowance, Limits, SubscriptionPermit, now_ns};
use super::scope::Scope;
use super::{Auth, Error, Exceeded, seal};

/// What the identity rests on. It must still be there after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: anybody.
    None,
    /// A static token with this SHA-256.
    Token([u8; 32]),
    /// A JWT signed with the key of this fingerprint.
    Key([u8; 32]),
    /// A client certificate, which TLS has verified.
    Certificate,
}

/// A caller. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    auth: Auth,
    who: Arc<Who>,
}

/// Who calls.
pub(super) struct Who {
    pub(super) principal: Arc<Principal>,
    pub(super) proof: Proof,
    pub(super) expires: Option<SystemTime>,
}

impl Caller {
    pub(super) const fn new(auth: Auth, who: Arc<Who>) -> Self {
        Self { auth, who }
    }

    /// Who calls.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.who.principal.name
    }

    /// What stands for who calls in what is stored: the same for every identity of that name, and for no
    /// other name. Zero without an identity.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.who.principal.digest
    }

    /// When the identity ends; none where it does not by itself.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.who.expires
    }

    /// Whether the rules as they are now let it do this. `topic` is a topic's name, or what somebody
    /// takes for one: then no pattern of a topic matches it but `*`.
    #[must_use]
    pub fn allows(&self, action: Action, topic: &str) -> bool {
        let rules = self.auth.0.rules.load();
        let Some(policy) = &rules.policy else { return true };
        rules.knows(&self.who.principal.name, self.who.proof)
            && self.who.principal.is_allowed(policy, action, topic)
    }

    /// The topics that the rules as they are now let it do this with.
    #[must_use]
    pub fn scope(&self, action: Action) -> Scope {
        let rules = self.auth.0.rules.load();
        match &rules.policy {
            None => Scope::all(),
            Some(policy) if rules.knows(&self.who.principal.name, self.who.proof) => {
                Scope::of(self.who.principal.topics(policy, action))
            }
            Some(_) => Scope::of(Arc::default()),
        }
    }

    /// A place in a list of topics that it may keep but not read.
    #[must_use]
    pub fn seal(&self, place: &str) -> String {
        seal::seal(&self.auth.0.rules.load().key, &self.who.principal.name, place)
    }

    /// What [`Self::seal`] sealed for it, by the same rules.
    #[must_use]
    pub fn open(&self, sealed: &str) -> Option<String> {
        seal::open(&self.auth.0.rules.load().key, &self.who.principal.name, sealed)
    }

    /// As [`Self::allows`].
    ///
    /// # Errors
    /// [`Error::Denied`], the same whether there is such a topic or not.
    pub fn permit(&self, action: Action, topic: &str) -> Result<(), Error> {
        let allowed = self.allows(action, topic);
        if allowed { Ok(()) } else { Err(Error::denied(&self.who.principal.name, action, topic)) }
    }

    /// Resolves once the rules as they are now were replaced; none where there are none. To be taken
    /// before the check whose outcome it guards.
    #[must_use]
    pub fn rules_replaced(&self) -> Option<WaitForCancellationFutureOwned> {
        let rules = self.auth.0.rules.load();
        rules.policy.as_ref().map(|_| rules.replaced.clone().cancelled_owned())
    }

    fn limits(&self) -> Limits {
        let rules = self.auth.0.rules.load();
        rules.policy.as_ref().map_or_else(Limits::default, |policy| self.who.principal.limits(policy))
    }

    /// What it may publish now; one publish is admitted however little that is.
    ///
    /// # Errors
    /// Nothing: a quota is in deficit, for as long as the error says.
    pub fn allowance(&self) -> Result<Allowance, Exceeded> {
        let (own_limits, all_limits) = (&self.limits(), &self.auth.0.limits);
        if own_limits.publishing_is_free() && all_limits.publishing_is_free() {
            return Ok(Allowance::ANY);
        }
        let (now, own, all) = (now_ns(), &self.who.principal.rate_limiter, &self.auth.0.rate_limiter);
        let mine = own.deficit(own_limits, now).map(|deficit| (Some(&self.who.principal.name), deficit));
        let everybodys = all.deficit(all_limits, now).map(|deficit| (None, deficit));
        match mine.into_iter().chain(everybodys).max_by_key(|(_, deficit)| deficit.2) {
            None => Ok(own.allowance(own_limits, now).and(all.allowance(all_limits, now))),
            Some((principal, (quota, limit, retry))) => {
                Err(Exceeded { quota, principal: principal.cloned(), limit, retry: Some(retry) })
            }
        }
    }

    /// Pays for what was published.
    pub fn consume(&self, bytes: u64, records: u64) {
        let (own, all) = (self.limits(), &self.auth.0.limits);
        if own.publishing_is_free() && all.publishing_is_free() {
            return;
        }
        let now = now_ns();
        self.who.principal.rate_limiter.consume(&own, bytes, records, now);
        self.auth.0.rate_limiter.consume(all, bytes, records, now);
    }

    /// Most topics among those it may do the same to for it to create one more; none for no limit.
    #[must_use]
    pub fn topics_max(&self) -> Option<u64> {
        Some(self.limits().topics_max).filter(|most| *most > 0)
    }

    /// Its turn to count topics and create one, so that it does not create two in the place of one.
    pub async fn creating(&self) -> CreationPermit {
        CreationPermit(self.who.principal.rate_limiter.creating().await)
    }

    /// The quota on topics, used up.
    #[must_use]
    pub fn topics_exceeded(&self, limit: u64) -> Exceeded {
        Exceeded {
            quota: "topics_max",
            principal: Some(Arc::clone(&self.who.principal.name)),
            limit,
            retry: None,
        }
    }

    /// Counts a subscription for as long as the answer is held.
    ///
    /// # Errors
    /// It would be one too many.
    pub fn subscribe(&self) -> Result<SubscriptionPermit, Exceeded> {
        let (own, all) = (self.limits(), &self.auth.0.limits);
        let exceeded = |principal, limits: &Limits| Exceeded {
            quota: "subscriptions_max",
            principal,
            limit: limits.subscriptions_max,
            retry: None,
        };
        let mine = self.who.principal.rate_limiter.subscribe(&own);
        let mine = mine.ok_or_else(|| exceeded(Some(Arc::clone(&self.who.principal.name)), &own))?;
        let everybodys = self.auth.0.rate_limiter.subscribe(all).ok_or_else(|| exceeded(None, all))?;
        Ok(SubscriptionPermit([mine, everybodys]))
    }
}

/// Held while a topic is created within a quota.
#[derive(Debug)]
pub struct CreationPermit(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("principal", &self.who.principal.name).finish_non_exhaustive()
    }
}
