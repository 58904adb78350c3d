//! How times, counts and tables are printed.
//! Never: what is printed.

use std::fmt::Write;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::UnixMicros;

/// RFC 3339 with microseconds, the precision the server keeps.
pub(super) fn time(time: UnixMicros) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(time.0)).to_string()
}

/// RFC 3339 to the second; empty where there is none.
pub(super) fn seconds(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let since = Duration::from_secs(u64::try_from(time.seconds).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

/// A duration without its small change.
pub(super) fn elapsed(duration: Duration) -> String {
    if duration.as_secs() < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

/// Writes to standard output. A closed pipe means that the reader has enough.
pub(super) fn print(text: &str) -> std::io::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One line on standard error, if anybody still reads it.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A table with aligned columns, two spaces between them; numbers to the right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().map(|row| cell(row, column).chars().count());
            cells.chain([title.len()]).max().unwrap_or(0)
        })
        .collect();
    let is_number = |column: usize| {
        let mut cells = rows.iter().map(|row| cell(row, column));
        !rows.is_empty()
            && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains('-'))
    };
    let right: Vec<bool> = (0..header.len()).map(is_number).collect();
    let mut out = String::new();
    let titles: Vec<String> = header.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let text = cell(row, column);
            let _ = if right[column] {
                write!(line, "{text:>width$}  ")
            } else {
                write!(line, "{text:<width$}  ")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "5".into()], vec!["long".into(), "1234".into()]];
        assert_eq!(table(&["NAME", "TAIL"], &rows), "NAME  TAIL\na        5\nlong  1234\n");
    }
}
