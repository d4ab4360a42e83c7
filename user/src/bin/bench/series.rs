//! Measurements, and how they are told.

use std::cell::RefCell;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use crate::counters::Counters;

pub const MIB: usize = 1024 * 1024;

/// How the figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table, a line at a time.
    Table,
    /// Lines for a program: `@bench`, the name and `key=value` fields, apart by tabs; all at the end, so that printing
    /// disturbs no measurement.
    Fields,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only benchmarks whose names have all of these in them.
    pub filters: Vec<String>,
    /// How the figures are printed.
    pub form: Form,
    /// Pages of each fault benchmark.
    pub pages: usize,
    /// How long to sleep before each measured stretch, so that the kernel can zero frames meanwhile.
    pub rest: Duration,
}

/// Reads the time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: the instruction has no memory operands; the kernel and Linux both leave it to user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads the time-stamp counter at the end of what [`Series::time`] measures, by an instruction of its own: a recording of
/// instructions (`--profile`) tells the end of an operation from its begin by it.
fn ticks_at_end() -> u64 {
    let mut processor = 0;
    // SAFETY: `processor` is there to be written; the kernel and Linux both leave the instruction to user mode.
    unsafe { core::arch::x86_64::__rdtscp(&raw mut processor) }
}

/// Measurements of one operation.
pub struct Series {
    /// What reading the time-stamp counter costs.
    pub overhead: u64,
    pub values: Vec<u64>,
    rest: Duration,
    since: Option<Counters>,
    /// What the kernel counted from `begin` to `end`.
    counted: Option<Counters>,
    /// Figures of the whole series, by name.
    notes: Vec<(&'static str, f64)>,
}

impl Series {
    pub fn new(overhead: u64, rest: Duration) -> Self {
        Self {
            overhead,
            values: Vec::with_capacity(4096),
            rest,
            since: None,
            counted: None,
            notes: Vec::new(),
        }
    }

    /// Tells a figure of the whole series.
    pub fn note(&mut self, name: &'static str, value: f64) {
        self.notes.push((name, value));
    }

    /// The set-up is over: what follows is counted.
    pub fn begin(&mut self) {
        if !self.rest.is_zero() {
            thread::sleep(self.rest);
        }
        self.since = Counters::read();
    }

    /// What follows is not counted any more. Several stretches from `begin` to `end` add up.
    pub fn end(&mut self) {
        if let (Some(since), Some(now)) = (self.since.take(), Counters::read()) {
            let stretch = now.since(&since);
            self.counted = Some(self.counted.map_or(stretch, |counted| counted.plus(&stretch)));
        }
    }

    /// Measures `operation` once.
    pub fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        let before = ticks();
        let result = black_box(operation());
        let after = ticks_at_end();
        self.values.push((after - before).saturating_sub(self.overhead));
        result
    }

    /// The value below which `percent` of the sorted measurements lie.
    fn percentile(&self, percent: usize) -> u64 {
        self.values[(self.values.len() - 1) * percent / 100]
    }
}

pub struct Bench {
    pub settings: Settings,
    overhead: u64,
    started: (Instant, u64),
    fields: RefCell<String>,
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        let mut empty = Series::new(0, Duration::ZERO);
        (0..1000).for_each(|_| empty.time(|| ()));
        empty.values.sort_unstable();
        let overhead = empty.percentile(50);
        if settings.form == Form::Table {
            let title = "ticks of the time-stamp counter";
            println!(
                "{title:<48} {:>10} {:>10} {:>10} {:>7}",
                "median", "p99", "mean", "runs"
            );
        }
        Self {
            settings,
            overhead,
            started: (Instant::now(), ticks()),
            fields: RefCell::default(),
        }
    }

    /// Runs a benchmark and tells its figures; `per` divides each measurement.
    pub fn run(&self, name: &str, per: u64, measure: impl FnOnce(&mut Series)) {
        if !self.settings.filters.iter().all(|filter| name.contains(filter)) {
            return;
        }
        let mut series = Series::new(self.overhead, self.settings.rest);
        measure(&mut series);
        series.values.sort_unstable();
        let runs = series.values.len();
        let mean = series.values.iter().sum::<u64>() / (runs as u64 * per);
        let [least, median, p99] = [0, 50, 99].map(|percent| series.percentile(percent) / per);
        match self.settings.form {
            Form::Table => {
                let notes: String = series
                    .notes
                    .iter()
                    .map(|(name, value)| format!("  {name} {value:.3}"))
                    .collect();
                println!("{name:<48} {median:>10} {p99:>10} {mean:>10} {runs:>7}{notes}");
            }
            Form::Fields => {
                let mut fields = self.fields.borrow_mut();
                *fields +=
                    &format!("@bench\t{name}\truns={runs}\tmin={least}\tmedian={median}\tp99={p99}\tmean={mean}");
                if let Some(counted) = series.counted {
                    *fields += &counted.to_fields(runs as f64 * per as f64);
                }
                for (name, value) in &series.notes {
                    *fields += &format!("\t{name}={value:.3}");
                }
                fields.push('\n');
            }
        }
    }

    /// Prints what was kept for the end.
    pub fn finish(self) {
        if self.settings.form == Form::Fields {
            let (nanoseconds, ticks) = (self.started.0.elapsed().as_nanos(), ticks() - self.started.1);
            print!("{}", self.fields.into_inner());
            println!("@end\tticks_per_us={}", u128::from(ticks) * 1000 / nanoseconds.max(1));
        }
    }
}
