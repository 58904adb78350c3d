//! Subscribing to one topic: deliveries in order, without gaps or repeats, across restarts, drains and broken
//! connections (P3).

mod delivery;
mod options;
mod resume;
mod subscription;

pub use delivery::Delivery;
pub use options::{Start, SubscriberOptions};
pub use subscription::Subscriber;
