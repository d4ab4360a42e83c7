//! The figures as Markdown tables, which read as well on a terminal.

use super::Results;
use super::figures::{Column, Figures};
use crate::report::grouped;

/// The steps that the kernel measures at its start, by the names that the report has for them.
pub const FLOOR_STEPS: &[&str] = &["syscall", "fault", "fault_zero", "fault_copy", "fault_zero_huge"];

/// What is known of an operation beforehand: the step that hardware makes it take, and the figure to reach.
const KNOWN: [(&str, Option<&str>, Option<u64>); 20] = [
    ("getpid", Some("syscall"), Some(120)),
    ("sched_yield between two processes, a switch", None, Some(400)),
    ("SIGSEGV to a handler and back", None, Some(900)),
    ("anonymous write fault", Some("fault_zero"), Some(800)),
    ("anonymous read fault", Some("fault"), Some(350)),
    ("write after read", Some("fault_zero"), Some(850)),
    ("copy-on-write in the child", Some("fault_copy"), Some(900)),
    ("copy-on-write, sole owner left", None, Some(350)),
    ("huge-page fault, 2 MiB", Some("fault_zero_huge"), Some(266_000)),
    ("munmap of 64 MiB touched, per page", None, Some(120)),
    ("mmap, touch and munmap of a page", Some("fault_zero"), Some(2500)),
    ("mprotect R, then RW, touch", None, Some(1400)),
    ("madvise DONTNEED, touch", Some("fault_zero"), Some(1500)),
    ("brk grow, touch", Some("fault_zero"), Some(1500)),
    ("fork, exit and wait, 0 MiB touched", None, Some(15_000)),
    ("fork, exit and wait, 16 MiB touched", None, Some(25_000)),
    ("fork, exit and wait, 64 MiB touched", None, Some(60_000)),
    ("storm: 64 processes x 2 MiB, per fault", Some("fault_zero"), Some(950)),
    ("munmap of one page of 16 MiB, 1,000 touched", None, None),
    ("munmap of one page of 1024 MiB, 1,000 touched", None, None),
];

/// All tables, each with a title.
pub fn all(results: &Results) -> String {
    let mut text = String::new();
    let mut add = |title: String, table: Option<Table>| {
        if let Some(table) = table {
            text += &format!("{title}\n\n{}\n", table.to_markdown());
        }
    };
    let memory = results.memory;
    add(
        format!("Guest instructions, {memory} MiB, through the queue, the pre-zeroed pool off:"),
        Some(instructions(results)),
    );
    add(
        "The price of the queue, and what the pre-zeroed pool and running ahead save (guest instructions, medians, and \
         means):"
            .to_owned(),
        Some(modes(results)),
    );
    add(
        "Beside the instructions, for each operation on Faultline:".to_owned(),
        Some(counts(results)),
    );
    add(
        format!(
            "Time under plain TCG in nanoseconds, the least of {} rounds in which the systems took turns:",
            results.rounds
        ),
        times(results),
    );
    text
}

/// Linux's figures for an operation: those of the kernel with the lower median.
pub fn best_linux<'a>(results: &'a Results, operation: &str) -> Option<&'a Figures> {
    let figures = results.linux.iter().filter_map(|(_, column)| column.get(operation));
    figures.min_by_key(|figures| figures.median)
}

fn known(operation: &str) -> (Option<&'static str>, Option<u64>) {
    KNOWN
        .iter()
        .find(|(name, ..)| *name == operation)
        .map_or((None, None), |(_, step, goal)| (*step, *goal))
}

/// A number with its thousands apart.
pub fn number(value: impl ToString) -> String {
    grouped(&value.to_string())
}

/// A number, or nothing.
pub fn maybe(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, number)
}

fn instructions(results: &Results) -> Table {
    let mut header = vec!["operation".to_owned(), "median".to_owned(), "p99".into(), "mean".into()];
    for (name, _) in &results.linux {
        header.extend([name.clone(), "p99".into(), "mean".into()]);
    }
    if !results.linux.is_empty() {
        header.push("Linux, best / ours".into());
    }
    header.extend(["floor".into(), "goal".into()]);
    let mut table = Table::new(header);
    for (name, ours) in &results.queued.operations {
        let mut row = vec![name.clone(), number(ours.median), number(ours.p99), number(ours.mean)];
        for (_, column) in &results.linux {
            let theirs = column.get(name);
            row.extend([
                maybe(theirs.map(|figures| figures.median)),
                maybe(theirs.map(|figures| figures.p99)),
                maybe(theirs.map(|figures| figures.mean)),
            ]);
        }
        if !results.linux.is_empty() {
            let best = best_linux(results, name).filter(|_| ours.median > 0);
            row.push(best.map_or_else(String::new, |best| {
                format!("{:.1}", best.median as f64 / ours.median as f64)
            }));
        }
        let (step, goal) = known(name);
        let floor = step.and_then(|step| results.floor.get(step));
        row.extend([maybe(floor), maybe(goal)]);
        table.rows.push(row);
    }
    table
}

