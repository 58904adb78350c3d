//! A pull consumer of NATS JetStream with explicit acknowledgements, each of which is confirmed.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::outcome::Outcome;
use crate::pace::Seen;
use crate::peer::Member;

/// Body of an acknowledgement.
const ACK: &[u8] = b"+ACK";

/// Creates the consumer that all members share.
pub async fn create(context: &Context, topic: &str, group: &str) -> Outcome<()> {
    let config = pull::Config {
        durable_name: Some(group.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(60),
        max_ack_pending: 200_000,
        ..pull::Config::default()
    };
    context.get_stream(topic).await?.create_consumer(config).await?;
    Ok(())
}

/// Takes part in the group until dropped.
pub async fn consume(context: &Context, topic: &str, group: &str, member: Member) -> Outcome<()> {
    let consumer: PullConsumer = context.get_stream(topic).await?.get_consumer(group).await?;
    let mut messages = consumer.stream().max_messages_per_batch(member.credit).messages().await?;
    member.settled.subscribed();
    let mut confirmed = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(message) = messages.next(), if confirmed.len() < member.credit => {
                let (message, client) = (message?, context.client());
                let mut seen = Seen::default();
                seen.value(&message.payload);
                member.received.add(seen);
                let to = message.reply.clone().ok_or("a message without a place for its acknowledgement")?;
                confirmed.push(async move {
                    // As `double_ack` does, which makes a subscription for each.
                    client.request(to, bytes::Bytes::from_static(ACK)).await.map(|_| seen)
                });
            }
            Some(seen) = confirmed.next(), if !confirmed.is_empty() => member.settled.add(seen?),
            else => return Err("the consumer ended".into()),
        }
    }
}
