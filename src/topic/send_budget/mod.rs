//! The memory budget of answers that peers have not read yet: frames handed to the transport, remainders of messages
//! larger than a frame, and receipts not taken. Usage is counted per connection and for the whole server. When a limit
//! is reached, frames and publish windows become small, and the least recently used remainders are dropped and read
//! from the log again once their peers continue. A peer that does not read therefore costs little memory, its calls
//! are not ended, and no other peer slows down.

mod budget;
mod frames;
mod receipts;
mod remainders;
mod stored_range;

pub use budget::SendBudget;
pub use frames::{FRAME_MAX, UnreadFrames};
pub use receipts::ReceiptBudget;
pub use remainders::{Pieces, Remainder};
pub use stored_range::StoredRange;
