//! An experiment as a person writes it, and the runs that come of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::cli::values::{closest, megabytes};
use crate::config::keys;
use crate::machine::Accel;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it is about.
    pub title: String,
    /// How often each combination is run; with a `seed` among the parameters once is enough.
    #[serde(default = "once")]
    pub repeat: u32,
    /// `icount`, which counts instructions, or `tcg`.
    #[serde(default = "icount")]
    pub accel: String,
    /// `faultline`, `linux` (Debian's kernels), or the file of a Linux kernel.
    #[serde(default = "faultline")]
    pub systems: Vec<String>,
    /// Seconds after which a run counts as hanging.
    #[serde(default = "limit")]
    pub timeout: f64,
    /// What is run.
    #[serde(rename = "program")]
    pub programs: Vec<Program>,
    /// Lists of values: `memory`, or any key of the kernel's configuration. Every combination is run.
    #[serde(default)]
    pub parameters: BTreeMap<String, Vec<Value>>,
    /// What is read of each run.
    #[serde(rename = "figure")]
    pub figures: Vec<Figure>,
    /// The parameter along the axis of the plots; the first that has several values, if none is named.
    pub x: Option<String>,
}

fn once() -> u32 {
    1
}
fn icount() -> String {
    "icount".to_owned()
}
fn faultline() -> Vec<String> {
    vec![FAULTLINE.to_owned()]
}
fn limit() -> f64 {
    300.0
}

/// The name of our own system.
pub const FAULTLINE: &str = "faultline";

/// The parameter that is not a key of the configuration.
pub const MEMORY: &str = "memory";

/// A program with its arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// What tables call it.
    pub name: String,
    /// A sample task or a file, then its arguments.
    pub command: Vec<String>,
}

/// One figure of a run: a number in the kernel's report, or in a line of the program's output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What tables call it.
    pub name: String,
    /// Its unit, for the axis.
    #[serde(default)]
    pub unit: String,
    /// A key of the kernel's report. Linux gives none.
    pub report: Option<String>,
    /// Text in the line of output that has it.
    pub line: Option<String>,
    /// The number after `FIELD=` in that line.
    pub field: Option<String>,
}

/// One run to make: everything that tells it from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The system.
    pub system: String,
    /// The program's name.
    pub program: String,
    /// The parameters that the system has.
    pub parameters: BTreeMap<String, String>,
    /// Which of the repetitions it is, from 1.
    pub repetition: u32,
}

impl Experiment {
    /// Reads a file and checks everything that can be checked before a run.
    ///
    /// # Errors
    /// Says what is wrong, and where.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
        let experiment: Self = toml::from_str(&text).with_context(|| format!("{} is no experiment", path.display()))?;
        experiment.check().with_context(|| path.display().to_string())?;
        Ok(experiment)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.accel()?;
        if self.programs.is_empty() || self.figures.is_empty() || self.systems.is_empty() || self.repeat == 0 {
            bail!("an experiment has at least one program, one figure, one system and one repetition");
        }
        for program in &self.programs {
            if program.command.is_empty() {
                bail!("the program {:?} has no command", program.name);
            }
        }
        for figure in &self.figures {
            match (&figure.report, &figure.line, &figure.field) {
                (Some(_), None, None) | (None, Some(_), Some(_)) => {}
                _ => bail!(
                    "the figure {:?} has neither `report` nor `line` with `field`",
                    figure.name
                ),
            }
        }
        for (name, values) in &self.parameters {
            let known = keys::KEYS.iter().map(|key| key.name).chain([MEMORY]);
            let key = keys::find(name);
            if key.is_none() && name != MEMORY {
                let meant = closest(name, known).map_or_else(String::new, |meant| format!(" (`{meant}`?)"));
                bail!("there is no parameter `{name}`{meant}; run --config help lists them, and `memory` is one more");
            }
            if values.is_empty() {
                bail!("the parameter `{name}` has no value");
            }
            for value in values.iter().map(text) {
                match key {
                    Some(key) if !key.values.take(&value) => bail!("`{name}` does not take the value {value}"),
                    None => drop(megabytes(&value).map_err(|error| anyhow::anyhow!("memory {value}: {error}"))?),
                    Some(_) => {}
                }
            }
        }
        if let Some(x) = &self.x
            && !self.parameters.contains_key(x)
        {
            bail!("`x` names {x:?}, which is no parameter of the experiment");
        }
        Ok(())
    }

    /// How instructions are executed.
    ///
    /// # Errors
    /// Names what is neither of the two.
    pub fn accel(&self) -> anyhow::Result<Accel> {
        match self.accel.as_str() {
            "icount" => Ok(Accel::Icount),
            "tcg" => Ok(Accel::Tcg),
            other => bail!("`accel` is icount or tcg, not {other:?}"),
        }
    }

    /// Every run, in the order in which they are made. A system that a parameter means nothing to is run once for all its
    /// values. `linux` names the Linux kernels that `linux` stands for.
    #[must_use]
    pub fn runs(&self, linux: &[String]) -> Vec<Run> {
        let mut runs = Vec::new();
        let systems = self.systems.iter().flat_map(|system| match system.as_str() {
            "linux" => linux.to_vec(),
            other => vec![other.to_owned()],
        });
        for system in systems {
            let has = |name: &str| system == FAULTLINE || name == MEMORY;
            let parameters = self.parameters.iter().filter(|(name, _)| has(name));
            let mut combinations = vec![BTreeMap::new()];
            for (name, values) in parameters {
                combinations = combinations
                    .iter()
                    .flat_map(|one| {
                        values.iter().map(|value| {
                            let mut more = one.clone();
                            more.insert(name.clone(), text(value));
                            more
                        })
                    })
                    .collect();
            }
            for program in &self.programs {
                for parameters in &combinations {
                    runs.extend((1..=self.repeat).map(|repetition| Run {
                        system: system.clone(),
                        program: program.name.clone(),
                        parameters: parameters.clone(),
                        repetition,
                    }));
                }
            }
        }
        runs
    }

    /// The parameter along the axis.
    #[must_use]
    pub fn axis(&self) -> Option<&str> {
        let several = || self.parameters.iter().find(|(_, values)| values.len() > 1);
        self.x.as_deref().or_else(|| several().map(|(name, _)| name.as_str()))
    }
}

