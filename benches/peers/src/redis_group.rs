//! Consumer groups of Redis: XREADGROUP and XACK, pipelined so that the next entries are on their way while some are handled.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::outcome::Outcome;
use crate::pace::Seen;
use crate::peer::{Member, Settle};
use crate::resp::{Replies, command};

/// Reads on their way at a time. Each asks for its part of the member's credit.
const READS: usize = 2;

/// A reply that is expected.
enum Expected {
    Entries,
    /// That of an XACK of these entries.
    Acked(Seen),
}

/// Creates a group at the first entry.
pub async fn create(socket: TcpStream, topic: &str, group: &str) -> Outcome<()> {
    let (reading, mut writing) = socket.into_split();
    let mut out = Vec::new();
    command(&[b"XGROUP", b"CREATE", topic.as_bytes(), group.as_bytes(), b"0"], &mut out);
    writing.write_all(&out).await?;
    Replies::new(reading).take(|_| ()).await?;
    Ok(())
}

/// Takes part in the group until dropped.
pub async fn consume(socket: TcpStream, topic: &str, group: &str, member: Member) -> Outcome<()> {
    let (reading, mut writing) = socket.into_split();
    let mut replies = Replies::new(reading);
    let name = format!("member-{}", member.index);
    let count = (member.credit / READS).to_string();
    let read: [&[u8]; 9] = [
        b"XREADGROUP",
        b"GROUP",
        group.as_bytes(),
        name.as_bytes(),
        b"COUNT",
        count.as_bytes(),
        b"STREAMS",
        topic.as_bytes(),
        b">",
    ];
    let (mut expected, mut out) = (VecDeque::new(), Vec::new());
    for _ in 0..READS {
        command(&read, &mut out);
        expected.push_back(Expected::Entries);
    }
    member.settled.subscribed();
    loop {
        writing.write_all(&out).await?;
        out.clear();
        let (mut confirmed, mut failed, mut is_idle) = (Seen::default(), None, false);
        replies
            .take(|leaves| match expected.pop_front() {
                Some(Expected::Acked(seen)) if leaves == [format!(":{}", seen.records).as_bytes()] => {
                    confirmed = confirmed.and(seen);
                }
                Some(Expected::Entries) => {
                    is_idle = leaves.is_empty();
                    // The key, then for each entry its id, the field's name and its value.
                    let entries = leaves.get(1..).unwrap_or_default();
                    ack(entries, (topic, group), &member, &mut expected, &mut out);
                    command(&read, &mut out);
                    expected.push_back(Expected::Entries);
                }
                _ => failed = Some("entries were not acknowledged"),
            })
            .await?;
        if let Some(failed) = failed {
            return Err(failed.into());
        }
        member.settled.add(confirmed);
        if is_idle {
            // No BLOCK, behind which acknowledgements would wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Acknowledges entries, by one command or by one for each.
fn ack(
    entries: &[&[u8]],
    (topic, group): (&str, &str),
    member: &Member,
    expected: &mut VecDeque<Expected>,
    out: &mut Vec<u8>,
) {
    let at_once = if member.settle == Settle::Together { entries.len() } else { 3 };
    for some in entries.chunks(at_once.max(3)) {
        let mut seen = Seen::default();
        let mut parts: Vec<&[u8]> = vec![b"XACK", topic.as_bytes(), group.as_bytes()];
        for entry in some.chunks_exact(3) {
            parts.push(entry[0]);
            seen.value(entry[2]);
        }
        member.received.add(seen);
        command(&parts, out);
        expected.push_back(Expected::Acked(seen));
    }
}
