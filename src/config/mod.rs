//! The configuration of the server: defaults, then the TOML file, then `STREAMWAY_*` variables, then
//! flags, read once into one checked [`Config`].

mod check;
#[cfg(test)]
mod check_tests;
mod environment;
mod human;
mod load;
#[cfg(test)]
mod load_tests;
mod memory;
mod nats;
mod settings;
mod types;
mod value;
mod web;

pub use human::{format_size, parse_duration, parse_size};
pub use load::{CONFIG_VARIABLE, Error, Input, Loaded, defaults, load};
pub use settings::{
    Config, HANDED_OVER_BYTES_MAX, Http2Config, HttpConfig, NatsConfig, SETTINGS, Setting, StorageConfig,
    TelemetryConfig, TlsConfig,
};
pub use types::{AuditLog, ClientAuth, Engine, LogFormat, LogLevel, NatsStorage, Secret, TlsVersion};
pub use web::{Hosts, HttpListen, Origins};
