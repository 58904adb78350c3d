//! Medians and ratios, and the files they are written to.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::contestant::{Contestant, FLEET};
use crate::figures::{Spread, number, spread};
use crate::install::Installed;
use crate::outcome::Outcome;
use crate::peer::clone_dir;
use crate::plot;
use crate::targets::{OWN, RATIOS, TARGETS, less_is_better};

/// One figure of one contestant, a value a round.
struct Series {
    what: &'static str,
    who: &'static str,
    values: Vec<f64>,
}

pub struct Results {
    conditions: Vec<(String, String)>,
    series: Vec<Series>,
}

/// The condition that changes while they are measured.
const ROUNDS: &str = "rounds";

impl Results {
    pub fn new(installed: &Installed) -> Self {
        let mut conditions = vec![("machine".to_owned(), machine()), (ROUNDS.to_owned(), String::new())];
        for (who, version) in &installed.versions {
            conditions.push(((*who).to_owned(), version.clone()));
        }
        Self { conditions, series: Vec::new() }
    }

    /// So many rounds have been run, with so many seconds a measurement.
    pub fn ran(&mut self, rounds: usize, seconds: f64) {
        for (_, text) in self.conditions.iter_mut().filter(|(name, _)| name == ROUNDS) {
            *text = format!("{rounds}, interleaved; {seconds} s each timed measurement");
        }
    }

    pub fn add(&mut self, what: &'static str, who: &'static str, value: f64) {
        match self.series.iter_mut().find(|series| series.what == what && series.who == who) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { what, who, values: vec![value] }),
        }
    }

    fn whats(&self) -> Vec<&'static str> {
        let mut whats = Vec::new();
        for series in &self.series {
            if !whats.contains(&series.what) {
                whats.push(series.what);
            }
        }
        whats
    }

    /// Each contestant's spread of a figure, the best first.
    fn of(&self, what: &str) -> Vec<(&'static str, Spread)> {
        let mut all: Vec<_> =
            self.series.iter().filter(|s| s.what == what).map(|s| (s.who, spread(&s.values))).collect();
        all.sort_by(|(_, a), (_, b)| b.median.total_cmp(&a.median));
        if less_is_better(what) {
            all.reverse();
        }
        all
    }

    fn median(&self, what: &str, who: &str) -> Option<f64> {
        let series = self.series.iter().find(|s| s.what == what && s.who == who)?;
        Some(spread(&series.values).median)
    }

    /// Every figure as a table, then what was asked for.
    pub fn text(&self) -> String {
        self.tables(&self.whats())
    }

    fn tables(&self, whats: &[&str]) -> String {
        let mut out = String::new();
        for &what in whats {
            let ours = self.median(what, subject(what));
            let _ = writeln!(
                out,
                "\n**{what}**\n\n| | median | least to greatest | Streamway is |\n|---|---:|---:|---:|"
            );
            for (who, spread) in self.of(what) {
                let ratio = ours
                    .filter(|_| who != subject(what))
                    .map(|ours| format!("{:.2} ×", ours / spread.median));
                let note = if Contestant::is_durable(who) { "" } else { " (not durable)" };
                let _ = writeln!(
                    out,
                    "| {who}{note} | {} | {} to {} | {} |",
                    number(spread.median),
                    number(spread.least),
                    number(spread.greatest),
                    ratio.unwrap_or_default()
                );
            }
        }
        out + &self.asked(whats)
    }

    fn asked(&self, whats: &[&str]) -> String {
        let mut out =
            "\n**What was aimed for**\n\n| figure | beside | aim | measured | |\n|---|---|---:|---:|---|\n"
                .to_owned();
        let mut line = |what: &str, who: &str, aim: String, measured: String, met: bool| {
            let met = if met { "reached" } else { "**missed**" };
            let _ = writeln!(out, "| {what} | {who} | {aim} | {measured} | {met} |");
        };
        for (what, who, want, aim) in TARGETS.iter().filter(|(what, ..)| whats.contains(what)) {
            let (Some(ours), Some(theirs)) = (self.median(what, subject(what)), self.median(what, who))
            else {
                continue;
            };
            let ratio = ours / theirs;
            let aimed = format!("{} {aim} ×", want.sign());
            line(what, who, aimed, format!("{ratio:.2} ×"), want.is_met(ratio, *aim));
        }
        for (what, want, aim) in OWN.iter().filter(|(what, ..)| whats.contains(what)) {
            let Some(ours) = self.median(what, subject(what)) else { continue };
            line(
                what,
                "",
                format!("{} {}", want.sign(), number(*aim)),
                number(ours),
                want.is_met(ours, *aim),
            );
        }
        for (what, beside, want, aim) in RATIOS.iter().filter(|(what, ..)| whats.contains(what)) {
            let of = |what| self.median(what, subject(what));
            let (Some(ours), Some(theirs)) = (of(what), of(beside)) else { continue };
            let aimed = format!("{} {aim} ×", want.sign());
            line(what, beside, aimed, format!("{:.2} ×", ours / theirs), want.is_met(ours / theirs, *aim));
        }
        out
    }

    fn json(&self) -> serde_json::Value {
        let conditions: serde_json::Map<_, _> =
            self.conditions.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
        let series = self.series.iter().map(|s| {
            json!({"figure": s.what, "server": s.who, "durable": Contestant::is_durable(s.who),
                "median": spread(&s.values).median, "rounds": s.values})
        });
        json!({"conditions": conditions, "figures": series.collect::<Vec<_>>()})
    }

    pub fn write(&self, path: &Path) -> Outcome<()> {
        std::fs::write(path, serde_json::to_string_pretty(&self.json())? + "\n")?;
        Ok(())
    }

    /// Fills the marked sections of docs/performance.md, and writes their plots and data beside it: of
    /// those of which there are figures.
    pub fn write_docs(&self) -> Outcome<()> {
        let (groups, others): (Vec<_>, Vec<_>) = self.whats().into_iter().partition(|what| is_group(what));
        let (fleet, alone): (Vec<_>, Vec<_>) = others.into_iter().partition(|what| is_fleet(what));
        self.write_section(&groups, "group figures", "groups.json")?;
        self.write_section(&alone, "figures", "results.json")?;
        self.write_section(&fleet, "fleet figures", "fleet.json")
    }

    fn write_section(&self, whats: &[&'static str], mark: &str, data: &str) -> Outcome<()> {
        if whats.is_empty() {
            return Ok(());
        }
        let dir = docs_dir()?;
        self.write(&dir.join(data))?;
        let mut section = String::new();
        for (name, text) in &self.conditions {
            let _ = writeln!(section, "- {name}: {text}");
        }
        section.push('\n');
        for &what in whats {
            let name = file_name(what);
            std::fs::write(dir.join(&name), plot::bars(what, &self.of(what)))?;
            let _ = writeln!(section, "![{what}](performance/{name})");
        }
        section.push_str(&self.tables(whats));
        fill_section(mark, &section)
    }
}

