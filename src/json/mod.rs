//! Records, topics and groups as JSON, in the forms that the command line and the HTTP listener share.

mod group;
mod object;
mod parse;
mod pieces;
mod print;
mod time;
mod topic;

pub use group::group_json;
pub use object::JsonObject;
pub use parse::{document, line, parse};
pub use pieces::Place;
pub use print::{Line, Values};
pub(crate) use time::date;
pub use time::{duration, event_time, parse_time, time};
pub use topic::topic_json;
