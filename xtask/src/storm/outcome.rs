//! What a storm came to, and what of it is wrong.

use std::fmt;
use std::time::Duration;

use super::progress::field;
use crate::report::{Defect, Report, grouped};

/// Rounds of one scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scenario {
    name: String,
    rounds: u64,
    refused: u64,
    touches: u64,
}

/// Percentiles of one quantity, in ticks or nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Percentiles {
    median: u64,
    p99: u64,
    p999: u64,
}

/// The results of a storm that came to its end.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    scenarios: Vec<Scenario>,
    /// From before a first touch to after it, in ticks of the time-stamp counter.
    latency: Option<Percentiles>,
    /// How late sleeping tasks went on, in nanoseconds.
    lateness: Option<Percentiles>,
    /// First touches of the task that had fewest, and of the one in the middle.
    fairness: (u64, u64),
    status: u8,
    error: Option<String>,
    frames_hold: bool,
    leaked: i64,
    in_flight: u64,
    faults: u64,
    coalesced: u64,
    memory_waits: u64,
    processes: u64,
    threads: u64,
    checks: u64,
    errors: Vec<String>,
    error_count: u64,
    /// Processes killed for want of memory: by the kernel, and missed by the tasks.
    victims: (u64, Option<u64>),
    wall: Duration,
}

impl Outcome {
    /// Reads the kernel's report (`port` is all that came by that way) and the last lines of the storm.
    ///
    /// # Errors
    /// Fails when the report lacks a fact or has one in another form.
    pub fn new(report: &Report, port: &str, lines: &[String], wall: Duration) -> Result<Self, Defect> {
        let programs = report.programs()?;
        let program = programs
            .first()
            .ok_or_else(|| Defect::Absent("program.0.path".to_owned()))?;
        let number = |line: &str, key: &str| field(line, key).and_then(|text| text.parse().ok()).unwrap_or(0);
        let of_kind = |kind: &str| {
            let prefix = format!("@storm {kind} ");
            lines.iter().filter(move |line| line.starts_with(&prefix))
        };
        let scenarios = of_kind("scenario").map(|line| Scenario {
            name: field(line, "name").unwrap_or("?").to_owned(),
            rounds: number(line, "rounds"),
            refused: number(line, "refused"),
            touches: number(line, "touches"),
        });
        let percentiles = |name: &str| {
            let line = of_kind("histogram").find(|line| field(line, "name") == Some(name))?;
            Some(Percentiles {
                median: number(line, "median"),
                p99: number(line, "p99"),
                p999: number(line, "p999"),
            })
        };
        let fairness = of_kind("fairness")
            .next()
            .map(|line| (number(line, "least"), number(line, "median")));
        let end = of_kind("end").next();
        let errors = port.lines().filter_map(|line| line.strip_prefix("audit.error "));
        Ok(Self {
            scenarios: scenarios.collect(),
            latency: percentiles("latency"),
            lateness: percentiles("lateness"),
            fairness: fairness.unwrap_or_default(),
            status: program.status,
            error: program.error.clone(),
            frames_hold: report.frames_hold()?,
            leaked: report.get("frames.leaked")?,
            in_flight: report.get("faults.in_flight")?,
            faults: report.get("faults.total")?,
            coalesced: report.get("faults.coalesced")?,
            memory_waits: report.get("faults.memory_waits")?,
            processes: report.get("processes.started")?,
            threads: report.get("threads.started")?,
            checks: report.get("audit.checks")?,
            errors: errors.map(str::to_owned).collect(),
            error_count: report.get("audit.errors")?,
            victims: (report.get("victims")?, end.map(|line| number(line, "victims"))),
            wall,
        })
    }

