//! The tables of docs/telemetry.md, made from the names; a test compares the page with them.
//! `UPDATE_DOCS=1 cargo test --lib telemetry::document` writes them again.

use std::fmt::Write;

use super::names::{ATTRIBUTES, METRICS, SPANS};
use super::prometheus;

fn tables() -> String {
    let mut out = String::from(
        "## Metrics\n\n| OTLP | Prometheus | Kind | Unit | Labels | Tells |\n|---|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, kind) = (prometheus::name(metric), format!("{:?}", metric.kind).to_lowercase());
        let _ = writeln!(
            out,
            "| `{}` | `{name}` | {kind} | `{}` | {labels} | {} |",
            metric.name, metric.unit, metric.help
        );
    }
    out.push_str("\n## Spans\n\n| Name | When |\n|---|---|\n");
    for span in SPANS {
        let _ = writeln!(out, "| `{}` | {} |", span.name, span.help);
    }
    out.push_str("\n## Attributes of spans\n\n| Name | Holds |\n|---|---|\n");
    for (name, help) in ATTRIBUTES {
        let _ = writeln!(out, "| `{name}` | {help} |");
    }
    out
}

#[test]
fn the_page_has_the_names_of_the_code() {
    const MARK: &str = "<!-- generated -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (words, found) = page.split_once(MARK).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{words}{MARK}{}", tables())).unwrap();
        return;
    }
    assert_eq!(found, tables(), "run UPDATE_DOCS=1 cargo test --lib telemetry::document");
}
