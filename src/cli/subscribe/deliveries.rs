//! The deliveries of several topics as they arrive.

use std::pin::Pin;

use futures_util::Stream;
use futures_util::stream::{SelectAll, select_all, unfold};

use crate::client::{Client, Delivery, Error, SubscriberOptions};

/// A delivery, with the index of its topic.
pub(super) type Indexed = (usize, Result<Delivery, Error>);
/// The deliveries of all topics as they arrive.
pub(super) type Deliveries = SelectAll<Pin<Box<dyn Stream<Item = Indexed>>>>;

pub(super) fn subscribe(client: &Client, topics: impl Iterator<Item = SubscriberOptions>) -> Deliveries {
    select_all(topics.enumerate().map(|(index, options)| {
        let deliveries = unfold(client.subscribe(options), move |mut subscriber| async move {
            let delivery = subscriber.next().await?;
            Some(((index, delivery), subscriber))
        });
        Box::pin(deliveries) as Pin<Box<dyn Stream<Item = Indexed>>>
    }))
}
