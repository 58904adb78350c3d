//! The HTTP listener that a benchmark uses.

/// The HTTP listener of a benchmark.
#[derive(Clone, Debug)]
pub(super) struct Web {
    /// Host and port.
    pub(super) at: String,
    /// Subscribers follow by server-sent events.
    pub(super) events: bool,
}

impl Web {
    /// The listener at a URL `http://host:port`.
    pub(super) fn at(url: &str) -> Result<Self, String> {
        let at = url.strip_prefix("http://").map(|at| at.trim_end_matches('/'));
        match at {
            Some(at) if at.contains(':') && !at.contains('/') => {
                Ok(Self { at: at.to_owned(), events: false })
            }
            _ => Err("is not http://HOST:PORT".to_owned()),
        }
    }

    /// The same, with subscribers that follow by server-sent events or not.
    pub(super) fn following(self, events: bool) -> Self {
        Self { events, ..self }
    }

    /// Form in which subscribers follow.
    pub(super) const fn form(&self) -> &'static str {
        if self.events { "events" } else { "lines" }
    }
}
