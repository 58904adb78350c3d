//! JSON bodies of requests, in protobuf's form, and the calls of services that they become.

use axum::extract::Request;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::Problem;
use super::publish::{kind, malformed, whole};
use super::query::{Parameters, invalid};
use super::state::Web;

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
    // An array would be taken for the fields in their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(malformed("the body is not an object"));
    }
    serde_json::from_slice(&bytes).map_err(|error| malformed(&error.to_string()))
}

/// Tells a field that is null from one that is missing.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A number of 64 bits, which protobuf's JSON writes as text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a whole number, as text or not")]
pub enum Number {
    /// As text.
    Text(String),
    /// As a number.
    Number(u64),
}

impl Number {
    /// Returns the number of a field.
    ///
    /// # Errors
    /// It is no number of 64 bits.
    pub fn get(self, field: &str) -> Result<u64, Problem> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| invalid(field, "not a whole number of 64 bits"))
            }
            Self::Text(_) => Err(invalid(field, "not a whole number")),
        }
    }
}

/// Reads a duration of a field.
///
/// # Errors
/// It is no duration in the form of protobuf's JSON.
pub fn duration(field: &str, text: &str) -> Result<prost_types::Duration, Problem> {
    text.parse().map_err(|_| invalid(field, "not a duration such as 3600s"))
}
