//! The registry of clients: every connection of the gRPC port with its open calls, who makes them, and how much they
//! transfer. It is observed from outside: a call notes what it does in atomics of its own, and a page of a list takes no
//! lock for longer than it takes to copy a few handles. Knows no gRPC.

mod bans;
mod call;
mod client;
mod clients;
mod peer;
mod slots;

pub use bans::{BANS_MAX, Banned, Bans, TooManyBans};
pub use call::Call;
pub use client::Client;
pub use clients::Registry;
pub use peer::Peer;
