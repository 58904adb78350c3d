//! The place in a command line that is being completed, by the grammar of the command line.

use clap::{Arg, Command};

/// Kinds of words that can stand at a place.
#[derive(Debug)]
pub(super) enum Slot<'a> {
    /// One of these words.
    Words(Vec<String>),
    /// A value of this argument.
    Value(&'a Arg),
}

/// Finds what can stand in place of the last word, and returns the part of that word which counts. `root` must be built.
pub(super) fn slot<'a, 'w>(root: &'a Command, words: &[&'w str]) -> (Slot<'a>, &'w str) {
    let Some((last, before)) = words.split_last() else { return (Slot::Words(Vec::new()), "") };
    let mut place = Place { command: root, positionals: 0, flag: None, is_escaped: false };
    for word in before {
        place.pass(word);
    }
    place.complete(last)
}

/// A place in a command line.
struct Place<'a> {
    command: &'a Command,
    /// Number of positional arguments before it.
    positionals: usize,
    /// The flag whose value stands here.
    flag: Option<&'a Arg>,
    /// Whatever stands here is a positional argument, as `--` stands before it.
    is_escaped: bool,
}

impl<'a> Place<'a> {
    fn pass(&mut self, word: &str) {
        // bash splits `--flag=value` at the `=`.
        if word == "=" && self.flag.is_some() {
            return;
        }
        if self.flag.take().is_some() {
            return;
        }
        match (self.is_escaped, word) {
            (false, "--") => self.is_escaped = true,
            (false, flag) if flag.len() > 1 && flag.starts_with('-') => {
                self.flag = self.find_flag(flag).filter(|arg| arg.get_action().takes_values());
            }
            (false, name) if self.positionals == 0 && self.command.find_subcommand(name).is_some() => {
                self.command = self.command.find_subcommand(name).unwrap_or(self.command);
            }
            _ => self.positionals += 1,
        }
    }

    /// The argument of a flag that stands alone, as `--flag` or `-f`.
    fn find_flag(&self, flag: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|arg| match flag.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => arg.get_short().is_some_and(|short| flag.chars().skip(1).eq([short])),
        })
    }

    fn complete<'w>(&self, word: &'w str) -> (Slot<'a>, &'w str) {
        if let Some(flag) = self.flag {
            return (Slot::Value(flag), if word == "=" { "" } else { word });
        }
        if !self.is_escaped && word.starts_with('-') {
            let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            return (
                Slot::Words(shown.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()),
                word,
            );
        }
        let positionals: Vec<&Arg> = self.command.get_positionals().collect();
        // The last one takes all further values.
        match positionals.get(self.positionals).or(positionals.last()) {
            Some(arg)
                if self.positionals < positionals.len() || arg.get_num_args().is_some_and(takes_many) =>
            {
                (Slot::Value(arg), word)
            }
            _ => {
                let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
                (Slot::Words(shown.map(|command| command.get_name().to_owned()).collect()), word)
            }
        }
    }
}

fn takes_many(range: clap::builder::ValueRange) -> bool {
    range.max_values() > 1
}

#[cfg(test)]
mod tests {
    use super::{Slot, slot};
    use clap::{Arg, ArgAction, Command};

    fn grammar() -> Command {
        let flags = [
            Arg::new("verbose").short('v').long("verbose").global(true).action(ArgAction::Count),
            Arg::new("server").short('s').long("server").global(true),
        ];
        let delete = Command::new("delete").arg(Arg::new("topics").num_args(1..));
        let mut root = Command::new("x").args(flags).subcommand(
            Command::new("topics").subcommand(delete).subcommand(Command::new("list").hide(true)),
        );
        root =
            root.subcommand(Command::new("say").arg(Arg::new("topic")).arg(Arg::new("values").num_args(0..)));
        root.build();
        root
    }

    /// The name of the argument, or the words.
    fn found(words: &[&str]) -> (String, String) {
        let root = grammar();
        let (slot, typed) = slot(&root, words);
        let slot = match slot {
            Slot::Words(words) => words.join(" "),
            Slot::Value(arg) => arg.get_id().to_string(),
        };
        (slot, typed.to_owned())
    }

    #[test]
    fn the_place_in_a_line_is_found_by_the_grammar() {
        for (words, slot, typed) in [
            (&[""][..], "topics say help", ""),
            (&["to"], "topics say help", "to"),
            (&["topics", ""], "delete help", ""),
            (&["topics", "delete", "a"], "topics", "a"),
            (&["topics", "delete", "a", ""], "topics", ""),
            (&["-v", "say", "t"], "topic", "t"),
            (&["-s", "topics", "say", "t"], "topic", "t"),
            (&["say", "--server", "h"], "server", "h"),
            (&["say", "--server", "=", "h"], "server", "h"),
            (&["say", "--server", "="], "server", ""),
            (&["say", "t", "v"], "values", "v"),
            (&["say", "t", "v", "w"], "values", "w"),
            (&["say", "--", "-t"], "topic", "-t"),
            (&["say", "--s"], "--verbose --server --help", "--s"),
        ] {
            assert_eq!(found(words), (slot.to_owned(), typed.to_owned()), "{words:?}");
        }
    }
}
