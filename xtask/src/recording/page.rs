//! The report page: one HTML file with everything in it, for a browser without a network.
//!
//! The page is a template with a place for data. The data are the [`Figures`] that `trace --json` prints, and the slices of
//! the timeline; the script in the template draws them. So the page shows no number that `--json` does not have.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use faultline_trace::Kind;
use serde::Serialize;

use super::Recording;
use super::figures::Figures;
use super::lives::{self, Life, Stage};

const TEMPLATE: &str = include_str!("page.html");

/// Where the data go in the template.
const PLACE: &str = "\"DATA\"";

/// Faults on the timeline at most: the first ones, and of the rest the slowest. The page says so when it leaves any out.
const SHOWN: usize = 400_000;

/// What the page's script gets.
#[derive(Serialize)]
struct Data<'a> {
    figures: &'a Figures,
    /// What is known of the run: names and values.
    about: Vec<(&'a str, &'a str)>,
    stages: [&'static str; Stage::ALL.len()],
    /// Names of kinds; a fault has the number of its kind.
    kinds: Vec<&'static str>,
    /// Names of functions and variables; a fault has the number of its names.
    names: Vec<&'a str>,
    /// How many faults there are in all.
    total: usize,
    faults: Columns,
}

/// The faults on the timeline in the order of their starts, a column for each of their properties: a run of 250,000
/// faults is 20 MB so, and 100 MB as objects.
#[derive(Default, Serialize)]
struct Columns {
    id: Vec<u64>,
    task: Vec<u32>,
    kind: Vec<usize>,
    address: Vec<String>,
    access: Vec<u64>,
    /// Numbers of the names of the address and of the instruction; -1 for none.
    variable: Vec<i64>,
    function: Vec<i64>,
    /// Ticks since the start.
    from: Vec<u64>,
    /// From trap to wake, and from wake to resume.
    service: Vec<u64>,
    wait: Vec<u64>,
    /// The fault whose service it shared; 0 for none.
    joined: Vec<u64>,
    /// Stage, start and end relative to `from`, one after the other.
    stages: Vec<Vec<u64>>,
    /// Where in a fault its service waited for memory or a device, relative to `from`; only of faults that did.
    waits: BTreeMap<u64, Vec<u64>>,
}

/// Writes the page.
///
/// # Errors
/// Passes on what the writer reports.
pub fn write(recording: &Recording, to: &mut dyn Write) -> io::Result<()> {
    let lives = lives::of(recording);
    let kinds = kinds(&lives);
    let mut names = Names::default();
    let mut faults = Columns::default();
    for life in shown(&lives) {
        faults.add(recording, life, &kinds, &mut names);
    }
    let data = Data {
        figures: &Figures::of(recording, &lives),
        about: recording.about().collect(),
        stages: Stage::ALL.map(Stage::name),
        kinds,
        names: names.list,
        total: lives.len(),
        faults,
    };
    let (before, after) = TEMPLATE.split_once(PLACE).expect("the template has a place for data");
    to.write_all(before.as_bytes())?;
    // In a script element only `</` could end it; `<` can be written otherwise inside of JSON strings, where it is.
    let json = serde_json::to_string(&data)?;
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
        rest.sort_by_key(|life| std::cmp::Reverse(life.service()));
        rest.truncate(SHOWN - SHOWN / 2);
        all.append(&mut rest);
    }
    all.sort_by_key(|life| life.times.0);
    all
}

/// Texts, each once.
#[derive(Default)]
struct Names<'a> {
    list: Vec<&'a str>,
    places: HashMap<&'a str, i64>,
}

impl<'a> Names<'a> {
    fn place(&mut self, name: Option<&'a str>) -> i64 {
        let Some(name) = name else { return -1 };
        *self.places.entry(name).or_insert_with(|| {
            self.list.push(name);
            self.list.len() as i64 - 1
        })
    }
}

impl Columns {
    fn add<'a>(&mut self, recording: &'a Recording, life: &Life, kinds: &[&'static str], names: &mut Names<'a>) {
        let start = life.times.0;
        let name = |address| recording.name(life.space, address);
        self.id.push(life.id);
        self.task.push(life.task);
        self.kind
            .push(kinds.iter().position(|kind| *kind == life.kind()).unwrap_or(0));
        self.address.push(format!("{:x}", life.address));
        self.access.push(life.access);
        self.variable.push(names.place(name(life.address)));
        self.function.push(names.place(life.instruction.and_then(name)));
        self.from.push(start.saturating_sub(recording.start));
        self.service.push(life.service());
        self.wait.push(life.cpu_wait());
        self.joined.push(life.shared_with.unwrap_or(0));
        let stages = life.stages.iter();
        self.stages.push(
            stages
                .flat_map(|&(stage, from, to)| [stage as u64, from - start, to - start])
                .collect(),
        );
        let events = life.events.iter().map(|&index| &recording.events[index]);
        let waits: Vec<u64> = events
            .filter(|event| event.kind == Kind::FaultWait)
            .map(|event| event.time - start)
            .collect();
        if !waits.is_empty() {
            self.waits.insert(life.id, waits);
        }
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
        assert_eq!(data["names"][0], "x</script><b>");
        assert_eq!(data["faults"]["variable"], serde_json::json!([0, -1, -1]));
        assert_eq!(data["total"], 3);
        assert_eq!(data["faults"]["joined"], serde_json::json!([0, 7, 0]));
        assert_eq!(
            data["faults"]["stages"][1],
            serde_json::json!([0, 0, 30, 1, 30, 130, 6, 130, 180])
        );
    }
}