    /// Everything that is wrong; nothing, in a good storm.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(error) = &self.error {
            wrong.push(format!("the storm could not start: {error}"));
        } else if self.status != 0 {
            wrong.push(format!("a task failed: the storm ended with status {}", self.status));
        }
        if !self.frames_hold {
            wrong.push(format!(
                "frames are lost: {} are missing, or the equation is broken",
                self.leaked
            ));
        }
        if self.in_flight != 0 {
            wrong.push(format!("{} faults were never answered", self.in_flight));
        }
        if self.error_count != 0 {
            wrong.push(format!("{} audits found something wrong:", self.error_count));
            wrong.extend(self.errors.iter().map(|error| format!("  {error}")));
        }
        match self.victims {
            (_, None) => wrong.push("the storm did not come to its end".to_owned()),
            (killed, Some(missed)) if killed != missed => wrong.push(format!(
                "{killed} processes were killed for want of memory, but the tasks missed {missed}"
            )),
            _ => {}
        }
        wrong
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: u64| grouped(&value.to_string());
        writeln!(
            f,
            "{:<28}{:>14}{:>14}{:>16}",
            "scenario", "rounds", "refused", "first touches"
        )?;
        for scenario in &self.scenarios {
            writeln!(
                f,
                "  {:<26}{:>14}{:>14}{:>16}",
                scenario.name,
                number(scenario.rounds),
                number(scenario.refused),
                number(scenario.touches)
            )?;
        }
        for (label, value) in [
            ("faults answered", self.faults),
            ("  joined one in flight", self.coalesced),
            ("  waited for memory", self.memory_waits),
            ("processes", self.processes),
            ("threads", self.threads),
            ("victims of shortage", self.victims.0),
            ("audits", self.checks),
            ("  found wrong", self.error_count),
            ("faults left in flight", self.in_flight),
        ] {
            writeln!(f, "{label:<28}{:>14}", number(value))?;
        }
        writeln!(f, "{:<28}{:>14}", "frames missing", self.leaked)?;
        writeln!(f, "{:<28}{:>14}{:>14}{:>16}", "", "median", "p99", "p99.9")?;
        for (label, percentiles) in [
            ("first touch, ticks", self.latency),
            ("a sleep was late by, ns", self.lateness),
        ] {
            if let Some(Percentiles { median, p99, p999 }) = percentiles {
                writeln!(
                    f,
                    "{label:<28}{:>14}{:>14}{:>16}",
                    number(median),
                    number(p99),
                    number(p999)
                )?;
            }
        }
        let (least, median) = self.fairness;
        // Tasks that do different things have no shares to compare.
        if median > 0 && self.scenarios.len() == 1 {
            let share = least as f64 * 100.0 / median as f64;
            writeln!(
                f,
                "{:<28}{share:>12.1} % of the median task's first touches",
                "slowest task"
            )?;
        }
        write!(f, "{:<28}{:>12.1} s on this machine", "time", self.wall.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "programs 1\nprogram.0.path /bin/storm\nprogram.0.status 0\nfaults.total 12345\n\
        faults.in_flight 0\nfaults.coalesced 3\nfaults.memory_waits 0\nprocesses.started 5\nthreads.started 6\n\
        audit.checks 9\naudit.errors 0\nvictims 2\nframes.equation holds\nframes.leaked 0\nreport.end 1\n";
    const LINES: &str = "@storm scenario name=sweep rounds=10 refused=1 touches=640\n\
        @storm histogram name=latency count=9 median=100 p99=200 p999=300\n\
        @storm fairness least=90 median=100\n@storm end victims=2";

    fn outcome(report: &str, lines: &str) -> Outcome {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        Outcome::new(&Report::parse(report).unwrap(), report, &lines, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn a_good_storm_has_nothing_wrong() {
        let good = outcome(REPORT, LINES);
        assert_eq!(good.wrong(), Vec::<String>::new());
        let text = good.to_string();
        assert!(text.contains("12,345") && text.contains("90.0 %"), "{text}");
    }

    #[test]
    fn whatever_is_wrong_is_told() {
        for (from, to, told) in [
            ("status 0", "status 1", "status 1"),
            ("equation holds", "equation broken", "frames are lost"),
            ("leaked 0", "leaked 3", "3 are missing"),
            ("in_flight 0", "in_flight 7", "7 faults"),
            ("victims 2", "victims 3", "missed 2"),
            ("errors 0", "errors 1\naudit.error a frame is gone", "a frame is gone"),
        ] {
            let wrong = outcome(&REPORT.replace(from, to), LINES).wrong().join("\n");
            assert!(wrong.contains(told), "{told}: {wrong}");
        }
        let cut = LINES.rsplit_once('\n').unwrap().0;
        assert!(outcome(REPORT, cut).wrong()[0].contains("did not come to its end"));
    }
}
