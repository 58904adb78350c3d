//! The end of `--stop-at-tail`.

use std::time::Duration;

use tracing::debug;

use crate::client::Groups;
use crate::proto::v1;

/// Time between two looks at a group.
const INTERVAL: Duration = Duration::from_millis(200);

/// Waits until every record is settled that was in the topic when the group was first seen.
pub(super) async fn settled_up_to_tail(groups: &Groups, topic: &str, group: &str) {
    let mut tail = None;
    loop {
        match groups.get(topic, group).await {
            Ok(v1::Group { status: Some(status), .. }) => {
                let tail = *tail.get_or_insert(status.tail);
                if status.oldest_unsettled_offset >= tail {
                    return;
                }
            }
            Ok(_) => {}
            // The group may be created by the member a moment later; what is wrong otherwise, its call says.
            Err(error) => debug!(error = error.message(), "the group's state is not known"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
