//! The command line: from arguments to an exit code. Each command has a file of its own.

mod backup;
mod bench;
mod check;
mod completions;
mod connection;
mod copy;
mod failure;
mod files;
mod healthcheck;
mod interrupt;
mod kubernetes;
mod logging;
mod nats_credentials;
mod output;
mod patience;
mod publish;
mod runtime;
mod serve;
mod start;
mod subscribe;
mod telemetry;
mod token;
mod topics;

use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::connection::Connection;
use self::failure::{FAILURE, Failure, INTERRUPTED, USAGE};
use self::patience::Patience;
use self::runtime::{RUNTIME_SHUTDOWN, on_a_runtime};
use crate::client::Client;

const EXAMPLES: &str = "\
Examples:
  streamway serve                                   run a server on :50051 with its data in ./data
  streamway publish orders --file orders.txt        publish each line as a record
  streamway subscribe orders --from earliest        print all records
  streamway subscribe orders --follow               print new records, across server restarts
  streamway topics list --server https://streams.example.org:443 --token-file token
  streamway copy http://old:50051 all.backup        back up every topic to a file

Exit codes: 0 success, 1 failure, 2 invalid arguments or configuration, 130 interrupted.
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
    /// Address of the server: http://host:port, or https://host:port for TLS. Separate several servers of one fleet by
    /// commas.
    #[arg(
        long,
        global = true,
        env = "STREAMWAY_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051",
        display_order = 900
    )]
    server: Vec<String>,
    /// Log more to standard error; -vv logs even more. RUST_LOG takes precedence.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 901)]
    verbose: u8,
}

impl Global {
    fn client(&self, connection: &Connection) -> Result<Client, Failure> {
        Client::new(connection.options(&self.server)).map_err(|error| Failure::usage(error.to_string()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Topics(topics::Topics),
    Copy(copy::Copy),
    Token(token::Token),
    NatsCredentials(nats_credentials::NatsCredentials),
    Healthcheck(healthcheck::Healthcheck),
    #[command(subcommand)]
    Bench(bench::Bench),
    Check(check::Check),
    Completions(completions::Completions),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            output::complain(&format!("error: {message}"));
            ExitCode::from(code)
        }
    }
}

fn parse() -> Result<Cli, ExitCode> {
    let command = Cli::command();
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // A closed pipe while help is printed is not an error.
        let _ = error.print();
        let health = std::env::args_os().skip(1).any(|arg| arg == "healthcheck");
        match (error.use_stderr(), health) {
            (false, _) => ExitCode::SUCCESS,
            (true, true) => ExitCode::from(healthcheck::ARGUMENTS),
            (true, false) => ExitCode::from(USAGE),
        }
    })
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(serve) => serve.run(global.verbose),
        Command::Publish(publish) => client_command("publish", &global, async || {
            let client = global.client(&publish.connection)?;
            publish.run(client).await
        }),
        Command::Subscribe(subscribe) => client_command("subscribe", &global, async || {
            let client = global.client(&subscribe.connection)?;
            subscribe.run(client).await
        }),
        Command::Topics(topics) => client_command("topics", &global, async || {
            let client = global.client(&topics.connection)?;
            topics.run(client).await
        }),
        Command::Copy(copy) => client_command("copy", &global, async || copy.run().await),
        // It runs every few seconds, and its spans would hide those of the server.
        Command::Healthcheck(check) => {
            logging::for_client(global.verbose, None);
            on_a_runtime(async || Ok(check.run().await))
        }
        Command::Bench(bench) => client_command("bench", &global, async || {
            let connection = bench.connection().clone();
            bench.run(|| global.client(&connection)).await
        }),
        Command::Check(check) => check.run(),
        Command::Token(token) => token.run(),
        Command::NatsCredentials(credentials) => on_a_runtime(async || credentials.run().await),
        Command::Completions(completions) => completions.run(Cli::command()),
    }
}

fn client_command(
    name: &'static str,
    global: &Global,
    command: impl AsyncFnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    telemetry::traced(name, global.verbose, || on_a_runtime(command))
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