/// A value as the configuration has it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Boolean(true) => "on".to_owned(),
        Value::Boolean(false) => "off".to_owned(),
        other => other.to_string(),
    }
}

/// One of several equal parts of the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1.
    pub part: usize,
    /// How many there are.
    pub of: usize,
}

impl std::str::FromStr for Shard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text
            .split_once('/')
            .and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((part, of)) if (1..=of).contains(&part) => Ok(Self { part, of }),
            _ => Err("not of the form K/N with K from 1 to N"),
        }
    }
}

impl Shard {
    /// Whether the run of this number is in the part.
    #[must_use]
    pub const fn has(self, index: usize) -> bool {
        index % self.of == self.part - 1
    }

    /// The file that has the results of the part.
    #[must_use]
    pub fn file(self, folder: &Path) -> PathBuf {
        folder.join(match self.of {
            1 => "results.jsonl".to_owned(),
            of => format!("results-{}-of-{of}.jsonl", self.part),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        title = "t"
        repeat = 2
        systems = ["faultline", "linux"]
        [parameters]
        fault = ["queued", "inline"]
        memory = ["64M", "128M", "256M"]
        [[program]]
        name = "touch"
        command = ["touch", "--pages", "3"]
        [[figure]]
        name = "faults"
        report = "faults.total"
    "#;

    fn read(text: &str) -> anyhow::Result<Experiment> {
        let experiment: Experiment = toml::from_str(text)?;
        experiment.check()?;
        Ok(experiment)
    }

    #[test]
    fn every_combination_is_run_and_linux_once_for_what_it_does_not_have() {
        let experiment = read(SMALL).unwrap();
        let runs = experiment.runs(&["Linux 6".to_owned()]);
        let ours = runs.iter().filter(|run| run.system == FAULTLINE).count();
        assert_eq!((runs.len(), ours), (2 * 6 + 2 * 3, 12));
        assert_eq!(experiment.axis(), Some("fault"));
    }

    #[test]
    fn the_parts_of_an_experiment_are_all_of_it() {
        let parts: Vec<Shard> = ["1/3", "2/3", "3/3"].map(|text| text.parse().unwrap()).to_vec();
        for index in 0..10 {
            assert_eq!(parts.iter().filter(|part| part.has(index)).count(), 1);
        }
        assert!("0/3".parse::<Shard>().is_err() && "4/3".parse::<Shard>().is_err());
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for (from, to, says) in [
            ("fault =", "falt =", "(`fault`?)"),
            ("\"inline\"", "\"outline\"", "does not take the value outline"),
            ("64M", "lots", "memory lots"),
            ("repeat = 2", "repeat = 0", "at least one"),
            ("report = \"faults.total\"", "line = \"x\"", "neither"),
            ("title = \"t\"", "title = \"t\"\nx = \"seed\"", "no parameter"),
        ] {
            let error = format!("{:#}", read(&SMALL.replace(from, to)).unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
