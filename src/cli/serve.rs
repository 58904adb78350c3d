//! `streamway serve`: loads the configuration and runs the server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint};
use serde_json::json;
use tracing::{debug, info};

use super::format::Format;
use super::{Failure, logging, output, telemetry};
use crate::config::{self, AuditLog, CONFIG_VARIABLE, Input, Loaded, SETTINGS, Setting};
use crate::server;
use crate::telemetry::{Exporters, audit};

/// Longest time that the last records of the audit log have to be written.
const AUDIT_FLUSH: Duration = Duration::from_secs(1);

const HELP: &str = "\
Every flag is also an environment variable, STREAMWAY_ and its name in upper case (--drain-timeout is
STREAMWAY_DRAIN_TIMEOUT), and a key of the TOML file (drain_timeout; --storage-cache-bytes is
cache_bytes in the table [storage]). Flags take precedence over variables, and variables over the file.

Examples:
  streamway serve
  streamway serve --listen 127.0.0.1:0 --data-dir /var/lib/streamway
  streamway serve --config streamway.toml --check-config

SIGTERM or Ctrl-C drains the server, which ends within the drain timeout. Another signal, a second or more
after the first, ends it at once.";

const SHORT_HELP: &str =
    "`streamway serve --help` lists every setting. Each is also a variable and a key of the TOML file.";

/// Settings of the summary that `-h` prints; `--help` prints all.
const COMMON: [&str; 15] = [
    "listen",
    "admin_listen",
    "http.listen",
    "engine",
    "data_dir",
    "drain_timeout",
    "tls.cert",
    "tls.key",
    "tls.client_ca",
    "auth_tokens",
    "auth_jwks",
    "auth_policy",
    "nats.url",
    "log_level",
    "log_format",
];

/// Beginnings of keys, and the heading under which the help shows their settings; the first that fits counts.
const HEADINGS: [(&str, &str); 19] = [
    ("auth_", "Identities and policy"),
    ("reload_", "Identities and policy"),
    ("quota_", "Quotas"),
    ("http2.", "HTTP/2"),
    ("http.", "HTTP listener"),
    ("tls.", "TLS"),
    ("storage.", "Storage"),
    ("nats.", "NATS"),
    ("telemetry.", "Logs and metrics"),
    ("log_", "Logs and metrics"),
    ("drain_", "Shutdown"),
    ("auto_", "Topics"),
    ("topics_", "Topics"),
    ("listen", "Server"),
    ("admin_listen", "Server"),
    ("engine", "Server"),
    ("data_", "Server"),
    ("reflection", "Server"),
    ("", "Limits"),
];

fn heading(key: &str) -> &'static str {
    HEADINGS.iter().find(|(start, _)| key.starts_with(start)).map_or("", |(_, heading)| heading)
}

/// The flags of `serve`, made from the one list of settings.
#[derive(Debug)]
pub(super) struct Serve {
    file: Option<PathBuf>,
    check_only: bool,
    /// Form in which a checked configuration is printed.
    format: Format,
    flags: Vec<(Setting, String)>,
}

