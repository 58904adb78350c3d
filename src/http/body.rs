//! JSON bodies of requests, in protobuf's form, and the calls of services that they become.

use axum::extract::Request;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::Problem;
use super::publish::{kind, malformed, whole};
use super::query::{Parameters, invalid};
use super::state::Web;
use crate::json::JsonObject;

/// Makes the call of a request: what the listener knows of the caller goes with it.
pub fn call<T>(parts: &Parts, message: T) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    *call.extensions_mut() = parts.extensions.clone();
    call
}

/// Reads a JSON body; there are no parameters beside it.
pub async fn body<T: DeserializeOwned>(web: &Web, request: Request) -> Result<(Parts, T), Problem> {
    let (parts, body) = request.into_parts();
    Parameters::of(&parts.uri, &[])?;
    let value = read(web, &parts, body).await?;
    Ok((parts, value))
}

/// Reads a JSON body.
pub async fn read<T: DeserializeOwned>(
    web: &Web,
    parts: &Parts,
    body: axum::body::Body,
) -> Result<T, Problem> {
    if kind(&parts.headers) != "application/json" {
        return Err(Problem::unsupported_media_type("application/json"));
    }
    let bytes = whole(web, body).await?;
    let read: Result<JsonObject<T>, _> = serde_json::from_slice(&bytes);
    read.map(|object| object.0).map_err(|error| malformed(&error.to_string()))
}

/// Tells a field that is null from one that is missing.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Largest number up to which a float holds every whole number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A number of 64 bits, which protobuf's JSON writes as text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, as text or not")]
pub enum Number {
    /// A JSON string.
    Text(String),
    /// A JSON number.
    Whole(u64),
    /// With a point or an exponent, such as 7.0 and 1e3, which JSON and protobuf take for whole numbers too.
    Float(f64),
}

impl Number {
    /// Returns the number of a field.
    ///
    /// # Errors
    /// It is no number of 64 bits.
    pub fn get(self, field: &str) -> Result<u64, Problem> {
        match self {
            Self::Whole(number) => Ok(number),
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| invalid(field, "not a whole number of 64 bits"))
            }
            Self::Float(number) if number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number) => {
                Ok(number as u64)
            }
            Self::Text(_) | Self::Float(_) => Err(invalid(field, "not a whole number")),
        }
    }

    /// Returns the number of a field that has 32 bits.
    ///
    /// # Errors
    /// It is no such number.
    pub fn get_u32(self, field: &str) -> Result<u32, Problem> {
        u32::try_from(self.get(field)?).map_err(|_| invalid(field, "not a whole number of 32 bits"))
    }
}

/// Reads a duration of a field.
///
/// # Errors
/// It is no duration in the form of protobuf's JSON.
pub fn duration(field: &str, text: &str) -> Result<prost_types::Duration, Problem> {
    text.parse().map_err(|_| invalid(field, "not a duration such as 3600s"))
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn whole_numbers_are_read_in_every_form() {
        let read = |text: &str| serde_json::from_str::<Number>(text).unwrap().get("field").ok();
        for (text, expected) in [
            ("7", Some(7)),
            ("\"18446744073709551615\"", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("7.0", Some(7)),
            ("1e3", Some(1000)),
            ("7.5", None),
            ("-1.0", None),
            ("1e300", None),
            ("\"\"", None),
            ("\"7.0\"", None),
            ("\"18446744073709551616\"", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert!(serde_json::from_str::<Number>("4294967296").unwrap().get_u32("field").is_err());
    }
}
