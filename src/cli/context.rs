//! `streamway context`: saves servers under names, with the TLS options and the token of the connection to each.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::contexts::{Context, Contexts};
use super::format::Format;
use super::remote::{DEFAULT_SERVER, Remote};
use super::{Failure, output};
use crate::client::split_user;

/// Longest token, in bytes: what fits into a request's headers.
const TOKEN_MAX: u64 = 16 << 10;

/// Save servers under names, and choose the one that commands call.
///
/// A flag takes precedence over a variable, and a variable over the context in use. A server that --server or STREAMWAY_SERVER
/// names is called without that context, so that no token reaches a server that it is not for. With --context, the variables
/// of the connection are left aside.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway context add prod --server https://prod.example:443 --token-file ~/.token --use
  streamway context add test --server https://test:50051 --token-stdin < token
  streamway context use test
  streamway --context prod topics list

The contexts are in streamway/contexts.json in $XDG_CONFIG_HOME or ~/.config, which only its owner may read.")]
pub(super) struct ContextCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save a context, or replace the one of this name.
    Add(Box<Add>),
    /// Make a context the one that commands use.
    Use {
        #[command(flatten)]
        name: Name,
    },
    /// Use no context, unless --context names one.
    Unuse,
    /// List the contexts.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show a context, by default the one in use. A token is not shown.
    Show {
        /// Name of the context.
        #[arg(value_name = "NAME")]
        context_name: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a context.
    #[command(visible_alias = "rm")]
    Remove {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Clone, Debug, Args)]
struct Name {
    /// Name of the context.
    #[arg(value_name = "NAME")]
    context_name: String,
}

#[derive(Debug, Args)]
struct Add {
    /// Name of the context.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
    /// Read a token from standard input and save it.
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
    /// Make it the context that commands use.
    #[arg(long = "use")]
    make_current: bool,
    #[command(flatten)]
    remote: Remote,
}

impl ContextCommand {
    /// Returns true if the options of a connection are saved.
    pub(super) const fn saves(&self) -> bool {
        matches!(self.command, Command::Add(_))
    }

    /// Takes the options that are not given here from `before`.
    pub(super) fn inherit(&mut self, before: Remote) {
        if let Command::Add(add) = &mut self.command {
            add.remote.inherit(before);
        }
    }

    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Add(add) => add.run()?,
            Command::Use { name: Name { context_name: name } } => Contexts::change(|saved| {
                saved.named(&name)?;
                saved.current = Some(name.clone());
                Ok(())
            })?,
            Command::Unuse => Contexts::change(|saved| {
                saved.current = None;
                Ok(())
            })?,
            Command::List { format } => output::print(&list(&Contexts::load()?, format))?,
            Command::Show { context_name: name, format } => {
                let saved = Contexts::load()?;
                let name = name
                    .or_else(|| saved.current.clone())
                    .ok_or_else(|| Failure::usage("no context is in use: name one"))?;
                output::print(&show(&name, saved.named(&name)?, format))?;
            }
            Command::Remove { name: Name { context_name: name } } => Contexts::change(|saved| {
                saved.named(&name)?;
                saved.contexts.remove(&name);
                saved.current.take_if(|current| *current == name);
                Ok(())
            })?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    fn run(self) -> Result<(), Failure> {
        let mut context = self.remote.saved()?;
        if self.token_stdin {
            context.token = Some(read_token()?);
        }
        let paths =
            [&mut context.tls_ca, &mut context.tls_cert, &mut context.tls_key, &mut context.token_file];
        for path in paths.into_iter().flatten() {
            *path = absolute(path)?;
        }
        // What a client would refuse is refused now.
        Remote::of_context(&context)?.check()?;
        Contexts::change(|saved| {
            saved.contexts.insert(self.name.clone(), context.clone());
            if self.make_current {
                saved.current = Some(self.name.clone());
            }
            Ok(())
        })
    }
}

