//! The kernel's report: `key value` lines that it writes to COM4 at its orderly end. The keys are documented where they
//! are written, in the kernel's `report` module.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use faultline_trace::FaultClass;

/// A report that was read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    facts: BTreeMap<String, String>,
}

/// What is wrong with a report.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Defect {
    /// The last line is missing.
    #[error("the kernel's report was cut off")]
    CutOff,
    /// A fact that every report has.
    #[error("the kernel's report has no {0}")]
    Absent(String),
    /// A value of another form than its key promises.
    #[error("the kernel's report says {key} {value:?}")]
    Malformed {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

/// How one program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramEnd {
    /// Its path in the ramdisk.
    pub path: String,
    /// The status that a shell would show.
    pub status: u8,
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// Why it never started.
    pub error: Option<String>,
}

/// A process of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPeak {
    /// Its number.
    pub pid: u32,
    /// Its parent's number; 0 for none.
    pub parent: u32,
    /// The most KiB that it had when it was looked at.
    pub kib: u64,
    /// Faults served without I/O, and those that waited for it.
    pub faults: [u64; 2],
    /// Its name.
    pub name: String,
}

impl ProcessPeak {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        Some(Self {
            pid: words.next()?.parse().ok()?,
            parent: words.next()?.parse().ok()?,
            kib: words.next()?.parse().ok()?,
            faults: [words.next()?.parse().ok()?, words.next()?.parse().ok()?],
            name: words.next()?.to_owned(),
        })
    }
}

impl Report {
    /// Reads the text of a report.
    ///
    /// # Errors
    /// Fails when the last line isn't there.
    pub fn parse(text: &str) -> Result<Self, Defect> {
        let facts = text.lines().filter_map(|line| line.split_once(' '));
        let facts: BTreeMap<_, _> = facts
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        if facts.contains_key("report.end") {
            Ok(Self { facts })
        } else {
            Err(Defect::CutOff)
        }
    }

    /// The value of a key, as it stands.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(String::as_str)
    }

    /// The value of a key that may be absent.
    ///
    /// # Errors
    /// Fails when the value has another form.
    pub fn optional<T: FromStr>(&self, key: &str) -> Result<Option<T>, Defect> {
        let malformed = |value: &str| Defect::Malformed {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        self.text(key)
            .map(|value| value.parse().map_err(|_| malformed(value)))
            .transpose()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Fails when it is absent or has another form.
    pub fn get<T: FromStr>(&self, key: &str) -> Result<T, Defect> {
        self.optional(key)?.ok_or_else(|| Defect::Absent(key.to_owned()))
    }

    /// How each program ended, in the order of the configuration.
    ///
    /// # Errors
    /// Fails when a line is missing or malformed.
    pub fn programs(&self) -> Result<Vec<ProgramEnd>, Defect> {
        (0..self.get::<usize>("programs")?)
            .map(|index| {
                Ok(ProgramEnd {
                    path: self.get(&format!("program.{index}.path"))?,
                    status: self.get(&format!("program.{index}.status"))?,
                    signal: self.optional(&format!("program.{index}.signal"))?,
                    error: self.optional(&format!("program.{index}.error"))?,
                })
            })
            .collect()
    }

    /// What is known of each process, in the order of their numbers; none unless `processes=on`.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessPeak> {
        let lines = (0..).map_while(|index| self.text(&format!("process.{index}")));
        let mut processes: Vec<_> = lines.filter_map(ProcessPeak::parse).collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    /// Whether every frame is accounted for: the states add up before and after, and none is missing at the end.
    ///
    /// # Errors
    /// Fails when the report doesn't say.
    pub fn frames_hold(&self) -> Result<bool, Defect> {
        let slots = self.text("swap.leaked").is_none_or(|leaked| leaked == "0");
        Ok(self.get::<String>("frames.equation")? == "holds" && self.get::<i64>("frames.leaked")? == 0 && slots)
    }
}

/// The account of a run as a table for people.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The report to show.
    pub report: &'a Report,
    /// The reports from which the time of one fault is taken, for each class the first that has any of it.
    pub times: &'a [&'a Report],
    /// What these times are.
    pub unit: &'static str,
}

