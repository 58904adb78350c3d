//! Records as JSON: those that `subscribe --output json` prints, one a line, or documents `{"records": […]}`.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::client::Record;
use crate::json::parse;

/// Largest JSON value, in bytes: far more than a server accepts in one message by default.
const VALUE_MAX: usize = 64 << 20;
/// Number of JSON values read ahead.
const AHEAD: usize = 256;

/// The records of one JSON value, and its size in bytes.
pub(super) type Parsed = Result<(Vec<Record>, u64), String>;

/// Starts to read JSON values on a thread of its own.
pub(super) fn read(input: Box<dyn Read + Send>) -> io::Result<mpsc::Receiver<Parsed>> {
    let (sender, values) = mpsc::channel(AHEAD);
    // A thread of the runtime would delay the exit, as a read of a terminal may block for ever.
    std::thread::Builder::new().name("json".into()).spawn(move || {
        let used = Rc::new(Cell::new(0));
        let limited = Limited { input: BufReader::with_capacity(256 << 10, input), used: Rc::clone(&used) };
        let mut values = serde_json::Deserializer::from_reader(limited).into_iter::<Box<RawValue>>();
        let (mut number, mut read) = (0_u64, 0);
        while let Some(value) = values.next() {
            used.set(0);
            number += 1;
            let parsed = value.map_err(|error| error.to_string()).and_then(|value| parse(value.get()));
            let parsed = parsed.map_err(|why| format!("JSON value {number}: {why}"));
            let end = values.byte_offset();
            let failed = parsed.is_err();
            if sender.blocking_send(parsed.map(|records| (records, (end - read) as u64))).is_err() || failed {
                return;
            }
            read = end;
        }
    })?;
    Ok(values)
}

/// A reader that fails within a value that is too large.
struct Limited<R> {
    input: R,
    used: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used.get() > VALUE_MAX {
            return Err(io::Error::other(format!("longer than {VALUE_MAX} bytes")));
        }
        let read = self.input.read(out)?;
        self.used.set(self.used.get() + read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn values_are_read_one_by_one_and_a_bad_one_ends_them() {
        let text =
            "{\"value\":\"a\"}\n\n{\n \"value\": \"b\"\n}[{\"value\":\"c\"}] {\"x\":1} {\"value\":\"d\"}";
        let mut values = read(Box::new(text.as_bytes())).unwrap();
        let mut next =
            || values.blocking_recv().map(|parsed| parsed.map(|(records, _)| records[0].value.clone()));
        for expected in ["a", "b", "c"] {
            assert_eq!(next(), Some(Ok(expected.into())));
        }
        assert!(next().unwrap().unwrap_err().starts_with("JSON value 4: unknown field `x`"));
        assert_eq!(next(), None);
    }
}
