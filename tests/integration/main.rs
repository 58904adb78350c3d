//! Tests through the public door: the real binary as a child process, real clients over loopback.
//! P1 to P10 in comments are the promises of docs/guarantees.md. No test here reaches into the server's modules.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod group_history;
mod harness;
mod history;

mod abuse;
mod addresses;
mod ages;
mod appenders;
mod audit;
mod auth;
mod bad_input;
mod bad_stream;
mod bench;
mod big_file;
mod circles;
mod cli;
mod client;
mod clock;
mod compression;
mod copy;
mod crash;
mod damage;
mod data_dir;
mod deadlines;
mod disk_faults;
mod drain;
mod drain_peers;
mod failover;
mod files;
mod fleet;
mod forgetting;
mod groups;
mod groups_access;
mod groups_crash;
mod groups_input;
mod http_guard;
mod http_limits;
mod http_web;
mod idempotency;
mod idle;
mod isolation;
mod kinds;
mod limits;
mod map;
mod memory;
mod nats_access;
mod nats_away;
mod network;
mod notices;
mod odd_disks;
mod old_data;
mod operator;
mod overload;
mod quotas;
mod recovery;
mod requests;
mod restore;
mod resume;
mod retention;
mod saturation;
mod start;
mod tls;
mod topics;
