//! Removal of the older ones of a series of backups, whose names differ only in a number.

use std::fs;
use std::io;
use std::path::Path;

/// Removes the oldest backups of the series of `newest` that are more than `keep`, and returns their number. Without a digit
/// in its name, a backup is of no series. Nothing but a regular file is removed.
///
/// # Errors
/// The directory cannot be read, or a file cannot be removed.
pub(super) fn remove_older(newest: &Path, keep: usize) -> io::Result<usize> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(numberless);
    let Some(series) = name(newest).filter(|series| series.contains(NUMBER)) else { return Ok(0) };
    let parent = newest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut others = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let path = entry.path();
        let is_other = path.file_name() != newest.file_name() && name(&path).as_ref() == Some(&series);
        if is_other && entry.file_type()?.is_file() {
            others.push((entry.metadata()?.modified()?, path));
        }
    }
    others.sort_unstable_by(|one, other| other.cmp(one));
    let older = others.split_off(others.len().min(keep.saturating_sub(1)));
    for (_, path) in &older {
        fs::remove_file(path)?;
    }
    Ok(older.len())
}

/// Stands for a number in the name of a series. No file's name holds it.
const NUMBER: char = '/';

/// Replaces each number in a name.
fn numberless(name: &str) -> String {
    let mut series = String::new();
    for c in name.chars() {
        match c {
            '0'..='9' if series.ends_with(NUMBER) => {}
            '0'..='9' => series.push(NUMBER),
            c => series.push(c),
        }
    }
    series
}

#[cfg(test)]
mod tests {
    use super::remove_older;
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn names(dir: &Path) -> BTreeSet<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn only_the_oldest_of_the_same_series_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        // The second is the oldest by its time, whatever its number says.
        let ages = [("b-98.backup", 3), ("b-99.backup", 5), ("b-100.backup", 2), ("b-101.backup", 0)];
        let foreign = ["b-97.backup.partial", "c-1.backup", "b-.backup", "b.backup", "b-1-2.backup"];
        for (name, age) in ages.into_iter().chain(foreign.map(|name| (name, 9))) {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        std::os::unix::fs::symlink("c-1.backup", dir.path().join("b-1.backup")).unwrap();
        fs::create_dir(dir.path().join("b-2.backup")).unwrap();
        let before = names(dir.path());
        let newest = dir.path().join("b-101.backup");
        assert_eq!(remove_older(&newest, 4).unwrap(), 0);
        assert_eq!(remove_older(&newest, 2).unwrap(), 2);
        let gone: Vec<_> = before.difference(&names(dir.path())).cloned().collect();
        assert_eq!(gone, ["b-98.backup", "b-99.backup"]);
        assert_eq!(remove_older(&newest, 1).unwrap(), 1);
        assert_eq!(remove_older(&dir.path().join("b.backup"), 1).unwrap(), 0, "it has no number");
        assert_eq!(names(dir.path()).len(), before.len() - 3);
    }
}
