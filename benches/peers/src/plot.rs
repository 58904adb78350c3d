//! Bar charts as SVG: one figure for all contestants.

use std::fmt::Write as _;

use crate::contestant::{Contestant, FLEET};
use crate::figures::{Spread, number};

/// Width of every plot.
pub const WIDTH: f64 = 720.0;
const BAR: f64 = 22.0;
const STEP: f64 = 32.0;
const TOP: f64 = 44.0;
const LEFT: f64 = 190.0;
/// Room for the value after the longest bar.
const RIGHT: f64 = 110.0;

/// Draws a bar for the median, with a line from the minimum to the maximum.
pub fn bars(title: &str, all: &[(&str, Spread)]) -> String {
    let greatest = all.iter().map(|(_, spread)| spread.greatest).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + value / greatest * (WIDTH - LEFT - RIGHT);
    let height = TOP + STEP * all.len() as f64 + 8.0;
    let mut out = head(title, height, 13);
    for (n, (who, spread)) in all.iter().enumerate() {
        let y = TOP + STEP * n as f64;
        let middle = y + BAR / 2.0;
        let (durable, colour) = match *who {
            "Streamway" | FLEET => (true, "#1f6feb"),
            "limit" => (true, "#c9d1d9"),
            who => (Contestant::is_durable(who), "#8b949e"),
        };
        let label = if durable { (*who).to_owned() } else { format!("{who} (not durable)") };
        let (width, end) = (x(spread.median) - LEFT, x(spread.greatest) + 6.0);
        let _ = write!(
            out,
            "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\" fill=\"#1c2733\">{label}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
             <path d=\"M{2:.1} {middle}H{3:.1}\" stroke=\"#1c2733\"/>\n\
             <text x=\"{end:.1}\" y=\"{1}\" fill=\"#1c2733\">{4}</text>\n",
            LEFT - 8.0,
            middle + 5.0,
            x(spread.least),
            x(spread.greatest),
            number(spread.median)
        );
    }
    out + "</svg>\n"
}

/// Opening of a plot: size, font, and title on white.
pub fn head(title: &str, height: f64, letters: u8) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"{letters}\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\" fill=\"#1c2733\">{title}</text>\n"
    )
}
