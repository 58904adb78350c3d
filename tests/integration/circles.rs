//! No file of the crate imports a file that imports it, directly or through others. An import counts for the
//! file that defines what is imported, however many façades re-export it on the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of a path, or of a module.
type Names = Vec<String>;
/// Which files each file imports.
type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The words and signs of a source file, `::` as one of them; without comments and literals.
fn tokens(source: &str) -> VecDeque<String> {
    let (mut rest, mut found) = (source, VecDeque::new());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let hashes = rest.trim_start_matches('r').bytes().take_while(|byte| *byte == b'#').count();
        let raw = rest.starts_with('r') && rest[1 + hashes..].starts_with('"');
        let (token, len) = if rest.starts_with("//") {
            ("", rest.find('\n').unwrap_or(rest.len()))
        } else if raw {
            let (open, end) = (hashes + 2, format!("\"{}", "#".repeat(hashes)));
            ("", open + rest[open..].find(&end).expect("a raw string ends") + end.len())
        } else if first == '"' {
            ("", literal_len(rest, '"'))
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            ("", literal_len(rest, '\''))
        } else if is_word(first) {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (&rest[..len], len)
        } else if rest.starts_with("::") {
            ("::", 2)
        } else {
            (&rest[..first.len_utf8()], first.len_utf8())
        };
        if !token.trim().is_empty() {
            found.push_back(token.to_owned());
        }
        rest = &rest[len..];
    }
    found
}

fn literal_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.expect("a literal ends").0 + 1
}

/// Declarations of one module.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Names of its items.
    items: BTreeSet<String>,
    /// Names that it imports or re-exports, and from where.
    uses: BTreeMap<String, Names>,
    /// Paths that its code names.
    paths: BTreeSet<Names>,
}

impl Module {
    /// Takes in the rest of a `use` below `path`.
    fn take_use(&mut self, mut path: Names, tokens: &mut VecDeque<String>) {
        while let Some(token) = tokens.front() {
            match token.as_str() {
                "{" => {
                    while tokens.pop_front().is_some_and(|token| token != "}") {
                        self.take_use(path.clone(), tokens);
                    }
                    return;
                }
                "," | "}" | ";" => break,
                "*" => panic!("{}: a glob import of {path:?}", self.file.display()),
                "as" => {
                    let name = tokens.drain(..2).nth(1).expect("a name");
                    return drop(self.uses.insert(name, path));
                }
                "::" => drop(tokens.pop_front()),
                _ => path.extend(tokens.pop_front()),
            }
        }
        path.pop_if(|last| last == "self");
        if let Some(last) = path.last().cloned() {
            self.uses.insert(last, path);
        }
    }
}

/// Drops the item, the field or the statement that comes next.
fn skip(tokens: &mut VecDeque<String>) {
    let is_item = tokens.iter().take(8).any(|token| {
        matches!(&**token, "fn" | "mod" | "impl" | "struct" | "enum" | "use" | "trait" | "macro_rules")
    });
    let mut depth = 0;
    while let Some(token) = tokens.front() {
        match &**token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" if depth == 0 => return,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        let ends = token == ";" || is_item && token == "}" || !is_item && token == ",";
        tokens.pop_front();
        if depth == 0 && ends {
            return;
        }
    }
}

/// The modules of one crate.
#[derive(Default)]
struct Crate {
    name: String,
    modules: BTreeMap<Names, Module>,
}

impl Crate {
    /// Reads a crate from its root file on, without its tests.
    fn read(name: &str, root: &Path) -> Self {
        let mut all = Self { name: name.to_owned(), ..Self::default() };
        all.file(Vec::new(), root, root.parent().unwrap());
        all
    }

    /// Reads the file of a module whose children are in `dir`.
    fn file(&mut self, module: Names, file: &Path, dir: &Path) {
        let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.module(module, &mut tokens(&source), file, dir);
    }

    /// Reads a module up to the brace that ends it.
    fn module(&mut self, name: Names, tokens: &mut VecDeque<String>, file: &Path, dir: &Path) {
        let (mut module, mut depth) = (Module { file: file.to_owned(), ..Module::default() }, 0);
        while let Some(token) = tokens.pop_front() {
            let next = tokens.front().cloned().unwrap_or_default();
            match token.as_str() {
                "#" if next == "[" => {
                    let end = tokens.iter().position(|token| token == "]").expect("an attribute ends");
                    let attribute: String = tokens.drain(..=end).collect();
                    if matches!(&*attribute, "[test]" | "[cfg(test)]") {
                        skip(tokens);
                    }
                }
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "use" if next != "<" => module.take_use(Vec::new(), tokens),
                "mod" => {
                    let (child, inside) =
                        ([&name[..], std::slice::from_ref(&next)].concat(), dir.join(&next));
                    tokens.pop_front();
                    if tokens.pop_front().is_some_and(|token| token == "{") {
                        self.module(child, tokens, file, &inside);
                        continue;
                    }
                    let flat = dir.join(format!("{next}.rs"));
                    let child_file = if flat.exists() { flat } else { inside.join("mod.rs") };
                    self.file(child, &child_file, &inside);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" if depth == 0 => {
                    module.items.insert(next);
                }
                word if next == "::" => {
                    let mut path = vec![word.to_owned()];
                    while tokens.front().is_some_and(|token| token == "::") {
                        path.extend(tokens.drain(..2).nth(1));
                    }
                    module.paths.insert(path);
                }
                _ => {}
            }
        }
        self.modules.insert(name, module);
    }

