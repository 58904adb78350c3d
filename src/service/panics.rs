//! A panic inside a call fails that call only: its peer is told INTERNAL, it is logged and counted.
//! Never: lets a panic end a connection's other calls.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

use super::status::{Context, Error, status};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many calls of this process have panicked.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs one step of a call, whose state is not used again where it panics.
pub(super) fn caught<T>(step: impl FnOnce() -> T) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|payload| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(panic = text(&*payload), "call panicked");
        status(&Error::Panicked, &Context::default())
    })
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let string = payload.downcast_ref::<String>().map(String::as_str);
    string.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
