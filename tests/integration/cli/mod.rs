//! The command line as a user meets it: output, exit codes, pipes, signals.

mod completions;
mod connection;
mod contexts;
mod credentials;
mod failures;
mod groups;
mod health;
mod publish;
mod signals;
mod subscribe;
mod topics;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::harness::Server;

fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).env("STREAMWAY_SERVER", server.url()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with this on its standard input.
fn run(server: &Server, args: &[&str], input: &str) -> Output {
    let mut child = command(server, args).stdin(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Exit code, and the one line that says why.
fn failure(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    (output.status.code().unwrap(), lines[0].to_owned())
}
