//! `streamway completions`: prints a completion script. Those of bash, fish and zsh ask this binary for candidates, which
//! knows flags, their values, the saved contexts, and the topics and groups of the server.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, Args, Command, FromArgMatches};
use clap_complete::Shell;

use super::candidates::{Slot, slot};
use super::connection::Connection;
use super::contexts::Contexts;
use super::remote::Remote;
use super::{Failure, output};
use crate::client::is_control;
use crate::proto::v1;
use crate::record::TopicName;

const NAME: &str = "streamway";
/// Time limit of a server for naming topics: a person waits at a prompt.
const TOPICS_WITHIN: Duration = Duration::from_secs(1);
/// Largest number of topics that are proposed.
const TOPICS_MAX: u32 = 100;
/// Largest number of groups that are looked through.
const GROUPS_MAX: i32 = 1000;

// Without a candidate, each shell proposes files.
// bash parts words at colons: those of an address are joined again.
const BASH: &str = r#"_streamway() {
    local i found n=0
    local -a words
    for ((i = 1; i <= COMP_CWORD; i++)); do
        if ((n > 0)) && [[ ${COMP_WORDS[i]} == :* || ${words[n-1]} == *: ]]; then
            words[n-1]+=${COMP_WORDS[i]}
        else
            words[n++]=${COMP_WORDS[i]}
        fi
    done
    COMPREPLY=()
    while IFS= read -r found; do
        COMPREPLY+=("$found")
    done < <(streamway complete-line -- "${words[@]}" 2>/dev/null)
}
complete -o default -F _streamway streamway
"#;
const FISH: &str = r"complete -c streamway -a '(streamway complete-line -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
";
const ZSH: &str = r#"#compdef streamway
_streamway() {
    local -a found
    found=(${(f)"$(streamway complete-line -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
if [ "$funcstack[1]" = _streamway ]; then _streamway; else compdef _streamway streamway; fi
"#;

/// Print the completion script of a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  streamway completions bash > /etc/bash_completion.d/streamway
  streamway completions zsh > \"${fpath[1]}/_streamway\"
  streamway completions fish > ~/.config/fish/completions/streamway.fish

The scripts of bash, zsh and fish run `streamway`, which must be on the PATH, and complete names of topics by \
asking the server.")]
pub(super) struct Completions {
    /// Name of the shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut grammar: Command) -> Result<ExitCode, Failure> {
        let script = match self.shell {
            Shell::Bash => BASH.to_owned(),
            Shell::Fish => FISH.to_owned(),
            Shell::Zsh => ZSH.to_owned(),
            other => {
                let mut script = Vec::new();
                clap_complete::generate(other, &mut grammar, NAME, &mut script);
                String::from_utf8_lossy(&script).into_owned()
            }
        };
        output::print(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print what can stand in place of the last of these words, one candidate a line. Scripts of shells run this.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(super) struct CompleteLine {
    /// The words after the name of the program. The last is not complete, and may be empty.
    #[arg(last = true)]
    words: Vec<OsString>,
}

impl CompleteLine {
    pub(super) fn run(self, grammar: Command) -> Result<ExitCode, Failure> {
        let mut built = grammar.clone();
        built.build();
        let words: Vec<&str> = self.words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
        let (slot, typed) = slot(&built, &words);
        let candidates = match slot {
            Slot::Words(words) => words,
            Slot::Value(arg) => values(arg, typed, grammar, &self.words),
        };
        let fits = |word: &String| word.starts_with(typed) && !word.contains(is_control);
        let lines: String =
            candidates.iter().filter(|word| fits(word)).map(|word| format!("{word}\n")).collect();
        output::print(&lines)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns true for a character that means nothing to any shell.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@')
}

/// The values that an argument can have, as far as they can be listed.
fn values(arg: &Arg, typed: &str, grammar: Command, line: &[OsString]) -> Vec<String> {
    match arg.get_id().as_str() {
        "topic" | "topics" => topics(typed, grammar, line).unwrap_or_default(),
        "group" => groups(grammar, line).unwrap_or_default(),
        "context" | "context_name" => {
            let names = Contexts::load().unwrap_or_default().contexts.into_keys();
            names.filter(|name| name.chars().all(is_plain)).collect()
        }
        _ => {
            let possible = arg.get_possible_values();
            let named = arg.get_value_names().and_then(<[_]>::first).filter(|name| name.contains('|'));
            match named {
                Some(choices) if possible.is_empty() => choices.split('|').map(str::to_owned).collect(),
                _ => possible.iter().map(|value| value.get_name().to_owned()).collect(),
            }
        }
    }
}

/// Names of groups of the topics that the line names.
fn groups(grammar: Command, line: &[OsString]) -> Option<Vec<String>> {
    let remote = remote(grammar, line)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let request = v1::ListGroupsRequest { page_size: GROUPS_MAX, ..Default::default() };
    let listed = runtime.block_on(async {
        let groups = remote.client().ok()?.groups();
        tokio::time::timeout(TOPICS_WITHIN, groups.list(request)).await.ok()?.ok()
    })?;
    let named = listed.groups.into_iter().filter(|group| line.iter().any(|word| *word == *group.topic));
    // A group has a name of the same form as a topic.
    Some(named.map(|group| group.name).filter(|name| TopicName::parse(name).is_ok()).collect())
}

/// Names of topics, by the server that the line names. A server that is away or refuses proposes none.
fn topics(prefix: &str, grammar: Command, line: &[OsString]) -> Option<Vec<String>> {
    let remote = remote(grammar, line)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let request =
        v1::ListTopicsRequest { page_size: TOPICS_MAX, prefix: prefix.into(), ..Default::default() };
    let listed = runtime.block_on(async {
        let topics = remote.client().ok()?.topics();
        tokio::time::timeout(TOPICS_WITHIN, topics.list(request)).await.ok()?.ok()
    })?;
    // bash puts a candidate on the line as it is: a server must not make up names that a shell would run.
    let names = listed.topics.into_iter().map(|topic| topic.name);
    Some(names.filter(|name| TopicName::parse(name).is_ok()).collect())
}

/// The options of the connection on a line, as far as it can be read; none for a command without a connection.
fn remote(grammar: Command, line: &[OsString]) -> Option<Remote> {
    let words = std::iter::once(OsString::from(NAME)).chain(line.iter().cloned());
    let matches = grammar.clone().ignore_errors(true).try_get_matches_from(words).ok()?;
    let (name, of_command) = matches.subcommand()?;
    if name == "copy" {
        // Its topics are those of the server that it copies from.
        let source = of_command.get_one::<OsString>("source")?.to_str().filter(|url| url.contains("://"))?;
        let connection = Connection::from_arg_matches(of_command).ok()?;
        return Some(Remote::of_servers(source.split(',').map(str::to_owned).collect(), connection));
    }
    let command = grammar.find_subcommand(name)?;
    command.get_arguments().find(|arg| arg.get_id() == "server")?;
    let mut remote = Remote::from_arg_matches(of_command).ok()?;
    remote.inherit(Remote::from_arg_matches(&matches).ok()?);
    Some(remote)
}
