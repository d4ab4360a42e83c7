//! A figure of an experiment as a picture: along the axis the values of a parameter, for each series the medians as dots
//! and the range of the repetitions as a line through them.

use std::collections::BTreeMap;

use svg::Document;
use svg::node::element::{Circle, Line, Polyline, Style, Text};

use super::plan::{self, Experiment, Figure};
use super::results::{Combination, Spread};

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;
/// A line of the legend.
const ENTRY: f64 = 18.0;

/// Readable on a light and on a dark page.
const STYLE: &str = "text{font:13px sans-serif;fill:#57606a}.title{font-weight:600}.small{font-size:11px}\
    line,polyline{fill:none;stroke-width:1.5}.grid{stroke:#8c959f;stroke-opacity:.35;stroke-width:1}\
    .c0{stroke:#1f883d}.c1{stroke:#0969da}.c2{stroke:#bc4c00}.c3{stroke:#8250df}.c4{stroke:#bf3989}.c5{stroke:#57606a}\
    circle.c0{fill:#1f883d}circle.c1{fill:#0969da}circle.c2{fill:#bc4c00}circle.c3{fill:#8250df}circle.c4{fill:#bf3989}\
    circle.c5{fill:#57606a}@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}";

/// How many colours there are.
const COLOURS: usize = 6;

/// Draws a figure; none if no run has it.
#[must_use]
pub fn draw(experiment: &Experiment, figure: &Figure, combinations: &[Combination]) -> Option<String> {
    let axis = experiment.axis().unwrap_or("program");
    let order = places(experiment, axis);
    // Series and place on the axis; a system without the parameter has the same value everywhere.
    let mut series = BTreeMap::<String, BTreeMap<usize, Spread>>::new();
    for combination in combinations {
        let Some(spread) = combination.figures.get(&figure.name) else {
            continue;
        };
        let value = match axis {
            "program" => Some(&combination.program),
            _ => combination.parameters.get(axis),
        };
        let line = series.entry(name(experiment, combination, axis)).or_default();
        match value.and_then(|value| order.iter().position(|known| known == value)) {
            Some(place) => drop(line.insert(place, *spread)),
            None => line.extend((0..order.len()).map(|place| (place, *spread))),
        }
    }
    let spreads = series.values().flat_map(BTreeMap::values);
    let most = spreads.map(|spread| spread.most).max_by(f64::total_cmp)?;
    let top = round_up(most);
    let height = HEIGHT + ENTRY * series.len() as f64;
    let floor = HEIGHT - BOTTOM;
    let x = |place: usize| LEFT + (place as f64 + 0.5) / order.len() as f64 * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| floor - value / top * (floor - TOP);
    let title = match figure.unit.as_str() {
        "" => format!("{}: {}", experiment.title, figure.name),
        unit => format!("{}: {}, {unit}", experiment.title, figure.name),
    };
    let mut picture = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("role", "img")
        .add(Style::new(STYLE))
        .add(text(&title, 16.0, 26.0, "title", "start"));
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        picture = picture
            .add(line((LEFT, y(value)), (WIDTH - RIGHT, y(value)), "grid"))
            .add(text(&number(value), LEFT - 8.0, y(value) + 4.0, "small", "end"));
    }
    for (place, value) in order.iter().enumerate() {
        picture = picture.add(text(value, x(place), floor + 20.0, "small", "middle"));
    }
    picture = picture.add(text(
        axis,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        floor + 40.0,
        "name",
        "middle",
    ));
    for (index, (name, values)) in series.iter().enumerate() {
        let colour = format!("c{}", index % COLOURS);
        let points: Vec<String> = values
            .iter()
            .map(|(place, spread)| format!("{:.1},{:.1}", x(*place), y(spread.median)))
            .collect();
        picture = picture.add(
            Polyline::new()
                .set("class", colour.as_str())
                .set("points", points.join(" ")),
        );
        for (place, spread) in values {
            let at = x(*place);
            picture = picture
                .add(line((at, y(spread.least)), (at, y(spread.most)), &colour))
                .add(dot(at, y(spread.median), &colour));
        }
        let entry = HEIGHT + ENTRY * index as f64;
        picture = picture
            .add(dot(LEFT, entry - 4.0, &colour))
            .add(text(name, LEFT + 12.0, entry, "small", "start"));
    }
    Some(picture.to_string() + "\n")
}

/// The values along the axis, in the order in which the experiment has them.
fn places(experiment: &Experiment, axis: &str) -> Vec<String> {
    match experiment.parameters.get(axis) {
        Some(values) => values.iter().map(plan::text).collect(),
        None => experiment.programs.iter().map(|program| program.name.clone()).collect(),
    }
}

/// What tells a series from the others.
fn name(experiment: &Experiment, combination: &Combination, axis: &str) -> String {
    let mut parts = vec![combination.system.clone()];
    if experiment.programs.len() > 1 && axis != "program" {
        parts.push(combination.program.clone());
    }
    let others = combination.parameters.iter().filter(|(name, _)| {
        name.as_str() != axis && experiment.parameters.get(*name).is_some_and(|values| values.len() > 1)
    });
    parts.extend(others.map(|(name, value)| format!("{name} {value}")));
    parts.join(", ")
}

/// The next of 1, 2, 4, 5, 8, 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let fits = steps.into_iter().map(|step| step * power).find(|step| *step >= value);
    fits.unwrap_or(value)
}

fn number(value: f64) -> String {
    match value {
        _ if value >= 1000.0 || value.fract() == 0.0 => crate::report::grouped(&format!("{value:.0}")),
        _ => format!("{value:.2}"),
    }
}

fn text(content: &str, x: f64, y: f64, class: &str, anchor: &str) -> Text {
    Text::new(content)
        .set("class", class)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
}

fn line(from: (f64, f64), to: (f64, f64), class: &str) -> Line {
    Line::new()
        .set("class", class)
        .set("x1", from.0)
        .set("y1", from.1)
        .set("x2", to.0)
        .set("y2", to.1)
}

fn dot(x: f64, y: f64, class: &str) -> Circle {
    Circle::new().set("class", class).set("cx", x).set("cy", y).set("r", 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_number() {
        assert_eq!([0.0, 0.3, 1.0, 43.0, 650.0].map(round_up), [1.0, 0.4, 1.0, 50.0, 800.0]);
    }
}