impl FromArgMatches for Serve {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| Some((*setting, matches.get_one::<String>(setting.key)?.clone()));
        Ok(Self {
            file: matches.get_one("config").cloned(),
            check_only: matches.get_flag("check_config"),
            format: Format::from_arg_matches(matches)?,
            flags: SETTINGS.iter().filter_map(given).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Serve {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!("TOML file of settings [env: {CONFIG_VARIABLE}]"));
        let check = Arg::new("check_config")
            .long("check-config")
            .action(clap::ArgAction::SetTrue)
            .help("Check the configuration, print it with the source of each value, and exit");
        let defaults = config::defaults();
        let command = Format::augment_args(command.arg(file).arg(check))
            .mut_arg("output", |arg| arg.help("Output format of --check-config").requires("check_config"))
            .about("Run the server")
            .after_help(SHORT_HELP)
            .after_long_help(HELP);
        SETTINGS.iter().fold(command, |command, setting| command.arg(flag(setting, &defaults)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &Setting, defaults: &Loaded) -> Arg {
    let value =
        defaults.sources.iter().find(|(known, ..)| known == setting).map_or("", |(_, value, _)| value);
    let default = if value.is_empty() { String::new() } else { format!(" [default: {value}]") };
    let arg = Arg::new(setting.key)
        .long(setting.flag())
        .value_name(setting.value_name)
        .help(format!("{}{default}", setting.help))
        .help_heading(heading(setting.key))
        .hide_short_help(!COMMON.contains(&setting.key));
    let arg = match setting.value_name {
        "FILE" => arg.value_hint(ValueHint::FilePath),
        "DIR" => arg.value_hint(ValueHint::DirPath),
        _ => arg,
    };
    if setting.is_switch() { arg.num_args(0..=1).default_missing_value("true") } else { arg }
}

impl Serve {
    pub(super) fn run(self, verbose: u8) -> Result<ExitCode, Failure> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        let input = Input { file: self.file, environment: environment.collect(), flags: self.flags };
        let loaded = config::load(input).map_err(|error| {
            let (last, others) =
                error.0.split_last().map_or((String::new(), &[][..]), |(l, o)| (l.clone(), o));
            let failure = |fault: &str| Failure::usage(format!("configuration: {fault}"));
            others.iter().for_each(|fault| self.format.complain(&failure(fault)));
            failure(&last)
        })?;
        if self.check_only {
            server::check_files(&loaded.config)
                .map_err(|error| Failure::usage(format!("configuration: {error}")))?;
            output::print(&describe(&loaded, self.format))?;
            return Ok(ExitCode::SUCCESS);
        }
        let settings = telemetry::settings("streamway");
        let exporters = settings.and_then(|settings| Exporters::start(&settings)).map_err(Failure::usage)?;
        let audited = loaded.config.audit_log;
        logging::for_server(verbose, &loaded.config, &exporters);
        log_settings(&loaded);
        if audited != AuditLog::Off {
            audit::start()
                .map_err(|error| Failure::failed(format!("cannot start the audit log: {error}")))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
        let outcome = runtime.block_on(async {
            let shutdown = server::shutdown_on_signals()
                .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))?;
            server::run(loaded.config, shutdown).await.map_err(|error| Failure::failed(error.to_string()))
        });
        // The log is closed, so a thread that is still blocked need not delay the exit.
        runtime.shutdown_timeout(super::RUNTIME_SHUTDOWN);
        audit::flush(AUDIT_FLUSH);
        exporters.flush();
        outcome.map(|()| ExitCode::SUCCESS)
    }
}

fn describe(loaded: &Loaded, format: Format) -> String {
    if format.is_json() {
        let line = |(setting, value, source): &(Setting, String, String)| {
            output::json_line(&json!({ "setting": setting.key, "value": value, "source": source }))
        };
        return loaded.sources.iter().map(line).collect();
    }
    let row = |(setting, value, source): &(Setting, String, String)| {
        vec![setting.key.to_owned(), value.clone(), source.clone()]
    };
    output::table(&["SETTING", "VALUE", "SOURCE"], &loaded.sources.iter().map(row).collect::<Vec<_>>())
}

/// Logs each setting that is not a default on a line of its own, and with `-v` the others.
fn log_settings(loaded: &Loaded) {
    for (Setting { key, .. }, value, source) in &loaded.sources {
        if source == "default" {
            debug!(key, value, source, "setting");
        } else {
            info!(key, value, source, "setting");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{COMMON, Serve, describe};
    use crate::config::{self, Input};
    use clap::{Args, Command, FromArgMatches};

    fn parse(args: &[&str]) -> Result<Serve, clap::Error> {
        let matches = Serve::augment_args(Command::new("serve")).try_get_matches_from(args)?;
        Serve::from_arg_matches(&matches)
    }

    #[test]
    fn every_setting_is_a_flag() {
        let serve =
            parse(&["serve", "--storage-cache-bytes", "1MiB", "--reflection=false", "--auto-create-topics"]);
        let serve = serve.unwrap();
        let input = Input { flags: serve.flags, ..Input::default() };
        let loaded = config::load(input).unwrap();
        assert_eq!(loaded.config.storage.cache_bytes, 1 << 20);
        assert!(!loaded.config.reflection && loaded.config.auto_create_topics);
        assert!(describe(&loaded, serve.format).contains("flag --storage-cache-bytes"));
        assert!(parse(&["serve", "--no-such-thing"]).is_err());
    }

    #[test]
    fn the_summary_of_the_help_names_settings_that_exist() {
        for key in COMMON {
            assert!(config::SETTINGS.iter().any(|setting| setting.key == key), "{key}");
        }
        let mut command = Serve::augment_args(Command::new("serve"));
        let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
        assert!(short.lines().count() < 60 && long.contains("Quotas:\n"), "{short}");
        assert!(!short.contains("--http2") && long.contains("--http2-keepalive-interval"), "{short}");
    }
}