    /// The file that defines what a path names in a module; none where it is not of this crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<&Path> {
        let (first, rest) = path.split_first().filter(|_| depth < 20)?;
        match first.as_str() {
            first if first == "crate" || first == self.name => self.inside(&[], rest, depth),
            "self" => self.inside(module, rest, depth),
            "super" => {
                let parent = &module[..module.len().checked_sub(1)?];
                self.resolve(parent, rest, depth + 1)
            }
            _ => self.inside(module, path, depth),
        }
    }

    /// The same for a path that begins in a module.
    fn inside(&self, module: &[String], path: &[String], depth: usize) -> Option<&Path> {
        // A module by itself is only the way to what it holds.
        let (first, rest) = path.split_first()?;
        let child = [module, std::slice::from_ref(first)].concat();
        if self.modules.contains_key(&child) {
            return self.inside(&child, rest, depth);
        }
        let found = self.modules.get(module)?;
        if let Some(from) = found.uses.get(first) {
            return self.resolve(module, &[from, rest].concat(), depth + 1);
        }
        found.items.contains(first).then_some(&*found.file)
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (name, module) in &self.modules {
            let named = module.uses.values().chain(&module.paths);
            let files = named.filter_map(|path| self.resolve(name, path, 0));
            let others = files.filter(|file| **file != *module.file).map(Path::to_owned);
            imports.entry(module.file.clone()).or_default().extend(others);
        }
        imports
    }
}

/// For each file that can be reached from itself a shortest way there and back.
fn circles(imports: &Imports) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut circles = BTreeMap::new();
    for start in imports.keys() {
        let (mut seen, mut ways) = (BTreeSet::new(), VecDeque::from([vec![start.clone()]]));
        while let Some(way) = ways.pop_front() {
            for next in imports.get(way.last().unwrap()).into_iter().flatten() {
                if next == start {
                    circles.entry(start.clone()).or_insert_with(|| way.clone());
                } else if seen.insert(next.clone()) {
                    ways.push_back([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
    }
    circles
}

/// The circles of a crate, each once for every file in it, beginning there.
fn circles_of(name: &str, root: &Path) -> Vec<String> {
    let dir = root.parent().unwrap();
    let short = |path: &PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
    let found = circles(&Crate::read(name, root).imports());
    found.values().map(|way| way.iter().map(short).collect::<Vec<_>>().join(" → ")).collect()
}

#[test]
fn no_file_imports_a_file_that_imports_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, file) in [("streamway", "src/lib.rs"), ("peers", "benches/peers/src/main.rs")] {
        let found = circles_of(name, &root.join(file));
        assert!(found.is_empty(), "files that import each other:\n{}", found.join("\n"));
    }
}

/// The circles of a crate that consists of these files.
fn made_of(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, source) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, source).unwrap();
    }
    circles_of("made", &dir.path().join("lib.rs"))
}

#[test]
fn circles_are_seen_through_facades_paths_and_macros_and_tests_are_left_out() {
    let lib = ("lib.rs", "mod a;\nmod b;\n");
    // A façade re-exports a child, which takes from its sibling through the façade.
    let facade = ("a/mod.rs", "mod one;\nmod two;\npub use one::One;\npub use two::{Two, self};");
    let two = ("a/two.rs", "use super::One;\npub struct Two(One);");
    let b = ("b.rs", "pub fn b() { crate::a::Two::new() }");
    let of = |one| made_of(&[lib, facade, two, b, ("a/one.rs", one)]);
    let none: Vec<String> = Vec::new();
    for one in [
        "pub struct One;",
        "pub struct One;\n// use super::Two;\nconst C: &str = \"super::Two::new(\\\"\";\nconst D: char = '\"';",
        "pub struct One;\n#[cfg(test)]\nmod tests {\n    use crate::a::Two;\n    fn f() {}\n}",
        "pub struct One {\n    #[cfg(test)]\n    two: super::Two,\n    c: char,\n}",
        "pub struct One;\nimpl One {\n    #[cfg(test)]\n    fn f(&self) -> M<A, B> { super::b::b() }\n}",
    ] {
        assert_eq!(of(one), none, "{one}");
    }
    for one in [
        "use crate::a::Two;\npub struct One;",
        "use std::fmt::{self, Debug};\nuse crate::{a::{Two as Other}, b};\npub struct One;",
        "pub struct One;\nfn f<'a>(_: &'a str) { super::two::Two::new() }",
        "use crate::a;\npub struct One;\nfn f(_: a::Two) {}",
        "pub struct One;\nfn f() { g!(crate::a::Two, r#\"\"#) }",
        "pub struct One;\nmod inner {\n    use super::super::Two;\n}",
        "#[cfg(test)]\nuse c::d;\npub struct One;\nfn f() { crate::b::b() }",
    ] {
        let found = of(one);
        assert!(found.iter().any(|circle| circle.contains("one.rs")), "{one}: {found:?}");
    }
    // What the parent itself defines is imported from the parent's file.
    let parent = ("a/mod.rs", "mod one;\npub use one::One;\npub struct Two;");
    let found = made_of(&[lib, parent, b, ("a/one.rs", "use super::Two;\npub struct One(Two);")]);
    assert_eq!(found, ["a/mod.rs → a/one.rs", "a/one.rs → a/mod.rs"]);
}
