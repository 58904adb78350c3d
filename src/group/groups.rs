//! All groups of this server.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::info::Info;
use super::logic::{GroupId, GroupName, Outcome, Settings, Span};
use super::member::{Leased, Member};
use super::requests::{Join, LeaseOnce, Redrive, Redriven, Settlement};
use super::token::Token;
use crate::config::Config;
use crate::record::TopicName;
use crate::storage::Log;
use crate::topic::{From as StartFrom, Topics};

/// A cheap handle to all groups.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "topics have none")]
pub struct Groups(#[expect(dead_code, reason = "the runtime is under way")] Topics);

/// Result of a call.
type Result<T> = std::result::Result<T, Error>;

#[expect(clippy::unused_async, reason = "the runtime is under way")]
impl Groups {
    /// Groups of a server that is starting.
    #[must_use]
    pub const fn new(_: &Config, topics: Topics) -> Self {
        Self(topics)
    }

    /// Starts to serve the groups that this log stores, after its recovery.
    pub fn open(&self, _: Arc<dyn Log>) {}

    /// Hands back what members hold and stops, before the log closes and after all calls have ended.
    pub async fn close(&self) {}

    /// Creates a group.
    ///
    /// # Errors
    /// The topic does not exist, it has a group of this name, or the server has too many.
    pub async fn create(&self, _: &TopicName, _: &GroupName, _: StartFrom, _: Settings) -> Result<Info> {
        Err(Error::Unsupported)
    }

    /// Returns a group with its members.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn get(&self, _: &TopicName, _: &GroupName) -> Result<Info> {
        Err(Error::Unsupported)
    }

    /// Returns up to `limit` groups in the order of their topics and names, of one topic or of all, that come after
    /// `after`; without members. Fewer than `limit` are the last.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn list(
        &self,
        _topic: Option<&TopicName>,
        _after: Option<(TopicName, GroupName)>,
        _limit: usize,
    ) -> Result<Vec<Info>> {
        Err(Error::Unsupported)
    }

    /// Replaces the settings of a group.
    ///
    /// # Errors
    /// There is no such group, or none of this id; or its order would change.
    pub async fn update(
        &self,
        _: &TopicName,
        _: &GroupName,
        _id: Option<GroupId>,
        _: Settings,
    ) -> Result<Info> {
        Err(Error::Unsupported)
    }

    /// Deletes a group.
    ///
    /// # Errors
    /// There is no such group, or none of this id.
    pub async fn delete(&self, _: &TopicName, _: &GroupName, _id: Option<GroupId>) -> Result<()> {
        Err(Error::Unsupported)
    }

    /// Lets a group go on elsewhere.
    ///
    /// # Errors
    /// There is no such group, or the place is beyond the tail.
    pub async fn seek(&self, _: &TopicName, _: &GroupName, _: StartFrom) -> Result<Info> {
        Err(Error::Unsupported)
    }

    /// Delivers records again that were given up.
    ///
    /// # Errors
    /// There is no such group, or the dead letters cannot be read.
    pub async fn redrive(&self, _: &TopicName, _: &GroupName, _: Redrive) -> Result<Redriven> {
        Err(Error::Unsupported)
    }

    /// Makes a call a member, with a new session or one that it takes up again.
    ///
    /// # Errors
    /// There is no such group and none may be created, it has too many members, or the session has ended.
    pub async fn join(&self, _: Join) -> Result<Member> {
        Err(Error::Unsupported)
    }

    /// Leases records without an open call; none if none came in time.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn lease(&self, _: LeaseOnce) -> Result<Vec<Leased>> {
        Err(Error::Unsupported)
    }

    /// Settles a lease of any call. What is settled is durable.
    ///
    /// # Errors
    /// The group is gone, or the storage failed; then it may have taken effect.
    pub async fn settle(&self, _: Token, _: Settlement) -> Result<Vec<(Span, Outcome)>> {
        Err(Error::Unsupported)
    }

    /// Extends a lease. Returns the time left; none if it is lost.
    ///
    /// # Errors
    /// The group is gone.
    pub async fn extend(&self, _: Token, _time: Option<Duration>) -> Result<Option<Duration>> {
        Err(Error::Unsupported)
    }
}
