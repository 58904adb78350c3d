//! Groups as answers and the audit log describe them.

use std::time::Duration;

use serde_json::json;

use super::super::request::timestamp;
use super::settings;
use crate::group::{Info, MemberInfo, Status};
use crate::proto::v1;

/// Makes the message that describes a group, with its status.
pub(super) fn group(info: &Info) -> v1::Group {
    v1::Group { status: Some(status(&info.status)), ..identity(info) }
}

/// Makes the message that describes a group without its status.
pub(super) fn identity(info: &Info) -> v1::Group {
    v1::Group {
        topic: info.topic.as_str().to_owned(),
        name: info.name.as_str().to_owned(),
        id: format!("{:016x}", info.id.0),
        create_time: Some(timestamp(info.created)),
        topic_epoch: info.topic_epoch.to_string(),
        settings: Some(settings::described(&info.settings)),
        status: None,
    }
}

fn status(status: &Status) -> v1::GroupStatus {
    v1::GroupStatus {
        oldest_unsettled_offset: status.oldest_unsettled.get(),
        tail: status.tail.get(),
        lag_records: status.lag.records,
        lag: status.lag.age.map(duration),
        leased_records: status.leased_records,
        delayed_records: status.delayed_records,
        blocked_keys: status.blocked_keys,
        parked_records: status.parked_records,
        dead_lettered_records: status.dead_lettered_records,
        skipped_records: status.skipped_records,
        is_at_lookahead_max: status.is_at_lookahead_max,
        dead_letter_problem: status.dead_letter_problem.clone().unwrap_or_default(),
        member_count: status.member_count,
        members: status.members.iter().map(member).collect(),
    }
}

fn member(member: &MemberInfo) -> v1::Member {
    v1::Member {
        name: member.name.to_string(),
        principal: member.principal.to_string(),
        age: Some(duration(member.age)),
        is_connected: member.is_connected,
        credit_records: member.credit_records,
        credit_bytes: member.credit_bytes,
        leased_records: member.leased_records,
        oldest_lease_age: member.oldest_lease_age.map(duration),
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    settings::duration(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Describes a group as JSON.
pub(super) fn text(info: &Info) -> String {
    let settings = &info.settings;
    json!({
        "id": format!("{:016x}", info.id.0),
        "topic_epoch": info.topic_epoch.to_string(),
        "order": format!("{:?}", settings.order),
        "ack_deadline_ms": settings.ack_deadline_ms,
        "lease_max_ms": settings.lease_max_ms,
        "session_grace_ms": settings.session_grace_ms,
        "deliveries_max": settings.deliveries_max,
        "backoff_ms": settings.backoff_ms,
        "dead_letter_topic": settings.dead_letter_topic.as_ref().map(|topic| topic.as_str()),
        "poison": format!("{:?}", settings.poison),
        "lookahead_max": settings.lookahead_max,
        "oldest_unsettled_offset": info.status.oldest_unsettled.get(),
    })
    .to_string()
}
