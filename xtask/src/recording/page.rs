//! The report page: one HTML file with everything in it, for a browser without a network.
//!
//! The page is a template with a place for data. The data are the [`Figures`] that `trace --json` prints, and the slices of
//! the timeline; the script in the template draws them. So the page shows no number that `--json` does not have.

use std::io::{self, Write};

use serde::Serialize;

use super::figures::Figures;
use super::lives::{self, Life, Stage};
use super::{Recording, text};

const TEMPLATE: &str = include_str!("page.html");

/// Where the data go in the template.
const PLACE: &str = "\"DATA\"";

/// Faults on the timeline at most: the first ones, and of the rest the slowest.
const SHOWN: usize = 20_000;

/// What the page's script gets.
#[derive(Serialize)]
struct Data<'a> {
    figures: Figures,
    stages: [&'static str; Stage::ALL.len()],
    /// Names of kinds; a fault has the number of its kind.
    kinds: Vec<&'static str>,
    /// How many faults there are in all.
    total: usize,
    faults: Vec<Fault<'a>>,
}

/// A fault on the timeline.
#[derive(Serialize)]
struct Fault<'a> {
    id: u64,
    task: u32,
    kind: usize,
    address: String,
    access: &'static str,
    /// The function or variable of the address, and of the instruction.
    names: [Option<&'a str>; 2],
    /// Ticks since the start.
    from: u64,
    to: u64,
    /// Stage, start and end, relative to `from`.
    stages: Vec<(usize, u64, u64)>,
}

/// Writes the page.
///
/// # Errors
/// Passes on what the writer reports.
pub fn write(recording: &Recording, to: &mut dyn Write) -> io::Result<()> {
    let lives = lives::of(recording);
    let data = Data {
        figures: Figures::of(recording, &lives),
        stages: Stage::ALL.map(Stage::name),
        kinds: kinds(&lives),
        total: lives.len(),
        faults: Vec::new(),
    };
    let data = Data {
        faults: shown(&lives)
            .into_iter()
            .map(|life| fault(recording, life, &data.kinds))
            .collect(),
        ..data
    };
    let json = serde_json::to_string(&data)?;
    let (before, after) = TEMPLATE.split_once(PLACE).expect("the template has a place for data");
    to.write_all(before.as_bytes())?;
    // In a script element only `</` could end it; `<` can be written otherwise inside of JSON strings, where it is.
    to.write_all(json.replace('<', "\\u003c").as_bytes())?;
    to.write_all(after.as_bytes())
}

fn kinds(lives: &[Life]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for life in lives {
        if !kinds.contains(&life.kind()) {
            kinds.push(life.kind());
        }
    }
    kinds
}

/// The faults of the timeline, in the order of their starts.
fn shown(lives: &[Life]) -> Vec<&Life> {
    let mut all: Vec<&Life> = lives.iter().collect();
    if all.len() > SHOWN {
        let mut rest = all.split_off(SHOWN / 2);
        rest.sort_by_key(|life| std::cmp::Reverse(life.length()));
        rest.truncate(SHOWN - SHOWN / 2);
        all.append(&mut rest);
    }
    all.sort_by_key(|life| life.times.0);
    all
}

fn fault<'a>(recording: &'a Recording, life: &Life, kinds: &[&'static str]) -> Fault<'a> {
    let start = life.times.0;
    let place = |stage| Stage::ALL.iter().position(|other| *other == stage).unwrap_or(0);
    let stages = life.stages.iter();
    Fault {
        id: life.id,
        task: life.task,
        kind: kinds.iter().position(|kind| *kind == life.kind()).unwrap_or(0),
        address: format!("{:#x}", life.address),
        access: text::access(life.access),
        names: [
            recording.name(life.space, life.address),
            life.instruction.and_then(|address| recording.name(life.space, address)),
        ],
        from: start.saturating_sub(recording.start),
        to: life.times.1.saturating_sub(recording.start),
        stages: stages
            .map(|&(stage, from, to)| (place(stage), from - start, to - start))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lives::tests::meeting;
    use super::*;

    #[test]
    fn a_page_is_whole_and_has_nothing_from_elsewhere() {
        let mut recording = meeting();
        recording.names.insert((1, 0x5010), "x</script><b>".to_owned());
        let mut page = Vec::new();
        write(&recording, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("</script>").count(), 2, "a name can't end the script");
        for outside in ["http://", "https://", "src=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let data = page.split_once("id=\"data\" type=\"application/json\">").unwrap().1;
        let data: serde_json::Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(data["faults"][0]["names"][0], "x</script><b>");
        assert_eq!(data["total"], 3);
        assert_eq!(data["faults"][0]["stages"][0], serde_json::json!([0, 0, 40]));
    }
}
