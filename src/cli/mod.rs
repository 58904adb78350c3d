//! The command line: from arguments to an exit code. Each command has a file of its own.

mod backup;
mod bench;
mod candidates;
mod check;
mod clients;
mod completions;
mod confirm;
mod connection;
mod consume;
mod context;
mod contexts;
mod copy;
mod failure;
mod files;
mod format;
mod groups;
mod healthcheck;
mod interrupt;
mod kubernetes;
mod logging;
mod nats_credentials;
mod output;
mod patience;
mod publish;
mod remote;
mod runtime;
mod serve;
mod start;
mod subscribe;
mod telemetry;
mod token;
mod topics;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::failure::{FAILURE, Failure, INTERRUPTED, USAGE};
use self::format::Format;
use self::patience::Patience;
use self::remote::Remote;
use self::runtime::{RUNTIME_SHUTDOWN, on_a_runtime};

const EXAMPLES: &str = "\
Examples:
  streamway serve                                   run a server on :50051 with its data in ./data
  streamway publish orders hello world              publish two records
  streamway publish orders --file orders.txt        publish each line as a record
  streamway subscribe orders --from earliest        print all records
  streamway subscribe orders --follow               print new records, across server restarts
  streamway consume orders --group mail --exec ./send-mail
                                                    share the records with other workers
  streamway topics list --server https://streams.example.org:443 --token-file token
  streamway context add prod --server https://streams.example.org:443 --token-file token --use
  streamway copy http://old:50051 all.backup        back up every topic to a file

Exit codes: 0 success, 1 failure, 2 invalid arguments or configuration, 77 sent away
by an operator, 130 interrupted.
`healthcheck` and `check` have exit codes of their own; see their help.";

/// Durable topics over streaming gRPC.
#[derive(Debug, Parser)]
#[command(name = "streamway", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
struct Global {
    /// Those given before the name of a command that calls a server.
    #[command(flatten)]
    remote: Remote,
    /// Log more to standard error; -vv logs even more. RUST_LOG takes precedence.
    #[arg(
        short,
        long,
        global = true,
        action = clap::ArgAction::Count,
        help_heading = "Global options"
    )]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Consume(consume::Consume),
    Topics(topics::Topics),
    Groups(groups::Groups),
    Clients(clients::Clients),
    Context(context::ContextCommand),
    Copy(copy::Copy),
    Token(token::Token),
    NatsCredentials(nats_credentials::NatsCredentials),
    Healthcheck(healthcheck::Healthcheck),
    Bench(bench::Bench),
    Check(check::Check),
    Completions(completions::Completions),
    CompleteLine(completions::CompleteLine),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let (cli, format) = match parse() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    run(cli).unwrap_or_else(|failure| {
        format.complain(&failure);
        ExitCode::from(failure.code)
    })
}

/// The grammar of the command line. Options of the connection belong to the commands that have a use for them; before the
/// command's name they are accepted too, and handed on by [`run`].
fn grammar() -> clap::Command {
    Cli::command().mut_args(|arg| if arg.get_id() == "verbose" { arg } else { arg.global(false) })
}

/// Parses the arguments of this process, and returns the format of its errors too.
fn parse() -> Result<(Cli, Format), ExitCode> {
    let parsed = grammar().try_get_matches().and_then(|matches| {
        let format = Format::of(&matches);
        Cli::from_arg_matches(&matches).map(|cli| (cli, format))
    });
    parsed.map_err(|error| {
        let arguments = || std::env::args_os().skip(1);
        let health = arguments().any(|arg| arg == "healthcheck");
        let code = match (error.use_stderr(), health) {
            (false, _) => 0,
            (true, true) => healthcheck::ARGUMENTS,
            (true, false) => USAGE,
        };
        let format = Format::of_invalid(arguments());
        // A command without its subcommand prints its help.
        let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if error.use_stderr() && (format.is_json() || !is_help) {
            let hint = if format.is_json() { "" } else { "; try --help" };
            format.complain(&Failure::with_code(code, in_one_line(&error) + hint));
        } else {
            // A closed pipe while help is printed is not an error.
            let _ = error.print();
        }
        ExitCode::from(code)
    })
}

/// The text of an invalid command line and clap's tips, without the hints on help that follow them.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default().split("\nFor more information").next();
    let text =
        text.unwrap_or_default().trim_end().replace("\n\n  tip: ", "; tip: ").replace("\n  tip: ", "; tip: ");
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

impl Command {
    /// Hands the options that were given before the command's name on to the command.
    fn inherit(&mut self, before: Remote) -> Result<(), Failure> {
        match self {
            Self::Publish(publish) => publish.remote.inherit(before),
            Self::Subscribe(subscribe) => subscribe.remote.inherit(before),
            Self::Consume(consume) => consume.remote.inherit(before),
            Self::Topics(topics) => topics.remote.inherit(before),
            Self::Groups(groups) => groups.remote.inherit(before),
            Self::Clients(clients) => clients.remote.inherit(before),
            Self::Healthcheck(check) => check.remote.inherit(before),
            Self::Bench(bench) => bench.remote.inherit(before),
            Self::Copy(copy) if !before.is_named_by_flag() => copy.connection.inherit(before.connection),
            Self::Context(context) if context.saves() => context.inherit(before),
            _ if before == Remote::default() => {}
            _ => {
                let why =
                    "this command takes neither --server nor other options of a connection before its name";
                return Err(Failure::usage(why));
            }
        }
        Ok(())
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global: Global { remote: before, verbose }, mut command } = cli;
    command.inherit(before)?;
    match command {
        Command::Serve(serve) => serve.run(verbose),
        Command::Publish(publish) => traced("publish", verbose, async || publish.run().await),
        Command::Subscribe(subscribe) => traced("subscribe", verbose, async || subscribe.run().await),
        Command::Consume(consume) => traced("consume", verbose, async || consume.run().await),
        Command::Groups(groups) => traced("groups", verbose, async || groups.run().await),
        Command::Topics(topics) => traced("topics", verbose, async || topics.run().await),
        Command::Clients(clients) => traced("clients", verbose, async || clients.run().await),
        Command::Copy(copy) => traced("copy", verbose, async || copy.run().await),
        // It runs every few seconds, and its spans would hide those of the server.
        Command::Healthcheck(check) => {
            logging::for_client(verbose, None);
            on_a_runtime(async || Ok(check.run().await))
        }
        Command::Bench(bench) => traced("bench", verbose, async || bench.run().await),
        Command::Context(context) => on_a_runtime(async || context.run()),
        Command::Check(check) => check.run(),
        Command::Token(token) => token.run(),
        Command::NatsCredentials(credentials) => on_a_runtime(async || credentials.run().await),
        Command::Completions(completions) => completions.run(grammar()),
        Command::CompleteLine(line) => line.run(grammar()),
    }
}

/// Runs a command that calls a server.
fn traced(
    name: &'static str,
    verbose: u8,
    command: impl AsyncFnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    telemetry::traced(name, verbose, || on_a_runtime(command))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::grammar().debug_assert();
    }
}
