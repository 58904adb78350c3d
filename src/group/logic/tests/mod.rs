//! Groups as a whole: a shard's log, its owners, members, and a judge of what they did.

mod calls;
mod cases;
mod judge;
mod random;
mod restore;
mod terms;
mod world;
