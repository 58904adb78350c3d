//! `streamway clients`: who is connected to the replicas of a fleet, and sending them away.

mod replicas;
mod show;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use self::replicas::Replicas;
use super::Failure;
use super::format::Format;
use super::remote::Remote;
use crate::client::Error;
use crate::config::parse_duration;
use crate::proto::v1;
use crate::proto::v1::{end_calls_request, lift_ban_request};

/// Reason of an id that another replica may know.
const NOT_FOUND: &str = "CLIENT_NOT_FOUND";

/// Range of the duration of a ban.
const BAN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

const EXAMPLES: &str = "\
Every address behind the names of --server is asked, so name a headless Service of Kubernetes and not a load balancer.
An address that cannot be asked is named on standard error, and the exit code is then 1.

Examples:
  streamway clients list --server http://streamway-headless:50051
  streamway clients end --principal billing --ban 10m
  streamway clients end --call 1f2e3d4c-17-3";

/// List who is connected, end their calls and ban them. Needs the action `operate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Clients {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List open calls, and connections without any.
    List {
        /// List only calls of this principal.
        #[arg(long, default_value = "", hide_default_value = true)]
        principal: String,
        #[command(flatten)]
        format: Format,
    },
    /// End calls with a status that clients do not retry.
    End {
        #[command(flatten)]
        target: Target,
        /// Also refuse the principal or the address for so long, 1s to 24h.
        #[arg(long, value_name = "DURATION", value_parser = ban, conflicts_with_all = ["connection", "call"])]
        ban: Option<Duration>,
        #[command(flatten)]
        format: Format,
    },
    /// List the bans in force.
    Bans {
        #[command(flatten)]
        format: Format,
    },
    /// Lift a ban.
    Unban {
        #[command(flatten)]
        banned: Banned,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// End all calls of this principal.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    principal: Option<String>,
    /// End all connections from this IP address.
    #[arg(long)]
    address: Option<IpAddr>,
    /// End this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// End this call.
    #[arg(long, value_name = "ID")]
    call: Option<String>,
}

/// Reads the duration of a ban. A server refuses others too.
fn ban(text: &str) -> Result<Duration, String> {
    let ban = parse_duration(text)?;
    if BAN.contains(&ban) { Ok(ban) } else { Err("must be 1 s to 24 h".to_owned()) }
}

impl Target {
    fn message(self) -> Option<end_calls_request::Target> {
        use end_calls_request::Target as Asked;
        let some = [
            self.principal.map(Asked::Principal),
            self.address.map(|address| Asked::Address(address.to_string())),
            self.connection.map(Asked::ConnectionId),
            self.call.map(Asked::CallId),
        ];
        some.into_iter().flatten().next()
    }
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Banned {
    /// Principal that is banned.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    principal: Option<String>,
    /// IP address that is banned.
    #[arg(long)]
    address: Option<IpAddr>,
}

impl Banned {
    fn message(self) -> Option<lift_ban_request::Target> {
        use lift_ban_request::Target as Asked;
        self.principal
            .map(Asked::Principal)
            .or(self.address.map(|address| Asked::Address(address.to_string())))
    }
}

impl Command {
    const fn format(&self) -> Format {
        match self {
            Self::List { format, .. }
            | Self::End { format, .. }
            | Self::Bans { format }
            | Self::Unban { format, .. } => *format,
        }
    }
}

impl Clients {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut replicas = Replicas::find(&self.remote.options()?, self.command.format()).await?;
        match self.command {
            Command::List { principal, format } => {
                let rows = replicas.ask(async |operator| show::list(operator, &principal).await).await;
                show::print_list(&rows, format)?;
            }
            Command::End { target, ban, format } => end(&mut replicas, target, ban, format).await?,
            Command::Bans { format } => {
                let bans = replicas.ask(async |operator| show::bans(operator).await).await;
                show::print_bans(&bans, format)?;
            }
            Command::Unban { banned, format } => {
                let request = v1::LiftBanRequest { target: banned.message() };
                let lifted = replicas.ask(async |operator| operator.lift_ban(request.clone()).await).await;
                let rows = lifted.into_iter().map(|answer| (answer.replica, answer.lifted));
                show::print_lifted(&rows.collect::<Vec<_>>(), format)?;
            }
        }
        replicas.outcome()
    }
}

async fn end(
    replicas: &mut Replicas,
    target: Target,
    ban: Option<Duration>,
    format: Format,
) -> Result<(), Failure> {
    let ban_duration = ban.map(|ban| prost_types::Duration {
        seconds: i64::try_from(ban.as_secs()).unwrap_or(i64::MAX),
        nanos: ban.subsec_nanos() as i32,
    });
    let is_one = target.connection.is_some() || target.call.is_some();
    let request = v1::EndCallsRequest { target: target.message(), ban_duration };
    let answers = replicas
        .ask(async |operator| match operator.end(request.clone()).await {
            Ok(answer) => Ok(Some(answer)),
            // Another replica may have it.
            Err(error) if error.reason() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err::<_, Error>(error),
        })
        .await;
    let ended: Vec<_> = answers.into_iter().flatten().collect();
    if is_one && ended.is_empty() && replicas.all_answered() {
        return Err(Failure::failed("no replica has it: it has ended already, or the id is wrong"));
    }
    show::print_ended(&ended, format)
}
