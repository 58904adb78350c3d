//! Fuzzing from a stored corpus, for tests: every file of `tests/corpus/NAME`, and random changes of them. An input
//! that makes its target panic is written there, so that every later run tries it first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Random changes of a run.
const ROUNDS: u64 = 20_000;
/// Random changes of a long run.
const ROUNDS_SOAK: u64 = 500_000;
/// Maximum bytes of an input.
const BYTES_MAX: usize = 16 << 10;

/// Tries every stored input, then random changes of them; a higher `cost` of each means fewer of them. `TESTS_SEED`
/// repeats a run.
///
/// # Panics
/// `target` panics; the input is stored.
pub fn fuzz(name: &str, cost: u64, mut target: impl FnMut(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let corpus = read(&dir);
    assert!(!corpus.is_empty(), "{} is empty", dir.display());
    let number = |variable| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("TESTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let soak = std::env::var_os("TESTS_SOAK").is_some();
    let rounds = number("TESTS_ROUNDS").unwrap_or(if soak { ROUNDS_SOAK } else { ROUNDS });
    let mut rng = fastrand::Rng::with_seed(seed);
    let changed = (0..rounds / cost).map(|_| {
        let mut bytes = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..6) {
            change(&mut bytes, &corpus, &mut rng);
        }
        bytes
    });
    for bytes in corpus.iter().cloned().chain(changed) {
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            let found = dir.join(format!("found-{:08x}", crc32c::crc32c(&bytes)));
            std::fs::write(&found, &bytes).expect("the corpus is writable");
            panic!("{name} panics (TESTS_SEED={seed}); the input is stored as {}", found.display());
        }
    }
}

fn read(dir: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    // The order decides what a seed repeats.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut fastrand::Rng) {
    let at = rng.usize(..=bytes.len());
    let end = (at + rng.usize(1..40)).min(bytes.len());
    match rng.u8(..8) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        2 if at < bytes.len() => bytes[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).expect("not empty"),
        3 => bytes.insert(at, rng.u8(..)),
        4 => drop(bytes.drain(at..end)),
        5 => bytes.extend_from_within(at..end),
        6 => bytes.truncate(at),
        _ => {
            // A piece of another input.
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            let piece = &other[from..(from + rng.usize(1..200)).min(other.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
    }
    bytes.truncate(BYTES_MAX);
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_input_that_panics_is_found_and_stored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("seed"), b"abc").unwrap();
        let name = dir.path().to_str().unwrap().to_owned();
        let fails = || super::fuzz(&name, 1, |bytes| assert!(!bytes.contains(&b'#')));
        let found = std::panic::catch_unwind(fails).unwrap_err();
        let said = found.downcast_ref::<String>().unwrap();
        assert!(said.contains("found-") && said.contains("TESTS_SEED="), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
