//! What the sample task `bench` prints with `--fields`, read.

use std::collections::BTreeMap;

use serde::Serialize;

/// The figures of one operation: guest instructions, or ticks of the time-stamp counter under plain TCG.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How often it was measured.
    pub runs: u64,
    /// The least.
    pub min: u64,
    /// Half of the measurements are below.
    pub median: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// The mean.
    pub mean: u64,
    /// What the kernel counted, for one operation.
    pub counts: BTreeMap<String, f64>,
}

/// The figures of one run, in the order of the program.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Column {
    /// Operations and their figures.
    pub operations: Vec<(String, Figures)>,
    /// Ticks of the time-stamp counter in a microsecond.
    pub ticks_per_us: u64,
}

/// What is wrong with the output of a run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    /// The last line is missing.
    #[error("the benchmark's output was cut off")]
    CutOff,
    /// A line that isn't as it should be.
    #[error("the benchmark printed {0:?}")]
    Malformed(String),
}

impl Column {
    /// Reads the output of a run; lines of others, such as a kernel's messages, are passed over.
    ///
    /// # Errors
    /// Fails when a line of the benchmark is malformed, or the last one is missing.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let mut column = Self::default();
        let mut whole = false;
        for line in text.lines().map(str::trim_end) {
            let malformed = || Unreadable::Malformed(line.to_owned());
            if let Some(rest) = line.strip_prefix("@bench\t") {
                let (name, fields) = rest.split_once('\t').ok_or_else(malformed)?;
                column
                    .operations
                    .push((name.to_owned(), Figures::parse(fields).ok_or_else(malformed)?));
            } else if let Some(rate) = line.strip_prefix("@end\tticks_per_us=") {
                column.ticks_per_us = rate.parse().map_err(|_| malformed())?;
                whole = true;
            }
        }
        whole.then_some(column).ok_or(Unreadable::CutOff)
    }

    /// The figures of an operation.
    #[must_use]
    pub fn get(&self, operation: &str) -> Option<&Figures> {
        let mut operations = self.operations.iter();
        operations
            .find(|(name, _)| name == operation)
            .map(|(_, figures)| figures)
    }

    /// The operations whose figures are not the same in `other`, or are not in both.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let ours = self
            .operations
            .iter()
            .filter(|(name, figures)| other.get(name) != Some(figures));
        let theirs = other.operations.iter().filter(|(name, _)| self.get(name).is_none());
        ours.chain(theirs).map(|(name, _)| name.clone()).collect()
    }
}

impl Figures {
    fn parse(fields: &str) -> Option<Self> {
        let mut figures = Self::default();
        for field in fields.split('\t') {
            let (key, value) = field.split_once('=')?;
            let slot = match key {
                "runs" => &mut figures.runs,
                "min" => &mut figures.min,
                "median" => &mut figures.median,
                "p99" => &mut figures.p99,
                "mean" => &mut figures.mean,
                _ => {
                    figures.counts.insert(key.to_owned(), value.parse().ok()?);
                    continue;
                }
            };
            *slot = value.parse().ok()?;
        }
        (figures.runs > 0).then_some(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "[    2.0] a message of the kernel\n\
        @bench\tgetpid\truns=1000\tmin=131\tmedian=131\tp99=140\tmean=132\tinvlpg=0.500\r\n@end\tticks_per_us=1000\r\n";

    #[test]
    fn lines_are_read_among_others() {
        let column = Column::parse(OUTPUT).unwrap();
        let figures = column.get("getpid").unwrap();
        assert_eq!(
            (figures.runs, figures.min, figures.p99, figures.mean),
            (1000, 131, 140, 132)
        );
        assert_eq!(figures.counts["invlpg"].to_bits(), 0.5f64.to_bits());
        assert_eq!(column.ticks_per_us, 1000);
    }

    #[test]
    fn a_cut_or_wrong_output_is_refused() {
        let (cut, _) = OUTPUT.split_once("@end").unwrap();
        assert_eq!(Column::parse(cut), Err(Unreadable::CutOff));
        let wrong = OUTPUT.replace("p99=140", "p99=x");
        assert!(matches!(Column::parse(&wrong), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn differences_are_named() {
        let one = Column::parse(OUTPUT).unwrap();
        assert_eq!(one.differences(&one), Vec::<String>::new());
        let other = Column::parse(&OUTPUT.replace("p99=140", "p99=141")).unwrap();
        assert_eq!(one.differences(&other), ["getpid"]);
        let none = Column::default();
        assert_eq!(one.differences(&none), ["getpid"]);
        assert_eq!(none.differences(&one), ["getpid"]);
    }
}
