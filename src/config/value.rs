//! The kinds of values that settings have: each module reads a value from text, and writes it.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;
use std::time::Duration;

use super::human::{format_size, parse_duration, parse_size};

/// Refuses a value outside its bounds, all of which include their ends.
fn within<T: Copy + PartialOrd>(
    text: &str,
    value: T,
    bounds: &impl RangeBounds<T>,
    write: impl Fn(T) -> String,
) -> Result<T, String> {
    match (bounds.start_bound(), bounds.end_bound()) {
        (Bound::Included(min), _) if value < *min => {
            Err(format!("{text:?} must be at least {}", write(*min)))
        }
        (_, Bound::Included(max)) if value > *max => Err(format!("{text:?} must be at most {}", write(*max))),
        _ => Ok(value),
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|why| format!("{text:?}: {why}"))
}

/// Values with a text of their own: `true`, or the name of a choice.
pub mod word {
    use super::{Display, FromStr, parse};

    pub fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
        parse(text)
    }

    pub fn write(value: &impl Display) -> String {
        value.to_string()
    }
}

/// Whole numbers.
pub mod count {
    use super::{Display, RangeBounds, parse, within};

    pub fn read<T: TryFrom<u64>>(text: &str, bounds: impl RangeBounds<u64>) -> Result<T, String> {
        let number = within(text, parse(text)?, &bounds, |bound| bound.to_string())?;
        T::try_from(number).map_err(|_| format!("{text:?} is too large"))
    }

    pub fn write(value: &impl Display) -> String {
        value.to_string()
    }
}

/// Numbers of bytes.
pub mod size {
    use super::{RangeBounds, format_size, parse_size, within};

    pub fn read<T: TryFrom<u64>>(text: &str, bounds: impl RangeBounds<u64>) -> Result<T, String> {
        let bytes = within(text, parse_size(text)?, &bounds, format_size)?;
        T::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
    }

    pub fn write<T: Copy + TryInto<u64>>(value: &T) -> String {
        format_size((*value).try_into().unwrap_or(u64::MAX))
    }
}

/// Durations.
pub mod duration {
    use super::{Duration, RangeBounds, parse_duration, within};

    pub fn read(text: &str, bounds: impl RangeBounds<Duration>) -> Result<Duration, String> {
        within(text, parse_duration(text)?, &bounds, |bound| write(&bound))
    }

    pub fn write(value: &Duration) -> String {
        match value.as_secs() {
            // 24h reads better than 1day.
            86_400 => "24h".to_owned(),
            _ => humantime::format_duration(*value).to_string(),
        }
    }
}

/// Ages: a duration of at least a second, as shorter ones only make clients reconnect; or 0 for none.
pub mod age {
    use super::{Duration, duration};

    pub use super::duration::write;

    pub fn read(text: &str) -> Result<Duration, String> {
        let age = duration::read(text, ..=Duration::from_secs(24 * 60 * 60))?;
        match age.is_zero() || age >= Duration::from_secs(1) {
            true => Ok(age),
            false => Err(format!("{text:?} must be 0 for none, or at least 1s")),
        }
    }
}

/// Addresses to listen on.
pub mod address {
    use std::net::SocketAddr;

    pub use super::word::write;

    pub fn read(text: &str) -> Result<SocketAddr, String> {
        let invalid = |_| format!("{text:?} is not an address; write 0.0.0.0:50051 or [::]:50051");
        text.trim().parse().map_err(invalid)
    }
}

/// Texts and paths, taken as they are.
pub mod text {
    use std::ffi::OsStr;

    pub fn read<T: From<String>>(text: &str) -> Result<T, String> {
        Ok(T::from(text.to_owned()))
    }

    pub fn write(value: &impl AsRef<OsStr>) -> String {
        value.as_ref().to_string_lossy().into_owned()
    }
}

/// Texts and paths that must not be empty.
pub mod required {
    pub use super::text::write;

    pub fn read<T: From<String>>(text: &str) -> Result<T, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { super::text::read(text) }
    }
}

/// Texts that are never printed.
pub mod secret {
    pub use super::text::read;

    pub fn write<T>(_: &T) -> String {
        "(hidden)".to_owned()
    }
}

/// Values that may be missing; an empty text is as good as none, so that a variable can be emptied.
pub mod optional {
    use super::{Display, FromStr, parse};

    pub fn read<T: FromStr<Err: Display>>(text: &str) -> Result<Option<T>, String> {
        if text.trim().is_empty() { Ok(None) } else { parse(text).map(Some) }
    }

    pub fn write<T: Display>(value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, T::to_string)
    }
}

/// Paths of files that may be missing.
pub mod file {
    use std::path::PathBuf;

    pub use super::optional::read;

    pub fn write(value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }
}