fn modes(results: &Results) -> Table {
    let header = [
        "operation",
        "queued",
        "inline",
        "price of the queue",
        "queued, pool full",
        "frames from the pool",
        "queued, mean",
        "running ahead, mean",
    ];
    let mut table = Table::new(header.map(str::to_owned).to_vec());
    let median = |column: &Column, name: &str| column.get(name).map(|figures| figures.median);
    for (name, queued) in &results.queued.operations {
        let inline = median(&results.inline, name);
        let pooled = results.pooled.get(name);
        // With several pages from one fault most touches cost nothing, so that only the mean says something.
        let ahead = results.ahead.get(name).map(|figures| figures.mean);
        let ahead = ahead.filter(|ahead| *ahead != queued.mean);
        // A share of the operations, which is also that of the frames where each operation takes one.
        let hits = pooled
            .and_then(|figures| figures.counts.get("pool_hits"))
            .filter(|hits| **hits > 0.0);
        table.rows.push(vec![
            name.clone(),
            number(queued.median),
            maybe(inline),
            maybe(inline.map(|inline| queued.median as i64 - inline as i64)),
            maybe(pooled.filter(|_| hits.is_some()).map(|figures| figures.median)),
            hits.map_or_else(String::new, |hits| format!("{hits:.2}")),
            maybe(ahead.map(|_| queued.mean)),
            maybe(ahead),
        ]);
    }
    table
}

fn counts(results: &Results) -> Table {
    let header = ["operation", "faults", "CR3 loads", "invlpg", "port accesses"];
    let mut table = Table::new(header.map(str::to_owned).to_vec());
    for (name, figures) in &results.queued.operations {
        let count = |key: &str| {
            figures
                .counts
                .get(key)
                .map_or_else(String::new, |count| format!("{count:.2}"))
        };
        table.rows.push(vec![
            name.clone(),
            count("faults"),
            count("cr3_loads"),
            count("invlpg"),
            count("port_accesses"),
        ]);
    }
    table
}

fn times(results: &Results) -> Option<Table> {
    let (_, first) = results.times.first()?;
    let mut header = vec!["operation".to_owned()];
    header.extend(results.times.iter().map(|(name, _)| name.clone()));
    let mut table = Table::new(header);
    for (operation, _) in first {
        let mut row = vec![operation.clone()];
        for (_, times) in &results.times {
            let time = times.iter().find(|(name, _)| name == operation);
            row.push(time.map_or_else(String::new, |(_, time)| number(time.round() as u64)));
        }
        table.rows.push(row);
    }
    Some(table)
}

/// A table whose first column is text and the others are numbers.
pub struct Table {
    header: Vec<String>,
    /// The rows, each as long as the header.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(header: Vec<String>) -> Self {
        Self {
            header,
            rows: Vec::new(),
        }
    }

    /// The table as text.
    pub fn to_markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&self.header])
                .map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 {
                    format!(" {cell:<width$} |")
                } else {
                    format!(" {cell:>width$} |")
                }
            });
            format!("|{}\n", cells.collect::<String>())
        };
        let rule = widths.iter().enumerate().map(|(column, width)| {
            let dashes = "-".repeat(*width);
            if column == 0 {
                format!("-{dashes}-|")
            } else {
                format!("-{dashes}:|")
            }
        });
        let rule = format!("|{}\n", rule.collect::<String>());
        line(&self.header) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(median: u64) -> Column {
        let text = format!(
            "@bench\tanonymous read fault\truns=9\tmin=1\tmedian={median}\tp99=2000\tmean=1300\tinvlpg=0.25\tpool_hits=0.500\n\
             @end\tticks_per_us=1000\n"
        );
        Column::parse(&text).unwrap()
    }

    fn results() -> Results {
        Results {
            memory: 1024,
            floor: [("fault".to_owned(), 38)].into(),
            queued: column(800),
            inline: column(550),
            pooled: column(700),
            ahead: column(1),
            linux: vec![
                ("Linux A".to_owned(), column(1600)),
                ("Linux B".to_owned(), column(1200)),
            ],
            rounds: 1,
            times: vec![(
                "Faultline, queued".to_owned(),
                vec![("anonymous read fault".to_owned(), 1234.4)],
            )],
        }
    }

    #[test]
    fn the_ratio_is_that_of_the_better_linux() {
        let text = instructions(&results()).to_markdown();
        let row = text.lines().last().unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "anonymous read fault",
                "800",
                "2,000",
                "1,300",
                "1,600",
                "2,000",
                "1,300",
                "1,200",
                "2,000",
                "1,300",
                "1.5",
                "38",
                "350"
            ]
        );
    }

    #[test]
    fn the_price_of_the_queue_is_the_difference() {
        let text = modes(&results()).to_markdown();
        assert!(text.contains("| anonymous read fault |"), "{text}");
        let cells: Vec<_> = text.lines().last().unwrap().split('|').map(str::trim).collect();
        assert_eq!(cells[2..7], ["800", "550", "250", "700", "0.50"]);
    }

    #[test]
    fn every_line_of_a_table_is_as_long_as_the_others() {
        let text = all(&results());
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let lengths: std::collections::BTreeSet<_> = table.lines().map(str::len).collect();
            assert_eq!(lengths.len(), 1, "{table}");
        }
        assert!(text.contains("1,234"));
    }
}
