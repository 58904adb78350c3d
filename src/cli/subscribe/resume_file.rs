//! The file of `--resume-file`. It holds one line, `EPOCH:OFFSET`, and is replaced atomically.

use std::io;
use std::path::PathBuf;

use super::super::start::{format_position, parse_position};
use super::super::{Failure, files};
use crate::record::Position;

/// A file with the position to continue at.
#[derive(Debug)]
pub(super) struct ResumeFile {
    path: PathBuf,
    last: Option<Position>,
}

impl ResumeFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    fn at_path(&self, why: impl std::fmt::Display) -> Failure {
        Failure::failed(format!("resume file {}: {why}", self.path.display()))
    }

    /// Reads the position of the last run; none if there is no file.
    pub(super) fn load(&self) -> Result<Option<Position>, Failure> {
        match files::read_small(&self.path) {
            Ok(text) => parse_position(&text).map(Some).map_err(|why| self.at_path(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.at_path(error)),
        }
    }

    pub(super) fn store(&mut self, position: Position) -> Result<(), Failure> {
        if self.last == Some(position) {
            return Ok(());
        }
        files::replace(&self.path, &format!("{}\n", format_position(position)))
            .map_err(|error| self.at_path(error))?;
        self.last = Some(position);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ResumeFile;
    use crate::record::{Epoch, Offset, Position};

    #[test]
    fn a_position_is_read_back_and_rubbish_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.pos");
        let mut file = ResumeFile::new(path.clone());
        assert_eq!(file.load().unwrap(), None);
        let position = Position { epoch: Epoch::new(7), offset: Offset::new(42) };
        file.store(position).unwrap();
        assert_eq!(ResumeFile::new(path.clone()).load().unwrap(), Some(position));
        for bad in ["rubbish", "", "\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(file.load().unwrap_err().message.contains("orders.pos"), "{bad:?}");
        }
    }
}
