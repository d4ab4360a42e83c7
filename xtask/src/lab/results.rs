//! What runs came to: a line of JSON for each, from which an interrupted experiment goes on, and the tables made of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::plan::{Experiment, Run};

/// What one run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result {
    /// The run.
    pub run: Run,
    /// Its figures, those that it has.
    pub figures: BTreeMap<String, f64>,
    /// Host seconds.
    pub seconds: f64,
    /// The experiment as it was, so that a changed one begins anew.
    pub fingerprint: u32,
}

/// Results by their runs.
pub type Results = BTreeMap<Run, Result>;

/// Reads every file of results in a folder. A line that was cut off is left out: its run is made again.
///
/// # Errors
/// Names a file that can't be read.
pub fn read(folder: &Path, fingerprint: u32) -> anyhow::Result<Results> {
    let mut results = Results::new();
    let files = fs::read_dir(folder).with_context(|| format!("{} can't be read", folder.display()))?;
    for file in files.flatten().map(|file| file.path()) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("results") || !name.ends_with(".jsonl") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("{} can't be read", file.display()))?;
        let found = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Result>(line).ok());
        let found = found.filter(|result| result.fingerprint == fingerprint);
        results.extend(found.map(|result| (result.run.clone(), result)));
    }
    Ok(results)
}

/// Adds a line to a file.
///
/// # Errors
/// Names the file that can't be written.
pub fn append(path: &Path, result: &Result) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(result)?;
    line.push(b'\n');
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("{} can't be written", path.display()))?;
    file.write_all(&line)
        .with_context(|| format!("{} can't be written", path.display()))
}

/// Median and range of a figure over the repetitions and seeds of one combination.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many values.
    pub count: usize,
    /// The least.
    pub least: f64,
    /// The one in the middle; of two, the mean.
    pub median: f64,
    /// The greatest.
    pub most: f64,
}

impl Spread {
    /// Of these values; none of none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[half - 1], values[half]),
            _ => values[half],
        };
        let count = values.len();
        Some(Self {
            count,
            least,
            median,
            most,
        })
    }
}

/// The columns of a table: every parameter of the experiment.
fn parameters(experiment: &Experiment) -> Vec<&str> {
    experiment.parameters.keys().map(String::as_str).collect()
}

/// A line a run, as CSV.
#[must_use]
pub fn csv(experiment: &Experiment, results: &Results) -> String {
    let field = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let parameters = parameters(experiment);
    let mut heads = vec!["system", "program"];
    heads.extend(&parameters);
    heads.push("repetition");
    let figures = experiment.figures.iter().map(|figure| figure.name.as_str());
    heads.extend(figures);
    heads.push("host_seconds");
    let mut text = heads.into_iter().map(field).collect::<Vec<_>>().join(",") + "\n";
    for Result {
        run, figures, seconds, ..
    } in results.values()
    {
        let mut line = vec![field(&run.system), field(&run.program)];
        let value = |name: &&str| field(run.parameters.get(*name).map_or("", String::as_str));
        line.extend(parameters.iter().map(value));
        line.push(run.repetition.to_string());
        let number = |name: &str| figures.get(name).map_or_else(String::new, f64::to_string);
        line.extend(experiment.figures.iter().map(|figure| number(&figure.name)));
        line.push(format!("{seconds:.3}"));
        text += &(line.join(",") + "\n");
    }
    text
}

/// A combination of the experiment with what its repetitions and seeds came to.
#[derive(Clone, Debug, Serialize)]
pub struct Combination {
    /// The system.
    pub system: String,
    /// The program.
    pub program: String,
    /// The parameters but the seed.
    pub parameters: BTreeMap<String, String>,
    /// Each figure.
    pub figures: BTreeMap<String, Spread>,
}

/// The combinations, repetitions and seeds put together.
#[must_use]
pub fn combinations(results: &Results) -> Vec<Combination> {
    let mut groups = BTreeMap::<_, BTreeMap<String, Vec<f64>>>::new();
    for Result { run, figures, .. } in results.values() {
        let mut parameters = run.parameters.clone();
        parameters.remove("seed");
        let group = groups
            .entry((run.program.clone(), run.system.clone(), parameters))
            .or_default();
        for (name, value) in figures {
            group.entry(name.clone()).or_default().push(*value);
        }
    }
    groups
        .into_iter()
        .map(|((program, system, parameters), figures)| Combination {
            system,
            program,
            parameters,
            figures: figures
                .into_iter()
                .filter_map(|(name, values)| Some((name, Spread::of(values)?)))
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        let spread = Spread::of(vec![5.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 5.0));
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn results_are_read_back_but_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results-1-of-2.jsonl");
        let result = |repetition: u32, fingerprint| Result {
            run: Run {
                system: "faultline".to_owned(),
                program: "p".to_owned(),
                parameters: BTreeMap::from([("seed".to_owned(), repetition.to_string())]),
                repetition,
            },
            figures: BTreeMap::from([("f".to_owned(), f64::from(repetition))]),
            seconds: 1.0,
            fingerprint,
        };
        for (repetition, fingerprint) in [(1, 7), (2, 7), (3, 8)] {
            append(&file, &result(repetition, fingerprint)).unwrap();
        }
        let whole = fs::read(&file).unwrap();
        fs::write(&file, [&whole[..], b"{\"run\":{\"sys"].concat()).unwrap();
        let read = read(folder.path(), 7).unwrap();
        assert_eq!(read.len(), 2);
        let combined = combinations(&read);
        assert_eq!((combined.len(), combined[0].figures["f"].median), (1, 1.5));
    }
}
