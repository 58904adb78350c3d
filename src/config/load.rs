//! The layers of the configuration: defaults, the file, the environment and flags, made into one checked
//! [`Config`] with the source of each value. The environment is handed in, so that tests can hand in theirs.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::check;
use super::environment::{self, suggestion};
use super::settings::{Config, Override, SETTINGS, Setting};
use crate::file;

pub use super::environment::CONFIG_VARIABLE;

/// Largest file: all settings with comments are some 20 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Values that are laid over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// File of `--config`; by default the one that `STREAMWAY_CONFIG` names.
    pub file: Option<PathBuf>,
    /// Whole environment.
    pub environment: Vec<(String, String)>,
    /// Given flags: setting and value.
    pub flags: Vec<(Setting, String)>,
}

/// A configuration, and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Checked configuration.
    pub config: Config,
    /// Every setting with its value (secrets hidden) and its source, in the order of the help.
    pub sources: Vec<(Setting, String, String)>,
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub Vec<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Error {}

/// Loads the configuration and checks it.
///
/// # Errors
/// Every unknown key, unreadable value and broken rule.
pub fn load(input: Input) -> Result<Loaded, Error> {
    let (mut overrides, mut errors) = (Vec::new(), Vec::new());
    let file = input.file.or_else(|| environment::config_file(&input.environment));
    if let Some(path) = file {
        read_file(&path, &mut overrides, &mut errors);
    }
    environment::read(&input.environment, &mut overrides, &mut errors);
    overrides.extend(input.flags.into_iter().map(|(setting, value)| {
        let source = format!("flag --{}", setting.flag());
        Override { setting, value, source }
    }));
    let mut config = Config::default();
    for Override { setting, value, source } in &overrides {
        if let Err(why) = (setting.set)(&mut config, value) {
            errors.push(format!("{} ({source}): {why}", setting.key));
        }
    }
    if errors.is_empty() {
        errors = check::errors(&config);
    }
    if !errors.is_empty() {
        return Err(Error(errors));
    }
    let sources = sources(&config, &overrides);
    Ok(Loaded { config, sources })
}

/// Returns the defaults, as if nothing were given.
#[must_use]
pub fn defaults() -> Loaded {
    let config = Config::default();
    let sources = sources(&config, &[]);
    Loaded { config, sources }
}

fn sources(config: &Config, overrides: &[Override]) -> Vec<(Setting, String, String)> {
    let row = |setting: &Setting| {
        let given = overrides.iter().rev().find(|given| given.setting == *setting);
        let source = given.map_or_else(|| "default".to_owned(), |given| given.source.clone());
        (*setting, (setting.get)(config), source)
    };
    SETTINGS.iter().map(row).collect()
}

fn read_file(path: &Path, overrides: &mut Vec<Override>, errors: &mut Vec<String>) {
    let name = format!("file {}", path.display());
    let text = match file::read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => return errors.push(format!("{name}: {error}")),
    };
    let place = |at: usize| format!("{name}, line {}", file::line_of(&text, at));
    let (table, syntax) = DeTable::parse_recoverable(&text);
    if !syntax.is_empty() {
        let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        errors.extend(syntax.iter().map(|error| format!("{}: {}", place(at(error)), error.message())));
        return;
    }
    let mut values = Vec::new();
    flatten("", table.get_ref(), &mut values);
    values.sort_by_key(|(_, at, _)| *at);
    for (key, at, value) in values {
        let source = place(at);
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let known = SETTINGS.iter().map(|setting| setting.key);
            errors.push(format!("{source}: unknown key {key}{}", suggestion(&key, known)));
            continue;
        };
        match plain_text(value) {
            Some(value) => overrides.push(Override { setting: *setting, value, source }),
            None => errors.push(format!("{source}: {key} must be a string, a number or true or false")),
        }
    }
}

/// Lists the values of a table and of those in it, each with its whole key and where that stands.
fn flatten<'a>(prefix: &str, table: &'a DeTable<'_>, values: &mut Vec<(String, usize, &'a DeValue<'a>)>) {
    for (key, value) in table {
        let whole = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&format!("{whole}."), inner, values),
            value => values.push((whole, key.span().start, value)),
        }
    }
}

fn plain_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        _ => None,
    }
}