impl Summary<'_> {
    /// The mean time of one fault of a class.
    fn time(&self, key: &str) -> String {
        let served = |report: &&&Report| report.text(key).is_some_and(|count| count != "0");
        let time = self
            .times
            .iter()
            .find(served)
            .and_then(|report| report.text(&format!("{key}.tsc_each")));
        time.map_or_else(|| "-".to_owned(), grouped)
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |key: &str| self.report.text(key).map_or_else(|| "-".to_owned(), grouped);
        writeln!(f, "{:<26}{:>14}{:>26}", "faults", "served", self.unit)?;
        for class in FaultClass::ALL {
            let key = format!("faults.{}", class.name());
            if self.report.text(&key).is_some_and(|count| count != "0") {
                writeln!(f, "  {:<24}{:>14}{:>26}", class.name(), number(&key), self.time(&key))?;
            }
        }
        let rows = [
            ("  all", "faults.total"),
            ("  coalesced", "faults.coalesced"),
            ("  spurious", "faults.spurious"),
            ("  denied", "faults.denied"),
            ("  cancelled", "faults.cancelled"),
            ("  stale at commit", "faults.stale"),
        ];
        for (label, key) in rows {
            writeln!(f, "{label:<26}{:>14}", number(key))?;
        }
        writeln!(f, "TLB at a switch")?;
        let rows = [
            ("  flushed whole", "tlb.flush_all"),
            ("  flushed by page", "tlb.flush_page"),
            ("  nothing to flush", "tlb.skipped"),
        ];
        for (label, key) in rows {
            writeln!(f, "{label:<26}{:>14}", number(key))?;
        }
        writeln!(f, "{:<26}{:>14}{:>26}", "frames", "before", "after")?;
        for state in [
            "free",
            "cached",
            "zeroed",
            "reserved",
            "mapped",
            "page_tables",
            "pinned",
            "quarantined",
        ] {
            let (before, after) = (format!("frames.{state}.before"), format!("frames.{state}.after"));
            if self.report.text(&before).is_some() {
                let label = state.replace('_', " ");
                writeln!(f, "  {label:<24}{:>14}{:>26}", number(&before), number(&after))?;
            }
        }
        writeln!(f, "{:<26}{:>14}", "  total", number("frames.total"))?;
        writeln!(f, "{:<26}{:>14}", "  leaked", number("frames.leaked"))?;
        writeln!(
            f,
            "{:<26}{:>14}",
            "  equation",
            self.report.text("frames.equation").unwrap_or("-")
        )?;
        write!(f, "{:<26}{:>14}", "bytes of an idle thread", number("thread.bytes"))?;
        let processes = self.report.processes();
        if processes.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "\n{:<26}{:>14}{:>13}{:>13}",
            "processes", "KiB at most", "faults", "major"
        )?;
        for process in processes {
            let label = format!("{} {}", process.pid, process.name);
            let [minor, major] = process.faults.map(|count| grouped(&count.to_string()));
            let kib = grouped(&process.kib.to_string());
            write!(f, "\n  {label:<24}{kib:>14}{minor:>13}{major:>13}")?;
        }
        match self.report.text("processes.left_out") {
            None | Some("0") => Ok(()),
            Some(count) => write!(f, "\n  and {count} more, which had less"),
        }
    }
}

/// A number with its thousands apart; anything else as it stands.
#[must_use]
pub fn grouped(number: &str) -> String {
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut grouped = String::new();
    for (index, digit) in number.chars().enumerate() {
        if index > 0 && (number.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "report.version 1\nprograms 2\nprogram.0.path /bin/hello\nprogram.0.status 0\n\
        program.1.path /bin/wild\nprogram.1.status 139\nprogram.1.signal 11\nfaults.total 1234567\n\
        faults.demand-zero 1234567\nfaults.demand-zero.tsc_each 1200\nframes.equation holds\nframes.leaked 0\n\
        report.end 1\n";

    #[test]
    fn a_whole_report_is_read() {
        let report = Report::parse(WHOLE).unwrap();
        let programs = report.programs().unwrap();
        assert_eq!((programs[0].status, programs[0].signal), (0, None));
        assert_eq!(
            (programs[1].path.as_str(), programs[1].status, programs[1].signal),
            ("/bin/wild", 139, Some(11))
        );
        assert!(report.frames_hold().unwrap());
        let table = Summary {
            report: &report,
            times: &[&report],
            unit: "instructions each",
        }
        .to_string();
        assert!(
            table.contains("  demand-zero                  1,234,567                     1,200\n"),
            "{table}"
        );
    }

    #[test]
    fn defects_are_named() {
        let (cut, _) = WHOLE.rsplit_once("report.end").unwrap();
        assert_eq!(Report::parse(cut).unwrap_err(), Defect::CutOff);
        let report = Report::parse("programs x\nreport.end 1\n").unwrap();
        assert_eq!(
            report.programs().unwrap_err(),
            Defect::Malformed {
                key: "programs".to_owned(),
                value: "x".to_owned()
            }
        );
        assert_eq!(
            report.get::<u64>("faults.total").unwrap_err(),
            Defect::Absent("faults.total".to_owned())
        );
    }

    #[test]
    fn a_lost_frame_is_noticed() {
        let report = Report::parse(&WHOLE.replace("leaked 0", "leaked 1")).unwrap();
        assert!(!report.frames_hold().unwrap());
        let with_slots = |leaked| format!("swap.leaked {leaked}\n{WHOLE}");
        assert!(Report::parse(&with_slots(0)).unwrap().frames_hold().unwrap());
        assert!(!Report::parse(&with_slots(3)).unwrap().frames_hold().unwrap());
    }
}
