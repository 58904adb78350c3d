//! `streamway serve`: loads the configuration and runs the server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use tracing::{debug, info};

use super::{Failure, logging, output, telemetry};
use crate::config::{self, CONFIG_VARIABLE, Input, Loaded, SETTINGS, Setting};
use crate::server;
use crate::telemetry::Exporters;

const HELP: &str = "\
Every flag is also an environment variable, STREAMWAY_ and its name in upper case (--drain-timeout is
STREAMWAY_DRAIN_TIMEOUT), and a key of the TOML file (drain_timeout; --storage-cache-bytes is
cache_bytes in the table [storage]). Flags take precedence over variables, and variables over the file.

Examples:
  streamway serve
  streamway serve --listen 127.0.0.1:0 --data-dir /var/lib/streamway
  streamway serve --config streamway.toml --check-config

SIGTERM or Ctrl-C drains the server, which ends within the drain timeout. A second signal ends it at once.";

/// The flags of `serve`, made from the one list of settings.
#[derive(Debug)]
pub(super) struct Serve {
    file: Option<PathBuf>,
    check_only: bool,
    flags: Vec<(Setting, String)>,
}

impl FromArgMatches for Serve {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| Some((*setting, matches.get_one::<String>(setting.key)?.clone()));
        Ok(Self {
            file: matches.get_one("config").cloned(),
            check_only: matches.get_flag("check_config"),
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
        let command = command.about("Run the server").after_help(HELP).arg(file).arg(check);
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
        .help(format!("{}{default}", setting.help));
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
            for fault in others {
                output::complain(&format!("error: configuration: {fault}"));
            }
            Failure::usage(format!("configuration: {last}"))
        })?;
        if self.check_only {
            server::check_files(&loaded.config)
                .map_err(|error| Failure::usage(format!("configuration: {error}")))?;
            output::print(&describe(&loaded))?;
            return Ok(ExitCode::SUCCESS);
        }
        let settings = telemetry::settings("streamway");
        let exporters = settings.and_then(|settings| Exporters::start(&settings)).map_err(Failure::usage)?;
        logging::for_server(verbose, &exporters);
        log_settings(&loaded);
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
        exporters.flush();
        outcome.map(|()| ExitCode::SUCCESS)
    }
}

fn describe(loaded: &Loaded) -> String {
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
    use super::{Serve, describe};
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
        let input = Input { flags: serve.unwrap().flags, ..Input::default() };
        let loaded = config::load(input).unwrap();
        assert_eq!(loaded.config.storage.cache_bytes, 1 << 20);
        assert!(!loaded.config.reflection && loaded.config.auto_create_topics);
        assert!(describe(&loaded).contains("flag --storage-cache-bytes"));
        assert!(parse(&["serve", "--no-such-thing"]).is_err());
    }
}
