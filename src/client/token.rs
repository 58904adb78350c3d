//! The token that identifies the caller, given directly or in a file. It is never shown, not even by Debug or in an
//! error.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// A secret that is sent as `authorization: Bearer …` with every call.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl<T: Into<String>> From<T> for Token {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Adds the token to every call. All clones share the newest token.
#[derive(Clone, Default)]
pub(crate) struct Bearer(Arc<ArcSwapOption<MetadataValue<Ascii>>>);

impl Bearer {
    /// Sets the token of calls from now on.
    pub(super) fn set(&self, token: &Token) -> Result<(), String> {
        let token = token.0.trim();
        if token.is_empty() {
            return Err("the token is empty".into());
        }
        let unfit = || "the token holds characters that are not allowed in a header".to_owned();
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unfit());
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| unfit())?;
        value.set_sensitive(true);
        self.0.store(Some(Arc::new(value)));
        Ok(())
    }

    /// Sets the token to the contents of a file.
    pub(super) fn set_from(&self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let text =
            std::str::from_utf8(bytes).map_err(|_| format!("{} is not a text file", path.display()))?;
        self.set(&text.into()).map_err(|why| format!("{}: {why}", path.display()))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &*self.0.load() {
            request.metadata_mut().insert("authorization", MetadataValue::clone(value));
        }
        Ok(request)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.load().is_some() { "Bearer(hidden)" } else { "Bearer(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::{Bearer, Token};
    use tonic::Request;
    use tonic::service::Interceptor;

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let mut bearer = Bearer::default();
        assert!(bearer.call(Request::new(())).unwrap().metadata().is_empty());
        let token = Token::from("s3cret\n");
        bearer.set(&token).unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap().to_str().unwrap(), "Bearer s3cret");
        for shown in [format!("{token:?}"), format!("{bearer:?}"), format!("{request:?}")] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        for bad in ["", " \n", "s3\ncret", "s3cr\u{e9}t"] {
            let error = bearer.set(&bad.into()).unwrap_err();
            assert!(!error.contains("s3"), "{error}");
        }
        let request = bearer.call(Request::new(())).unwrap();
        assert!(request.metadata().get("authorization").is_some(), "a bad token leaves the earlier one");
    }
}
