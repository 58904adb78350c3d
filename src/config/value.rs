//! The kinds of values that settings have: each reads a value from text, and writes it.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
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
pub struct Word;

impl Word {
    pub fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
        parse(text)
    }

    pub fn write(value: &impl Display) -> String {
        value.to_string()
    }
}

/// Whole numbers.
pub struct Count;

impl Count {
    pub fn read<T: TryFrom<u64>>(text: &str, bounds: impl RangeBounds<u64>) -> Result<T, String> {
        let number = within(text, parse(text)?, &bounds, |bound| bound.to_string())?;
        T::try_from(number).map_err(|_| format!("{text:?} is too large"))
    }

    pub fn write(value: &impl Display) -> String {
        value.to_string()
    }
}

/// Numbers of bytes.
pub struct Size;

impl Size {
    pub fn read<T: TryFrom<u64>>(text: &str, bounds: impl RangeBounds<u64>) -> Result<T, String> {
        let bytes = within(text, parse_size(text)?, &bounds, format_size)?;
        T::try_from(bytes).map_err(|_| format!("{text:?} is too large"))
    }

    pub fn write<T: Copy + TryInto<u64>>(value: &T) -> String {
        format_size((*value).try_into().unwrap_or(u64::MAX))
    }
}

/// Durations.
pub struct Period;

impl Period {
    pub fn read(text: &str, bounds: impl RangeBounds<Duration>) -> Result<Duration, String> {
        within(text, parse_duration(text)?, &bounds, |bound| Self::write(&bound))
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
pub struct Age;

impl Age {
    pub fn read(text: &str, bounds: impl RangeBounds<Duration>) -> Result<Duration, String> {
        let age = Period::read(text, bounds)?;
        match age.is_zero() || age >= Duration::from_secs(1) {
            true => Ok(age),
            false => Err(format!("{text:?} must be 0 for none, or at least 1s")),
        }
    }

    pub fn write(value: &Duration) -> String {
        Period::write(value)
    }
}

/// Addresses to listen on.
pub struct Address;

impl Address {
    pub fn read(text: &str) -> Result<SocketAddr, String> {
        let invalid = |_| format!("{text:?} is not an address; write 0.0.0.0:50051 or [::]:50051");
        text.trim().parse().map_err(invalid)
    }

    pub fn write(value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// Texts and paths, taken as they are.
pub struct Text;

impl Text {
    pub fn read<T: From<String>>(text: &str) -> Result<T, String> {
        Ok(T::from(text.to_owned()))
    }

    pub fn write(value: &impl AsRef<OsStr>) -> String {
        value.as_ref().to_string_lossy().into_owned()
    }
}

/// Texts and paths that must not be empty.
pub struct Required;

impl Required {
    pub fn read<T: From<String>>(text: &str) -> Result<T, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Text::read(text) }
    }

    pub fn write(value: &impl AsRef<OsStr>) -> String {
        Text::write(value)
    }
}

/// Texts that are never printed.
pub struct Hidden;

impl Hidden {
    pub fn read<T: From<String>>(text: &str) -> Result<T, String> {
        Text::read(text)
    }

    pub fn write<T>(_: &T) -> String {
        "(hidden)".to_owned()
    }
}

/// Values that may be missing; an empty text is as good as none, so that a variable can be emptied.
pub struct Optional;

impl Optional {
    pub fn read<T: FromStr<Err: Display>>(text: &str) -> Result<Option<T>, String> {
        if text.trim().is_empty() { Ok(None) } else { parse(text).map(Some) }
    }

    pub fn write<T: Display>(value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, T::to_string)
    }
}

/// Paths of files that may be missing.
pub struct File;

impl File {
    pub fn read(text: &str) -> Result<Option<PathBuf>, String> {
        Optional::read(text)
    }

    pub fn write(value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }
}
