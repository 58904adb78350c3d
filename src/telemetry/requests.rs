//! Counts of the requests of the HTTP listener by method, route and status. Routes are templates, so that clients cannot
//! create labels.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::metric::{Gauge, Histogram, HistogramSnapshot};
use super::names::DURATIONS;

/// Methods with a label of their own (RFC 9110 and PATCH).
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Method, route and status.
type Labels = (&'static str, &'static str, u16);

/// Counts of all requests.
#[derive(Debug)]
pub struct Requests {
    /// Requests that are open now.
    pub active: Gauge,
    /// At most as many as there are routes, methods and statuses.
    ended: RwLock<BTreeMap<Labels, Arc<Histogram>>>,
}

impl Requests {
    /// Label of all other methods, as the semantic conventions have it.
    pub(super) const METHOD_OTHER: &'static str = "_OTHER";

    pub(super) const fn new() -> Self {
        Self { active: Gauge::new(), ended: RwLock::new(BTreeMap::new()) }
    }

    /// Returns the label of a method.
    #[must_use]
    pub fn method(name: &str) -> &'static str {
        METHODS.into_iter().find(|method| *method == name).unwrap_or(Self::METHOD_OTHER)
    }

    /// Counts a request that ended.
    pub fn end(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        let labels = (method, route, status);
        let known = self.ended.read().unwrap_or_else(PoisonError::into_inner).get(&labels).cloned();
        let histogram = known.unwrap_or_else(|| {
            let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(ended.entry(labels).or_insert_with(|| Arc::new(Histogram::new(&DURATIONS))))
        });
        histogram.record_time(took);
    }

    /// Lists the durations of all requests that ended.
    pub(super) fn ended(&self) -> Vec<(Labels, HistogramSnapshot)> {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        ended.iter().map(|(labels, histogram)| (*labels, histogram.snapshot())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Requests;
    use std::time::Duration;

    #[test]
    fn requests_are_counted_by_method_route_and_status() {
        let requests = Requests::new();
        for (method, status) in [("GET", 200), ("GET", 200), ("GET", 404), ("BREW", 404)] {
            requests.end(Requests::method(method), "/v1/topics", status, Duration::from_millis(1));
        }
        let labels: Vec<_> = requests.ended().into_iter().map(|(labels, _)| labels).collect();
        let route = "/v1/topics";
        assert_eq!(labels, [("GET", route, 200), ("GET", route, 404), ("_OTHER", route, 404)]);
    }
}
