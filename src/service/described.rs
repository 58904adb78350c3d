//! Topics as the answers of TopicService describe them.

use super::request::timestamp;
use crate::proto::v1;
use crate::storage::{Ancestor, Numbering, TopicInfo};

/// Makes the message that describes a topic.
pub(super) fn described(info: &TopicInfo) -> v1::Topic {
    let max_age = info.retention.max_age.map(|age| prost_types::Duration {
        seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
        nanos: age.subsec_nanos() as i32,
    });
    v1::Topic {
        name: info.name.as_str().to_owned(),
        epoch: info.epoch.to_string(),
        create_time: Some(timestamp(info.created)),
        update_time: Some(timestamp(info.updated)),
        retention: Some(v1::Retention {
            max_age,
            max_bytes: info.retention.max_bytes.unwrap_or(0),
            max_records: info.retention.max_records.unwrap_or(0),
        }),
        earliest_offset: info.earliest.get(),
        tail: info.tail.get(),
        stored_bytes: info.stored_bytes,
        last_publish_time: info.last_publish.map(timestamp),
        restored_from: info.lineage.ancestors().iter().map(restored_from).collect(),
        numbering: numbering(info.numbering).into(),
    }
}

fn restored_from(ancestor: &Ancestor) -> v1::RestoredFrom {
    v1::RestoredFrom { epoch: ancestor.epoch.to_string(), cut: ancestor.cut.get() }
}

/// Makes the contract's name of a numbering.
pub(super) const fn numbering(numbering: Numbering) -> v1::OffsetNumbering {
    match numbering {
        Numbering::Dense => v1::OffsetNumbering::Dense,
        Numbering::Sparse => v1::OffsetNumbering::Sparse,
    }
}
