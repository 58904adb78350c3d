//! Formatting of times, JSON and tables, and safe printing.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::client::{is_control, printable};
use crate::json::date;
pub(super) use crate::json::duration;

/// Formats a time as RFC 3339 with seconds; empty where there is none.
pub(super) fn seconds(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    date(time.seconds).map_or_else(|out| out, |date| format!("{date}Z"))
}

/// Formats a duration with tenths of a second, or with whole seconds from 100 s on.
pub(super) fn elapsed(duration: Duration) -> String {
    if duration.as_secs() < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

/// Writes to standard output. A closed pipe is no error, as its reader wants no more.
pub(super) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a line to standard error, if that is open. Control characters are escaped.
pub(super) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Writes a JSON object and a newline. Control characters are escaped as JSON allows, so that programs read back the
/// same text.
pub(super) fn put_json(out: impl io::Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, Shown(CompactFormatter));
    value.serialize(&mut serializer)?;
    serializer.into_inner().write_all(b"\n")
}

/// Formats a JSON object and a newline as [`put_json`] does.
pub(super) fn json_line(value: &serde_json::Value) -> String {
    let mut line = Vec::new();
    // This cannot fail: a `Value` is always valid JSON, and a vector accepts every byte.
    let _ = put_json(&mut line, value);
    String::from_utf8_lossy(&line).into_owned()
}

/// A formatter of JSON that escapes control characters.
struct Shown(CompactFormatter);

impl Formatter for Shown {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return self.0.write_string_fragment(out, text);
        }
        while let Some(at) = rest.find(is_control) {
            self.0.write_string_fragment(out, &rest[..at])?;
            let mut after = rest[at..].chars();
            let obeyed = after.next().unwrap_or_default();
            for unit in obeyed.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = after.as_str();
        }
        self.0.write_string_fragment(out, rest)
    }
}

/// Formats a table with aligned columns, numbers to the right. Control characters are escaped.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| {
        row.get(column).map(|cell| printable(cell).into_owned()).unwrap_or_default()
    };
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
    use super::{duration, json_line, seconds, table};
    use crate::json::{event_time, time};
    use crate::record::UnixMicros;
    use prost_types::Timestamp;
    use std::time::Duration;

    #[test]
    fn a_duration_has_at_most_nine_digits_after_the_point() {
        let shown = |seconds, nanos| duration(Duration::new(seconds, nanos));
        assert_eq!([shown(0, 0), shown(90, 0), shown(1, 500_000_000)], ["0s", "90s", "1.5s"]);
        assert_eq!(shown(1, 461_325_737), "1.461325737s");
        assert_eq!(shown(u64::MAX, 1), "18446744073709551615.000000001s");
    }

    #[test]
    fn every_number_from_the_network_is_shown_as_a_time_or_as_out_of_range() {
        let edges =
            [0, 1, -1, 1 << 62, i64::MIN, i64::MAX, 253_402_300_799, 253_402_300_800, -62_135_596_801];
        for at in edges {
            for nanos in [0, 1, -1, i32::MIN, i32::MAX] {
                assert!(!seconds(Some(&Timestamp { seconds: at, nanos })).is_empty());
                assert!(!event_time(at, nanos as u32).is_empty());
            }
            assert!(!time(UnixMicros(at as u64)).is_empty());
        }
        let of = |seconds: i64| Timestamp { seconds, nanos: 5 };
        assert_eq!(seconds(Some(&of(1 << 62))), "out of range (4611686018427387904 s since 1970)");
        assert_eq!(seconds(Some(&of(253_402_300_799))), "9999-12-31T23:59:59Z");
        assert_eq!(seconds(Some(&of(-1))), "1969-12-31T23:59:59Z");
        assert_eq!(seconds(None), "");
        assert_eq!(time(UnixMicros(1_000_001)), "1970-01-01T00:00:01.000001Z");
        assert_eq!(time(UnixMicros(u64::MAX)), "out of range (18446744073709 s since 1970)");
        assert_eq!(event_time(1, 500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(event_time(1, 0), "1970-01-01T00:00:01Z");
        assert_eq!(event_time(1, u32::MAX), "out of range (1 s and 4294967295 ns since 1970)");
    }

    #[test]
    fn json_has_no_control_characters_and_is_read_back_unchanged() {
        let text = "\x1b]0;x\x07 \u{9b}2J\x7f \u{202e}\u{e0041} ü\"\\\n";
        let line = json_line(&serde_json::json!({ text: text }));
        assert!(!line.trim_end_matches('\n').contains(crate::client::is_control), "{line:?}");
        assert!(line.contains("\\u009b2J\\u007f \\u202e\\udb40\\udc41 ü"), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read[text], text);
    }

    #[test]
    fn a_cell_is_one_line_without_control_characters() {
        let rows = vec![vec!["a\x1b[2Jb".into(), "1\n2".into()]];
        assert_eq!(table(&["NAME", "X"], &rows), "NAME            X\na\\u{1b}[2Jb  1\\n2\n");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "5".into()], vec!["long".into(), "1234".into()]];
        assert_eq!(table(&["NAME", "TAIL"], &rows), "NAME  TAIL\na        5\nlong  1234\n");
    }
}
