//! The documents that must stay equal to the code: the map of the crate, the tables of errors and of
//! settings, and what alerts link to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use streamway::config;
use streamway::proto::v1::ErrorReason;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The part a file of `src/` belongs to: its first path component.
fn part_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The parts that a file names by `crate::part` (or `streamway::part` in the binary), `use` groups
/// included; comments and the tests at a file's end left out.
fn imports(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut parts = BTreeSet::new();
    for prefix in ["crate::", "streamway::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"' || c == '.') {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => parts.extend(group_heads(group)),
                None => parts.extend([identifier(rest)]),
            }
        }
    }
    parts
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names in `a::b, c::{d, e}}…`, up to the closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut at_head) = (Vec::new(), 0, true);
    for (i, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && (c.is_alphanumeric() || c == '_') => {
                heads.push(identifier(&group[i..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

/// `ARCHITECTURE.md` holds the table `| part | may import |`; what it does not allow is refused.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("ARCHITECTURE.md");
    let section = text.split("<!-- imports -->").nth(1).expect("the marked table");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let names: Vec<Vec<String>> = row
            .split('|')
            .map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect())
            .collect();
        (names[1][0].clone(), names[2].iter().cloned().collect())
    })
    .collect()
}

#[test]
fn parts_import_only_what_the_map_allows() {
    let allowed = allowed();
    let mut found = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let part = part_of(&file);
        found.insert(part.clone());
        let name = file.file_stem().unwrap().to_string_lossy();
        if part == "lib" || name == "tests" || name.ends_with("_tests") {
            continue;
        }
        let Some(may) = allowed.get(&part) else {
            wrong.push(format!("ARCHITECTURE.md does not name the part `{part}`"));
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            let is_part = allowed.contains_key(&import);
            if is_part && import != part && !may.contains(&import) {
                wrong.push(format!("{} imports `{import}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<_> = allowed.keys().filter(|part| !found.contains(*part)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names parts that are not there: {gone:?}");
    assert!(allowed["record"].is_empty(), "record imports nothing of ours");
}

#[test]
fn the_import_check_sees_every_form() {
    let source = "use crate::storage::Log;\nuse crate::{config::Config, wire::{a, b}, topic};\n\
                  // crate::server is only spoken of\nlet x = crate::auth::check();\nmycrate::cli::run();";
    let expected = ["auth", "config", "storage", "topic", "wire"].map(str::to_owned);
    assert_eq!(imports(source), BTreeSet::from(expected));
}

/// Rows of docs/errors.md: reason and code.
fn documented() -> BTreeMap<String, String> {
    let text = read("docs/errors.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Reasons\n")).expect("the section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 7, "seven columns: {row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "no cell is empty: {row}");
        (cells[0].trim_matches('`').to_owned(), cells[1].trim_matches('`').to_owned())
    })
    .collect()
}

/// The enum's comments begin with the code.
fn declared() -> BTreeMap<String, String> {
    let proto = read("proto/streamway/v1/error.proto");
    let (mut codes, mut comment) = (BTreeMap::new(), String::new());
    for line in proto.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("// ") {
            comment = text.to_owned();
        } else if let Some(name) = line.strip_prefix("ERROR_REASON_") {
            let reason = identifier(name);
            if reason != "UNSPECIFIED" {
                codes.insert(reason, comment.split(':').next().unwrap_or_default().to_owned());
            }
        }
    }
    codes
}

#[test]
fn the_table_of_errors_is_the_enum() {
    let declared = declared();
    assert_eq!(documented(), declared);
    let generated: BTreeSet<String> = (1..)
        .map_while(|n| ErrorReason::try_from(n).ok())
        .map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned())
        .collect();
    assert_eq!(declared.into_keys().collect::<BTreeSet<_>>(), generated);
}

/// `docs/operations.md` holds the table of settings, between two marks, as it must be.
#[test]
fn the_table_of_settings_is_the_one_list_with_its_defaults() {
    let rows = config::defaults().sources.into_iter().map(|(setting, value, _)| {
        let value =
            if value.is_empty() || setting.is_secret() { "–".to_owned() } else { format!("`{value}`") };
        format!("| `--{}` | `{}` | {value} | {} |", setting.flag(), setting.variable(), setting.help)
    });
    let text = read("docs/operations.md");
    let section = text.split("<!-- settings -->").nth(1).expect("the marked table");
    let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| `--")).collect();
    assert_eq!(documented, rows.collect::<Vec<_>>());
}

#[test]
fn every_alert_links_to_a_section_that_is_there() {
    let rules = read("deploy/observability/prometheus/streamway.rules.yml");
    let links: Vec<&str> =
        rules.split("runbook: ").skip(1).map(|rest| rest.split([' ', '}']).next().unwrap()).collect();
    assert_eq!(links.len(), rules.matches("alert: ").count(), "every alert has a runbook");
    for link in links {
        let (file, anchor) = link.split_once('#').expect("a section");
        let text = read(file);
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        let is_anchor =
            |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor;
        assert!(headings.any(is_anchor), "{file} has no section for {link}");
    }
}

/// Each promise of `docs/guarantees.md` is cited by tests, and the tests it names are there.
#[test]
fn every_promise_is_cited_and_the_tests_it_names_are_there() {
    let files = [rust_files(&root().join("src")), rust_files(&root().join("tests/integration"))].concat();
    let is_test = |path: &&PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy();
        path.starts_with(root().join("tests")) || name == "tests" || name.ends_with("_tests")
    };
    let tests: Vec<String> = files.iter().filter(is_test).map(read).collect();
    for promise in (1..=14).map(|n| format!("P{n}")) {
        let cites = |text: &&String| text.split(|c: char| !c.is_alphanumeric()).any(|word| word == promise);
        assert!(tests.iter().filter(cites).count() > 1, "{promise} is cited by no test of its own");
    }
    let text = read("docs/guarantees.md");
    let named = text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
    for name in named {
        assert!(files.iter().any(|path| path.ends_with(name)), "docs/guarantees.md names {name}");
    }
}
