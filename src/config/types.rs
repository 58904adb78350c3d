//! The types of settings that have a fixed set of values, and secrets.

use std::fmt;
use std::str::FromStr;

macro_rules! choices {
    ($($(#[$about:meta])* $type:ident, $hint:literal { $($(#[$meaning:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$meaning])* $variant,)+
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err($hint) }
            }
        }
    )+};
}

choices! {
    /// Storage of topics.
    Engine, "write embedded or jetstream" {
        /// Files of this process.
        Embedded = "embedded",
        /// A NATS cluster, shared with other replicas.
        JetStream = "jetstream",
    }
    /// Storage that NATS uses.
    NatsStorage, "write file or memory" {
        /// Disk.
        File = "file",
        /// Memory: a restart of all its servers loses it.
        Memory = "memory",
    }
    /// Requirement on client certificates.
    ClientAuth, "write none, optional or required" {
        /// The client is not asked for one.
        None = "none",
        /// The client may present one, which must be valid.
        Optional = "optional",
        /// The client must present a valid one.
        Required = "required",
    }
    /// Lowest level of the lines of the log.
    LogLevel, "write error, warn, info, debug or trace" {
        /// A person must look.
        Error = "error",
        /// Something is odd.
        Warn = "warn",
        /// The state changed.
        Info = "info",
        /// Lines for each call.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// Form of the lines of the log.
    LogFormat, "write auto, text or json" {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// Text.
        Text = "text",
        /// A JSON object a line.
        Json = "json",
    }
    /// Destination of the audit log.
    AuditLog, "write off, stderr or all" {
        /// Nothing is recorded.
        Off = "off",
        /// Standard error, like other log lines.
        Stderr = "stderr",
        /// Standard error, and OTLP where log lines are exported.
        All = "all",
    }
    /// Version of TLS that is still safe.
    TlsVersion, "write 1.2 or 1.3" {
        /// RFC 5246.
        V1_2 = "1.2",
        /// RFC 8446.
        V1_3 = "1.3",
    }
}

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
