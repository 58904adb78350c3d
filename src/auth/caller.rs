//! An authenticated caller: its identity, how long that is valid, and what it may do. A token is remembered by its
//! hash only.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::error::{Error, Exceeded};
use super::identity::Identity;
use super::policy::Action;
use super::rate_limiter::{Allowance, Limits, SubscriptionPermit, now_ns};
use super::scope::Scope;
use super::seal;
use super::shared::Shared;

/// An authenticated caller. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    shared: Arc<Shared>,
    identity: Arc<Identity>,
}

impl Caller {
    pub(super) const fn new(shared: Arc<Shared>, identity: Arc<Identity>) -> Self {
        Self { shared, identity }
    }

    /// Returns the principal's name.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.identity.principal.name
    }

    /// Returns the principal's name as a handle.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.identity.principal.name)
    }

    /// Returns the digest that stands for the principal in stored data: the same for every identity of that name,
    /// and different for every other name. Zero without an identity.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.identity.principal.digest
    }

    /// Returns when the identity expires; none where it does not.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.expires
    }

    /// Tells whether the current rules let it do this. `topic` may be any text: one that is no topic's name is
    /// matched by the pattern `*` alone.
    #[must_use]
    pub fn allows(&self, action: Action, topic: &str) -> bool {
        let rules = self.shared.rules.load();
        let Some(policy) = &rules.policy else { return true };
        rules.knows(&self.identity.principal.name, self.identity.proof)
            && self.identity.principal.is_allowed(policy, action, topic)
    }

    /// Tells whether the current rules let it use this group of this topic.
    #[must_use]
    pub fn consumes(&self, topic: &str, group: &str) -> bool {
        let rules = self.shared.rules.load();
        let Some(policy) = &rules.policy else { return true };
        rules.knows(&self.identity.principal.name, self.identity.proof)
            && self.identity.principal.consumes(policy, topic, group)
    }

    /// Checks [`Self::consumes`].
    ///
    /// # Errors
    /// [`Error::Denied`], the same whether there is such a group or not.
    pub fn permit_consume(&self, topic: &str, group: &str) -> Result<(), Error> {
        if self.consumes(topic, group) {
            return Ok(());
        }
        Err(Error::denied(&self.identity.principal.name, Action::Consume, &format!("{topic}/{group}")))
    }

    /// Returns the topics that the current rules let it do this with.
    #[must_use]
    pub fn scope(&self, action: Action) -> Scope {
        let rules = self.shared.rules.load();
        match &rules.policy {
            None => Scope::all(),
            Some(policy) if rules.knows(&self.identity.principal.name, self.identity.proof) => {
                Scope::of(self.identity.principal.topics(policy, action))
            }
            Some(_) => Scope::of(Arc::default()),
        }
    }

    /// Seals a place in a list of topics, which it may keep but not read.
    #[must_use]
    pub fn seal(&self, place: &str) -> String {
        seal::seal(&self.shared.rules.load().key, &self.identity.principal.name, place)
    }

    /// Opens what [`Self::seal`] sealed for it, by the same rules.
    #[must_use]
    pub fn open(&self, sealed: &str) -> Option<String> {
        seal::open(&self.shared.rules.load().key, &self.identity.principal.name, sealed)
    }

    /// Checks [`Self::allows`].
    ///
    /// # Errors
    /// [`Error::Denied`], the same whether there is such a topic or not.
    pub fn permit(&self, action: Action, topic: &str) -> Result<(), Error> {
        let allowed = self.allows(action, topic);
        if allowed { Ok(()) } else { Err(Error::denied(&self.identity.principal.name, action, topic)) }
    }

    /// Checks that the current rules let it operate the server. Where there are no rules, everybody may.
    ///
    /// # Errors
    /// [`Error::NotOperator`].
    pub fn permit_operate(&self) -> Result<(), Error> {
        let rules = self.shared.rules.load();
        let principal = &self.identity.principal;
        match &rules.policy {
            Some(policy)
                if !rules.knows(&principal.name, self.identity.proof) || !principal.operates(policy) =>
            {
                Err(Error::NotOperator { principal: Arc::clone(&principal.name) })
            }
            _ => Ok(()),
        }
    }

    /// Returns a future that resolves once the current rules are replaced; none where there are none. To be taken
    /// before the check whose outcome it guards.
    #[must_use]
    pub fn rules_replaced(&self) -> Option<WaitForCancellationFutureOwned> {
        let rules = self.shared.rules.load();
        rules.policy.as_ref().map(|_| rules.replaced.clone().cancelled_owned())
    }

    fn limits(&self) -> Limits {
        let rules = self.shared.rules.load();
        rules.policy.as_ref().map_or_else(Limits::default, |policy| self.identity.principal.limits(policy))
    }

    /// Returns what it may publish now; one publish is admitted however little that is.
    ///
    /// # Errors
    /// A quota is in deficit, for as long as the error says.
    pub fn allowance(&self) -> Result<Allowance, Exceeded> {
        let (own_limits, all_limits) = (&self.limits(), &self.shared.limits);
        if own_limits.publishing_is_free() && all_limits.publishing_is_free() {
            return Ok(Allowance::ANY);
        }
        let (now, own, all) = (now_ns(), &self.identity.principal.rate_limiter, &self.shared.rate_limiter);
        let mine = own.deficit(own_limits, now).map(|deficit| (Some(&self.identity.principal.name), deficit));
        let everybodys = all.deficit(all_limits, now).map(|deficit| (None, deficit));
        match mine.into_iter().chain(everybodys).max_by_key(|(_, deficit)| deficit.2) {
            None => Ok(own.allowance(own_limits, now).and(all.allowance(all_limits, now))),
            Some((principal, (quota, limit, retry))) => {
                Err(Exceeded { quota, principal: principal.cloned(), limit, retry: Some(retry) })
            }
        }
    }

    /// Counts what was published against the quotas.
    pub fn consume(&self, bytes: u64, records: u64) {
        let (own, all) = (self.limits(), &self.shared.limits);
        if own.publishing_is_free() && all.publishing_is_free() {
            return;
        }
        let now = now_ns();
        self.identity.principal.rate_limiter.consume(&own, bytes, records, now);
        self.shared.rate_limiter.consume(all, bytes, records, now);
    }

    /// Returns the maximum number of topics that it may administer and still create one more; none for no limit.
    #[must_use]
    pub fn topics_max(&self) -> Option<u64> {
        Some(self.limits().topics_max).filter(|most| *most > 0)
    }

    /// Waits for its turn to count topics and create one, so that two calls do not both take the last place.
    pub async fn creating(&self) -> CreationPermit {
        CreationPermit(self.identity.principal.rate_limiter.creating().await)
    }

    /// Returns the error of a used-up quota of topics.
    #[must_use]
    pub fn topics_exceeded(&self, limit: u64) -> Exceeded {
        Exceeded {
            quota: "topics_max",
            principal: Some(Arc::clone(&self.identity.principal.name)),
            limit,
            retry: None,
        }
    }

    /// Counts a subscription until the permit is dropped.
    ///
    /// # Errors
    /// The quota is used up.
    pub fn subscribe(&self) -> Result<SubscriptionPermit, Exceeded> {
        let (own, all) = (self.limits(), &self.shared.limits);
        let exceeded = |principal, limits: &Limits| Exceeded {
            quota: "subscriptions_max",
            principal,
            limit: limits.subscriptions_max,
            retry: None,
        };
        let mine = self.identity.principal.rate_limiter.subscribe(&own);
        let mine = mine.ok_or_else(|| exceeded(Some(Arc::clone(&self.identity.principal.name)), &own))?;
        let everybodys = self.shared.rate_limiter.subscribe(all).ok_or_else(|| exceeded(None, all))?;
        Ok(SubscriptionPermit([mine, everybodys]))
    }
}

/// Permit that is held while a topic is created within a quota.
#[derive(Debug)]
pub struct CreationPermit(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("principal", &self.identity.principal.name).finish_non_exhaustive()
    }
}
