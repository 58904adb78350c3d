//! Parameters of a request: each at most once, and no others than its route has.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::Query;
use axum::extract::rejection::PathRejection;
use http::{StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::service::status::{Context, Error};

/// The name in a path, as the extractor found it.
pub type Name = Result<axum::extract::Path<String>, PathRejection>;

/// Returns a name of a path.
///
/// # Errors
/// It is not UTF-8.
pub fn name(found: Name) -> Result<String, Problem> {
    match found {
        Ok(axum::extract::Path(name)) => Ok(name),
        Err(_) => Err(invalid("topic", "not UTF-8")),
    }
}

/// Parameters of a request.
#[derive(Debug)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads the parameters, which must be among `known`.
    ///
    /// # Errors
    /// One is unknown, given twice, or no UTF-8.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        // The parser of queries replaces what is not UTF-8.
        let is_text = percent_decode_str(uri.query().unwrap_or("")).decode_utf8().is_ok();
        let parsed = Query::<Vec<(String, String)>>::try_from_uri(uri).ok().filter(|_| is_text);
        let Some(Query(pairs)) = parsed else {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "INVALID_FIELD", "the query is not UTF-8"));
        };
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if !known.contains(&name.as_str()) {
                let shown: String = name.chars().take(64).collect();
                return Err(invalid(&shown, format!("not a parameter; those are {}", known.join(", "))));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(invalid(&name, "given twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// Returns the text of a parameter.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Parses a parameter.
    ///
    /// # Errors
    /// It is given, and not `what`.
    pub fn parsed<T: FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let parse = |text: &str| text.parse().map_err(|_| invalid(name, format!("not {what}")));
        self.text(name).map(parse).transpose()
    }

    /// Returns a flag: a name alone means true.
    ///
    /// # Errors
    /// It is given, and neither true nor false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.text(name) {
            None => Ok(None),
            Some("" | "true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(invalid(name, "neither true nor false")),
        }
    }
}

/// Makes the problem of a field or parameter that breaks its rule.
pub fn invalid(field: &str, rule: impl Into<String>) -> Problem {
    Problem::of(&Error::field(field, rule), &Context::default())
}

#[cfg(test)]
mod tests {
    use super::Parameters;

    #[test]
    fn parameters_are_known_and_given_once() {
        let of = |query: &str| {
            Parameters::of(&format!("/v1/topics?{query}").parse().unwrap(), &["from", "follow"])
        };
        let good = of("from=a%20b&follow").unwrap();
        assert_eq!((good.text("from"), good.flag("follow").unwrap()), (Some("a b"), Some(true)));
        for (bad, why) in [("form=1", "not a parameter"), ("from=1&from=2", "given twice"), ("from=%ff", "")]
        {
            let problem = of(bad).unwrap_err();
            let detail = problem.to_json()["detail"].as_str().unwrap().to_owned();
            assert!(problem.status() == 400 && detail.contains(why), "{bad}: {detail}");
        }
        assert!(of("follow=maybe").unwrap().flag("follow").is_err());
    }
}
