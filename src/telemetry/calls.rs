//! Counts of calls by method and status, unary and streaming apart. Unknown methods share one label, so that
//! clients cannot create labels.

use std::sync::OnceLock;
use std::time::Duration;

use super::metric::{Gauge, Histogram};
use super::names::{DURATIONS, LONG_DURATIONS, METHODS, OTHER, UNOBSERVED};

/// gRPC's status codes by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A method of the gRPC port: an index into [`METHODS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(usize);

impl Method {
    /// Finds the method of a path `/package.Service/Method`; none for health and reflection, which are not
    /// counted.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let asked = path.strip_prefix('/').unwrap_or(path);
        if asked.starts_with("grpc.") {
            return None;
        }
        // The tutorial's services answer under their bare names too.
        let known = |name: &str| name == asked || name.strip_prefix("example.") == Some(asked);
        let found = METHODS.iter().position(|(name, _)| known(name));
        Some(Self(found.unwrap_or(METHODS.len() - 1)))
    }

    /// Returns the method of a path as `package.Service/Method`; one name for all unknown ones.
    #[must_use]
    pub fn name_of(path: &str) -> &'static str {
        let asked = path.strip_prefix('/').unwrap_or(path);
        let unobserved = UNOBSERVED.iter().find(|name| **name == asked);
        unobserved.copied().unwrap_or_else(|| Self::of(path).map_or(OTHER, Self::name))
    }

    /// Returns `package.Service/Method`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        METHODS[self.0].0
    }

    /// Tells whether either side sends more than one message.
    #[must_use]
    pub const fn is_streaming(self) -> bool {
        METHODS[self.0].1
    }
}

/// Counts of all calls.
#[derive(Debug)]
pub struct Calls {
    active: [Gauge; METHODS.len()],
    ended: [[OnceLock<Box<Histogram>>; CODES.len()]; METHODS.len()],
}

impl Calls {
    pub(super) const fn new() -> Self {
        Self {
            active: [const { Gauge::new() }; METHODS.len()],
            ended: [const { [const { OnceLock::new() }; CODES.len()] }; METHODS.len()],
        }
    }

    /// Counts a call that begins.
    pub fn begin(&self, method: Method) {
        self.active[method.0].add(1);
    }

    /// Counts a call that ended with this code.
    pub fn end(&self, method: Method, code: usize, took: Duration) {
        self.active[method.0].add(-1);
        let scale = if method.is_streaming() { &LONG_DURATIONS } else { &DURATIONS };
        let Some(slot) = self.ended[method.0].get(code) else { return };
        slot.get_or_init(|| Box::new(Histogram::new(scale))).record_time(took);
    }

    /// Lists the number of open calls of every method.
    pub(super) fn active(&self) -> impl Iterator<Item = (Method, &Gauge)> {
        self.active.iter().enumerate().map(|(index, gauge)| (Method(index), gauge))
    }

    /// Lists the durations of every method and code that occurred.
    pub(super) fn ended(&self) -> impl Iterator<Item = (Method, &'static str, &Histogram)> {
        self.ended.iter().enumerate().flat_map(|(index, codes)| {
            let seen = codes.iter().zip(CODES).filter_map(|(slot, code)| Some((code, slot.get()?)));
            seen.map(move |(code, histogram)| (Method(index), code, &**histogram))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Calls, Method};
    use std::time::Duration;

    #[test]
    fn methods_are_known_by_path_and_all_others_are_one() {
        let name = |path| Method::of(path).map(Method::name);
        assert_eq!(name("/streamway.v1.StreamService/Publish"), Some("streamway.v1.StreamService/Publish"));
        assert_eq!(name("/ExampleService/ProcessRequest"), Some("example.ExampleService/ProcessRequest"));
        assert_eq!(name("/anything/else"), Some("_other"));
        assert_eq!(name("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let calls = Calls::new();
        let method = Method::of("/streamway.v1.StreamService/Publish").unwrap();
        calls.begin(method);
        calls.begin(method);
        calls.end(method, 14, Duration::from_millis(3));
        assert_eq!(calls.active().map(|(_, gauge)| gauge.get()).sum::<i64>(), 1);
        let ended: Vec<_> = calls.ended().map(|(method, code, _)| (method, code)).collect();
        assert_eq!(ended, [(method, "UNAVAILABLE")]);
    }
}
