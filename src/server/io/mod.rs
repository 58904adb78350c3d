//! The byte streams below HTTP/2: the socket, and what is wrapped around it.

mod coalesced_write;
mod fair_read;
mod forward;
mod lingering_close;
mod preface;
mod prefixed;
mod socket;

pub(super) use coalesced_write::CoalescedWrite;
pub(super) use fair_read::FairRead;
pub(super) use lingering_close::LingeringClose;
pub(super) use preface::Preface;
pub(super) use prefixed::PrefixedIo;
pub(super) use socket::{Cork, Socket, set_user_timeout};
