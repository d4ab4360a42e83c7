//! The figures beside those of Linux as a picture: a pair of bars for each operation, on a logarithmic scale, and how many
//! times as long Linux's is.

use svg::Document;
use svg::node::element::{Line, Rectangle, Style, Text};

use crate::report::grouped;

/// Lengths in units of the picture.
const LABELS: f64 = 345.0;
const PLOT: f64 = 480.0;
const NUMBERS: f64 = 110.0;
const TOP: f64 = 64.0;
const ROW: f64 = 34.0;
const BAR: f64 = 12.0;

/// The left end of the scale, as a power of ten.
const FROM: f64 = 1.0;

/// Readable on a light and on a dark page.
const STYLE: &str = "text{font:13px sans-serif;fill:#57606a}.title{font-weight:600}.number{font-size:11px}\
    .ours{fill:#1f883d}.linux{fill:#8c959f}.grid{stroke:#8c959f;stroke-opacity:.35}\
    @media(prefers-color-scheme:dark){text{fill:#c9d1d9}.ours{fill:#3fb950}}";

/// An operation of both systems.
pub struct Pair {
    /// What it is called.
    pub name: String,
    /// What it costs here.
    pub ours: u64,
    /// What it costs on Linux.
    pub linux: u64,
}

/// Draws the operations that cost more than the left end of the scale; `None` if there is none. The names are ours and
/// Linux's.
pub fn draw(title: &str, names: [&str; 2], pairs: &[Pair]) -> Option<String> {
    let rows: Vec<_> = pairs.iter().filter(|pair| pair.ours > 10 && pair.linux > 10).collect();
    let largest = rows.iter().map(|pair| pair.ours.max(pair.linux)).max()?;
    let to = (largest as f64).log10().ceil();
    let x = |value: f64| LABELS + (value.log10() - FROM) / (to - FROM) * PLOT;
    let bottom = TOP + ROW * rows.len() as f64;
    let (width, height) = (LABELS + PLOT + NUMBERS, bottom + 24.0);
    let mut picture = Document::new()
        .set("viewBox", (0.0, 0.0, width, height))
        .set("role", "img")
        .add(Style::new(STYLE))
        .add(text(title, 16.0, 22.0, "title"));
    for (class, name, at) in [("ours", names[0], 16.0), ("linux", names[1], 250.0)] {
        picture = picture
            .add(bar(at, 36.0, BAR, class))
            .add(text(name, at + BAR + 6.0, 47.0, "key"));
    }
    for power in (FROM as i32)..=(to as i32) {
        let value = 10f64.powi(power);
        let grid = Line::new()
            .set("class", "grid")
            .set("x1", x(value))
            .set("x2", x(value))
            .set("y1", TOP - 4.0)
            .set("y2", bottom);
        let label = text(&grouped(&value.to_string()), x(value), bottom + 16.0, "number").set("text-anchor", "middle");
        picture = picture.add(grid).add(label);
    }
    for (row, Pair { name, ours, linux }) in rows.into_iter().enumerate() {
        let (ours, linux) = (*ours, *linux);
        let y = TOP + ROW * row as f64 + 4.0;
        picture = picture.add(text(name, LABELS - 8.0, y + BAR + 4.0, "name").set("text-anchor", "end"));
        let ratio = format!(" ({:.1}×)", linux as f64 / ours as f64);
        for (value, class, y, ratio) in [(ours, "ours", y, ""), (linux, "linux", y + BAR, ratio.as_str())] {
            let end = x(value as f64);
            picture = picture.add(bar(LABELS, y, end - LABELS, class)).add(text(
                &(grouped(&value.to_string()) + ratio),
                end + 4.0,
                y + BAR - 2.0,
                "number",
            ));
        }
    }
    Some(picture.to_string() + "\n")
}

fn bar(x: f64, y: f64, length: f64, class: &str) -> Rectangle {
    Rectangle::new()
        .set("class", class)
        .set("x", x)
        .set("y", y)
        .set("width", length)
        .set("height", BAR)
}

fn text(content: &str, x: f64, y: f64, class: &str) -> Text {
    Text::new(content).set("class", class).set("x", x).set("y", y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_of_both_systems_has_two_bars() {
        assert_eq!(draw("title", ["ours", "Linux"], &[]), None);
        let pair = |name: &str| Pair {
            name: name.to_owned(),
            ours: 500,
            linux: 5000,
        };
        let picture = draw("title", ["ours", "Linux"], &[pair("one"), pair("two < three")]).unwrap();
        // Two in the legend.
        assert_eq!(picture.matches("<rect").count(), 6);
        assert!(
            picture.contains("two &lt; three") && picture.contains("5,000 (10.0×)"),
            "{picture}"
        );
    }
}
