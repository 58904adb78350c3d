//! The server that a command calls. The flags are accepted before the command's name and after it. A flag takes precedence
//! over a variable, and a variable over a saved context that no flag names.

use clap::Args;

use super::Failure;
use super::connection::{Connection, HEADING, variable};
use super::contexts::{Context, Contexts};
use crate::client::{Client, Options};

/// Address of a server that is started without a configuration.
pub(super) const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// The server, and the connection to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Remote {
    /// Address of the server: http://host:port, or https://host:port for TLS. Separate several servers of one fleet by
    /// commas [env: STREAMWAY_SERVER] [default: http://127.0.0.1:50051].
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    server: Vec<String>,
    /// Saved context with the server, the TLS options and the token; see `streamway context` [env: STREAMWAY_CONTEXT].
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Remote {
    /// These servers.
    pub(super) fn of_servers(server: Vec<String>, connection: Connection) -> Self {
        Self { server, context: None, connection }
    }

    /// Takes the options that are not given here from `before`.
    pub(super) fn inherit(&mut self, before: Self) {
        *self = std::mem::take(self).or(before);
    }

    /// These options, and those of `other` where they are not given.
    fn or(self, other: Self) -> Self {
        Self {
            server: if self.server.is_empty() { other.server } else { self.server },
            context: self.context.or(other.context),
            connection: self.connection.or(other.connection),
        }
    }

    /// The variables of this process.
    fn of_environment() -> Result<Self, Failure> {
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let servers = text("STREAMWAY_SERVER");
        let server = servers.iter().flat_map(|servers| servers.split(',')).map(str::to_owned).collect();
        let context = text("STREAMWAY_CONTEXT");
        Ok(Self { server, context, connection: Connection::of_environment()? })
    }

    /// The options of a saved context.
    pub(super) fn of_context(context: &Context) -> Result<Self, Failure> {
        let connection = Connection::of_context(context)?;
        Ok(Self { server: context.server.clone(), context: None, connection })
    }

    /// These flags as a context. Variables are not saved.
    pub(super) fn saved(&self) -> Result<Context, Failure> {
        if self.context.is_some() {
            return Err(Failure::usage("a context is saved without --context"));
        }
        Ok(Context { server: self.server.clone(), ..self.connection.saved() })
    }

    /// These options, and what they leave open. A context that a flag names supplies it alone, without the variables, so that
    /// no command goes to the server of a variable with the token of the context. Otherwise the variables supply it, and
    /// then, unless another server is named, the context of a variable or the one in use.
    fn resolved(&self) -> Result<Self, Failure> {
        if let Some(name) = &self.context {
            return Ok(self.clone().or(Self::of_context(Contexts::load()?.named(name)?)?));
        }
        let given = self.clone().or(Self::of_environment()?);
        if !given.server.is_empty() {
            return Ok(given);
        }
        let contexts = Contexts::load()?;
        let context = match &given.context {
            Some(name) => Some(contexts.named(name)?),
            None => contexts.in_use()?,
        };
        Ok(match context {
            Some(context) => given.or(Self::of_context(context)?),
            None => given,
        })
    }

    /// The servers that flags, variables or the context name; none where nothing names one.
    pub(super) fn servers(&self) -> Result<Option<Vec<String>>, Failure> {
        Ok(Some(self.resolved()?.server).filter(|servers| !servers.is_empty()))
    }

    /// Returns true if a flag names the server.
    pub(super) fn is_named_by_flag(&self) -> bool {
        !self.server.is_empty() || self.context.is_some()
    }

    /// The options of a client.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        Ok(self.resolved()?.client_options())
    }

    fn client_options(self) -> Options {
        let Self { mut server, connection, .. } = self;
        if server.is_empty() {
            server.push(DEFAULT_SERVER.to_owned());
        }
        connection.client_options(&server)
    }

    /// A client with a connection of its own.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.options()?).map_err(|error| Failure::usage(error.to_string()))
    }

    /// Fails where a client with exactly these options cannot be made.
    pub(super) fn check(self) -> Result<(), Failure> {
        Client::new(self.client_options()).map(drop).map_err(|error| Failure::usage(error.to_string()))
    }
}
