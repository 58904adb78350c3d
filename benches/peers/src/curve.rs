//! Plots of scaling as SVG: records per second and memory against an amount, on logarithmic axes, so that a cliff is
//! visible as one.

use std::fmt::Write as _;

use crate::figures::number;
use crate::plot::{WIDTH, head};

const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 44.0;

/// A line: its name, its colour, and one value for each label.
pub struct Line<'a> {
    pub what: &'a str,
    pub colour: &'a str,
    pub values: Vec<f64>,
}

/// Lines over the same evenly spaced labels, each on its own logarithmic scale.
pub fn lines(title: &str, labels: &[String], lines: &[Line<'_>]) -> String {
    let x = |n: usize| LEFT + n as f64 / (labels.len() - 1).max(1) as f64 * (WIDTH - LEFT - RIGHT);
    let mut out = head(title, HEIGHT, 12);
    for (n, label) in labels.iter().enumerate() {
        let (x, y) = (x(n), HEIGHT - 16.0);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#1c2733\">{label}</text>"
        );
    }
    for (n, line) in lines.iter().enumerate() {
        let at = 12.0 + 280.0 * n as f64;
        let _ = writeln!(
            out,
            "<text x=\"{at}\" y=\"44\" fill=\"{}\">{}, by powers of ten</text>",
            line.colour, line.what
        );
        draw(&mut out, line, x);
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, line: &Line<'_>, x: impl Fn(usize) -> f64) {
    let log = |value: f64| value.max(1e-3).log10();
    let least = line.values.iter().copied().map(log).fold(f64::MAX, f64::min).floor();
    // At least two powers of ten, so that noise does not look like a cliff.
    let most = line.values.iter().copied().map(log).fold(f64::MIN, f64::max).ceil().max(least + 2.0);
    let y = |value: f64| HEIGHT - BOTTOM - (log(value) - least) / (most - least) * (HEIGHT - TOP - BOTTOM);
    let points: Vec<_> = line.values.iter().enumerate().map(|(n, value)| (x(n), y(*value), *value)).collect();
    let way: Vec<_> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
        way.join(" "),
        line.colour
    );
    for (x, y, value) in points {
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{0}\"/><text x=\"{x:.1}\" y=\"{1:.1}\" \
             text-anchor=\"middle\" fill=\"{0}\">{2}</text>",
            line.colour,
            y - 7.0,
            number(value)
        );
    }
}