/// A context is used in other directories than the one where it is added.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn read_token() -> Result<String, Failure> {
    let mut token = String::new();
    if std::io::stdin().is_terminal() {
        output::complain("reading the token; Ctrl-D ends it");
    }
    std::io::stdin().take(TOKEN_MAX + 1).read_to_string(&mut token)?;
    match token.trim() {
        "" => Err(Failure::usage("the token is empty")),
        _ if token.len() as u64 > TOKEN_MAX => {
            Err(Failure::usage(format!("the token is longer than {TOKEN_MAX} bytes")))
        }
        token => Ok(token.to_owned()),
    }
}

fn server(context: &Context) -> String {
    let servers: Vec<_> = context.server.iter().map(|url| hidden(url)).collect();
    if servers.is_empty() { DEFAULT_SERVER.to_owned() } else { servers.join(",") }
}

/// Hides the user and the password of an address. An earlier version saved them, and no client accepts them.
fn hidden(url: &str) -> String {
    let scheme = url.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
    split_user(url).map_or_else(|| url.to_owned(), |(_, address)| format!("{scheme}…@{address}"))
}

fn token(context: &Context) -> String {
    match (&context.token, &context.token_file) {
        (Some(_), _) => "saved".to_owned(),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => "none".to_owned(),
    }
}

fn list(saved: &Contexts, format: Format) -> String {
    let is_current = |name: &String| saved.current.as_ref() == Some(name);
    if format.is_json() {
        let line = |(name, context): (&String, &Context)| {
            let mut json = shown(name, context);
            json["current"] = is_current(name).into();
            output::json_line(&json)
        };
        return saved.contexts.iter().map(line).collect();
    }
    let row = |(name, context): (&String, &Context)| {
        let mark = if is_current(name) { "*" } else { "" };
        vec![mark.to_owned(), name.clone(), server(context), token(context)]
    };
    output::table(&["", "NAME", "SERVER", "TOKEN"], &saved.contexts.iter().map(row).collect::<Vec<_>>())
}

/// The context as JSON, without its token. As in all JSON that commands print, the names of members are in lower camel case,
/// and a member that says no is there too.
fn shown(name: &str, context: &Context) -> Value {
    let server: Vec<_> = context.server.iter().map(|url| hidden(url)).collect();
    let mut json = json!({
        "name": name,
        "server": server,
        "hasToken": context.token.is_some() || context.token_file.is_some(),
        "tokenOverPlaintext": context.token_over_plaintext,
    });
    let paths = [
        ("tlsCa", &context.tls_ca),
        ("tlsCert", &context.tls_cert),
        ("tlsKey", &context.tls_key),
        ("tokenFile", &context.token_file),
    ];
    for (member, path) in paths {
        if let Some(path) = path {
            json[member] = path.to_string_lossy().into();
        }
    }
    for (member, text) in [("tlsServerName", &context.tls_server_name), ("compression", &context.compression)]
    {
        if let Some(text) = text {
            json[member] = text.as_str().into();
        }
    }
    json
}

fn show(name: &str, context: &Context, format: Format) -> String {
    let json = shown(name, context);
    if format.is_json() {
        return output::json_line(&json);
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let lines = [
        ("name", Some(name.to_owned())),
        ("server", Some(server(context))),
        ("tls ca", path(&context.tls_ca)),
        ("tls cert", path(&context.tls_cert)),
        ("tls key", path(&context.tls_key)),
        ("tls name", context.tls_server_name.clone()),
        ("token", Some(token(context))),
        ("over plaintext", context.token_over_plaintext.then(|| "allowed".to_owned())),
        ("compression", context.compression.clone()),
    ];
    let line = |(key, value): &(&str, Option<String>)| {
        let value = value.as_ref()?;
        Some(format!("{:<15} {}\n", format!("{key}:"), crate::client::printable(value)))
    };
    lines.iter().filter_map(line).collect()
}
