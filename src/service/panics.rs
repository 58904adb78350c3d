//! Panics inside a call. They fail that call alone, with INTERNAL, and not the other calls of its connection; `telemetry`
//! logs and counts them with every other panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tonic::Status;

use super::status::{Context, Error, status};

/// Runs one step of a call, whose state is not used again where it panics.
pub(super) fn caught<T>(step: impl FnOnce() -> T) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|payload| {
        tracing::error!(panic = text(&*payload), "call panicked");
        status(&Error::Panicked, &Context::default())
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let string = payload.downcast_ref::<String>().map(String::as_str);
    string.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
