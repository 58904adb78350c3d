//! Errors of groups. `service::status` maps every variant to a gRPC status, and an owner tells them to other replicas.

use serde::{Deserialize, Serialize};

use crate::storage;
use crate::topic;

/// The reason why a call on a group failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The topic has no such group, or none of this id.
    #[error("the topic has no such group")]
    NotFound,
    /// The topic has a group of this name.
    #[error("the topic has a group of this name already")]
    Exists,
    /// The server has as many groups as it may have.
    #[error("this server has {limit} groups, which is the most (--groups-max): delete some, or raise it")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The group has as many members as it may have.
    #[error("the group has {limit} members, which is the most (--group-members-max)")]
    TooManyMembers {
        /// The limit.
        limit: usize,
    },
    /// The group has as many calls that wait for a lease as it may have.
    #[error(
        "the group has {limit} calls that wait for a lease, which is the most: ask again later, or by Consume"
    )]
    TooManyLeases {
        /// The limit.
        limit: usize,
    },
    /// The session is not known, is of another group, or its grace is over.
    #[error("the session has ended: join without it")]
    SessionEnded,
    /// A newer call has taken the session up.
    #[error("a newer call has taken this session up")]
    SessionTaken,
    /// The order of a group cannot change.
    #[error("the order of a group cannot be changed: create another group")]
    OrderFixed,
    /// The storage of groups that are to be reset is whole.
    #[error("these groups are not damaged, or there are none: nothing is reset")]
    NotDamaged,
    /// The topic was not restored from the backup that the group is in.
    #[error("the topic was not restored from the backup that holds this group: restore the topic first")]
    NotRestored,
    /// The owner of the group changed before it received the request. Nothing was done.
    #[error("the group moves to another replica")]
    Moved,
    /// The owner of the group was lost, or its storage failed, before it answered. It may have done what it was asked.
    #[error("the owner of the group changed, or its storage failed, before it answered")]
    Lost,
    /// The owner of the group is of an older version. Nothing was done.
    #[error(
        "the replica that owns the group is of an older version, which does not know this request: try again once \
         all replicas are upgraded"
    )]
    Unsupported,
    /// The topic, the storage or the server refused.
    #[error(transparent)]
    Topic(#[from] topic::Error),
}

impl Error {
    /// Returns true if what stores the groups is damaged.
    pub(super) const fn is_of_damage(&self) -> bool {
        matches!(self, Self::Topic(topic::Error::Storage(storage::Error::Damaged(_))))
    }
}
