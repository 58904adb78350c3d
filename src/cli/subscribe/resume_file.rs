//! The file of `--resume-file`. It has a line for each topic, the position and the topic's name, and is replaced atomically.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::super::start::parse_position;
use super::super::{Failure, files};
use crate::client::printable;
use crate::record::Position;

/// A file with the positions to continue at.
#[derive(Debug)]
pub(super) struct ResumeFile {
    path: PathBuf,
    /// Positions by topic.
    positions: BTreeMap<String, Position>,
}

impl ResumeFile {
    /// Reads the positions of the last run; none if there is no file.
    pub(super) fn load(path: PathBuf, topics: &[String]) -> Result<Self, Failure> {
        let mut file = Self { path, positions: BTreeMap::new() };
        let text = match files::read_small(&file.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(file),
            Err(error) => return Err(file.failure(error)),
        };
        if text.trim().is_empty() {
            return Err(file.failure("holds no position"));
        }
        for line in text.lines() {
            let (position, topic) = match (line.split_once(' '), topics) {
                (Some((position, topic)), _) => (position, topic),
                // Files of version 0.1 do not name their topic.
                (None, [topic]) => (line, topic.as_str()),
                (None, _) => return Err(file.failure("does not name its topic, and several are given")),
            };
            let position = parse_position(position).map_err(|why| file.failure(why))?;
            if !topics.iter().any(|given| given == topic) {
                let why = format!(
                    "is of the topic {}, which is not asked for: name another file",
                    printable(topic)
                );
                return Err(Failure::usage(file.at_path(why)));
            }
            file.positions.insert(topic.to_owned(), position);
        }
        Ok(file)
    }

    fn at_path(&self, why: impl std::fmt::Display) -> String {
        format!("resume file {}: {why}", self.path.display())
    }

    fn failure(&self, why: impl std::fmt::Display) -> Failure {
        Failure::failed(self.at_path(why))
    }

    /// The position at which a topic continues; none where the file has none.
    pub(super) fn position(&self, topic: &str) -> Option<Position> {
        self.positions.get(topic).copied()
    }

    /// Stores the positions of these topics; those of others stay.
    pub(super) fn store<'a>(
        &mut self,
        positions: impl Iterator<Item = (&'a str, Position)>,
    ) -> Result<(), Failure> {
        let mut changed = false;
        for (topic, position) in positions {
            if self.position(topic) != Some(position) {
                self.positions.insert(topic.to_owned(), position);
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let text: String =
            self.positions.iter().map(|(topic, position)| format!("{position} {topic}\n")).collect();
        files::replace(&self.path, &text).map_err(|error| self.failure(error))
    }
}

#[cfg(test)]
mod tests {
    use super::ResumeFile;
    use crate::record::{Epoch, Offset, Position};

    fn topics(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn positions_are_read_back_and_rubbish_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.pos");
        let both = topics(&["orders", "payments"]);
        let mut file = ResumeFile::load(path.clone(), &both).unwrap();
        assert_eq!(file.position("orders"), None);
        let position = Position { epoch: Epoch::new(7), offset: Offset::new(42) };
        file.store([("orders", position)].into_iter()).unwrap();
        let file = ResumeFile::load(path.clone(), &both).unwrap();
        assert_eq!((file.position("orders"), file.position("payments")), (Some(position), None));
        for bad in ["rubbish", "", "\n", "rubbish orders"] {
            std::fs::write(&path, bad).unwrap();
            let failure = ResumeFile::load(path.clone(), &topics(&["orders"])).unwrap_err();
            assert!(failure.message.contains("orders.pos"), "{bad:?}");
        }
    }

    #[test]
    fn the_file_of_another_topic_is_refused_and_one_of_version_0_1_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        std::fs::write(&path, "0000000000000007_00000000000000000042 orders\n").unwrap();
        let failure = ResumeFile::load(path.clone(), &topics(&["payments"])).unwrap_err();
        assert!(
            failure.code == 2 && failure.message.contains("is of the topic orders"),
            "{}",
            failure.message
        );
        std::fs::write(&path, "0000000000000007:42\n").unwrap();
        let file = ResumeFile::load(path.clone(), &topics(&["orders"])).unwrap();
        assert_eq!(file.position("orders").unwrap().offset, Offset::new(42));
        assert!(ResumeFile::load(path, &topics(&["orders", "payments"])).is_err());
    }
}