/// Puts `section` between the marks of docs/performance.md that have this name.
pub fn fill_section(mark: &str, section: &str) -> Outcome<()> {
    let page = clone_dir().join("docs/performance.md");
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->"));
    let text = std::fs::read_to_string(&page)?;
    let cut = || format!("docs/performance.md has no section of {mark}");
    let (head, rest) = text.split_once(&begin).ok_or_else(cut)?;
    let (_, tail) = rest.split_once(&end).ok_or_else(cut)?;
    Ok(std::fs::write(page, format!("{head}{begin}\n{section}\n{end}{tail}"))?)
}

/// Directory of the plots of docs/performance.md and their data; created if missing.
pub fn docs_dir() -> Outcome<PathBuf> {
    let dir = clone_dir().join("docs/performance");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The contestant that the others are compared with.
fn subject(what: &str) -> &'static str {
    if is_fleet(what) { FLEET } else { "Streamway" }
}

fn is_fleet(what: &str) -> bool {
    what.starts_with("fleet ")
}

fn is_group(what: &str) -> bool {
    what.starts_with("group") || what.starts_with("fleet group")
}

fn file_name(what: &str) -> String {
    let words = what.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase() + ".svg"
}

/// Processor, cores, memory and kernel.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} shared cores of {model}, {} GiB, Linux {}; clients and server share the cores",
        kib >> 20,
        kernel.trim()
    )
}
