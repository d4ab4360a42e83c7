//! The figures of the suite as tables.

use super::super::chart::Pair;
use super::super::figures::{Column, Figures};
use super::super::tables::{Table, maybe, number};
use super::virtio::Rounds;
use super::{Measured, Results};

/// What is to be reached at most for a page, by operation and latency in microseconds.
fn goal(operation: &str, latency: u64) -> Option<u64> {
    Some(match operation {
        "swap-in, 1 thread, random" => latency * 1000 + 3000,
        "swap-in, 8 threads, random" => (latency * 1000 / 8).max(3000),
        "swap-in, 64 threads, random" => 3000,
        "swap-in, 1 thread, sequential" if latency == 10 => 1800,
        "swap-out, a page" => 1200,
        "fault on a page of a file in the cache" => 700,
        _ => return None,
    })
}

/// The highest 99th percentile of one touch with 64 threads and a latency of 10 us.
const TOUCH_GOAL: u64 = 300_000;

/// A page of the operation: all that happened from the first to the last, by the number of pages; or the median where each
/// was measured alone. None if the pages are still where they were.
fn page(figures: &Figures) -> Option<u64> {
    let note = |name: &str| figures.counts.get(name).copied();
    match (note("each"), note("left")) {
        (Some(each), _) => Some(each.round() as u64),
        (None, Some(left)) if left > 0.5 => None,
        _ => Some(figures.median),
    }
}

/// Linux's figures for an operation: those of the kernel that is the best.
fn best<'a>(part: &'a Measured, operation: &str) -> Option<&'a Figures> {
    let figures = part.linux.iter().filter_map(|(_, column)| column.get(operation));
    figures.min_by_key(|figures| page(figures))
}

/// Whether the operation is of pages, and not a share or a rate.
fn is_of_pages(operation: &str) -> bool {
    !operation.starts_with("compute")
}

/// The operations of all parts with what they cost on both systems.
pub fn pairs(results: &Results) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for part in &results.parts {
        for (name, figures) in part.queued.operations.iter().filter(|(name, _)| is_of_pages(name)) {
            if let (Some(ours), Some(linux)) = (page(figures), best(part, name).and_then(page)) {
                let name = titled(name, part);
                pairs.push(Pair { name, ours, linux });
            }
        }
    }
    pairs
}

/// An operation with its latency, if that plays a part.
fn titled(operation: &str, part: &Measured) -> String {
    match operation.starts_with("swap-") {
        true => format!("{operation}, {} us", part.latency_us),
        false => operation.to_owned(),
    }
}

/// All tables, each with a title.
pub fn all(results: &Results) -> String {
    let memory = results.memory;
    let mut text = format!(
        "A page, in nanoseconds of the machine's clock at an instruction each, {memory} MiB:\n\n{}\n\
         One touch of a page that is out, and the share of touches that waited for the disk:\n\n{}\n\
         Beside faults that wait:\n\n{}",
        pages(results).to_markdown(),
        touches(results).to_markdown(),
        shares(results).to_markdown()
    );
    if let Some(table) = rates(&results.virtio) {
        text += &format!(
            "\nPages a second on a virtio disk under plain TCG, {memory} MiB, by the least time of {} rounds in which the \
             systems took turns:\n\n{}",
            results.virtio.rounds,
            table.to_markdown()
        );
    }
    text
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    Table::new(header.map(str::to_owned).to_vec())
}

fn pages(results: &Results) -> Table {
    let header = [
        "operation",
        "Faultline",
        "goal",
        "--fault blocking",
        "Linux",
        "Linux / Faultline",
    ];
    let mut table = table(header);
    for part in &results.parts {
        for (name, figures) in part.queued.operations.iter().filter(|(name, _)| is_of_pages(name)) {
            let (ours, linux) = (page(figures), best(part, name).and_then(page));
            let ratio = ours.zip(linux).filter(|(ours, _)| *ours > 0);
            table.rows.push(vec![
                titled(name, part),
                maybe(ours),
                maybe(goal(name, part.latency_us)),
                maybe(part.blocking.get(name).and_then(page)),
                maybe(linux),
                ratio.map_or_else(String::new, |(ours, linux)| {
                    format!("{:.1}", linux as f64 / ours as f64)
                }),
            ]);
        }
    }
    table
}

fn touches(results: &Results) -> Table {
    let header = [
        "operation",
        "median",
        "p99",
        "goal for p99",
        "waited",
        "Linux, median",
        "p99",
        "waited",
    ];
    let mut table = table(header);
    for part in &results.parts {
        for (name, ours) in part
            .queued
            .operations
            .iter()
            .filter(|(name, _)| name.starts_with("swap-in"))
        {
            let waited = |figures: &Figures| {
                let share = figures.counts.get("majors");
                share.map_or_else(String::new, |share| format!("{share:.2}"))
            };
            let linux = best(part, name);
            let has_goal = name.contains("64 threads") && part.latency_us == 10;
            table.rows.push(vec![
                titled(name, part),
                number(ours.median),
                number(ours.p99),
                maybe(has_goal.then_some(TOUCH_GOAL)),
                waited(ours),
                maybe(linux.map(|linux| linux.median)),
                maybe(linux.map(|linux| linux.p99)),
                linux.map_or_else(String::new, waited),
            ]);
        }
    }
    table
}

fn shares(results: &Results) -> Table {
    let mut table = table(["", "Faultline", "goal", "--fault blocking", "Linux"]);
    for (title, bytes, goal) in [
        (
            "kernel bytes of a fault that waits: slot and future",
            results.fault_bytes,
            "512",
        ),
        (
            "and of its transfer, if it waits for its own",
            results.transfer_bytes,
            "",
        ),
    ] {
        let [title, goal] = [title, goal].map(str::to_owned);
        table
            .rows
            .push(vec![title, number(bytes), goal, number(bytes), String::new()]);
    }
    for part in &results.parts {
        for (name, _) in &part.queued.operations {
            let mut row = |title: String, goal: &str, figure: &dyn Fn(&Figures) -> Option<String>| {
                let of = |column: &Column| column.get(name).and_then(figure).unwrap_or_default();
                let linux = part.linux.first().map_or_else(String::new, |(_, column)| of(column));
                table.rows.push(vec![
                    title,
                    of(&part.queued),
                    goal.to_owned(),
                    of(&part.blocking),
                    linux,
                ]);
            };
            if name.starts_with("compute") {
                let latency = part.latency_us / 1000;
                let share = |figures: &Figures| Some(format!("{:.1} %", figures.counts.get("share")? * 100.0));
                row(
                    format!("{name}, {latency} ms: kept of its own instructions"),
                    "90 %",
                    &share,
                );
                let reads = |figures: &Figures| Some(number(*figures.counts.get("reads")? as u64));
                row(format!("{name}: pages that those read meanwhile"), "", &reads);
            }
            if name.starts_with("steady") {
                let rate = |figures: &Figures| Some(number((1e9 / figures.counts.get("each")?) as u64));
                row(format!("{name}: pages a second"), "3 x Linux", &rate);
                let waited = |figures: &Figures| Some(format!("{:.2}", figures.counts.get("majors")?));
                row(format!("{name}: share that waited"), "", &waited);
                let pages = |figures: &Figures| Some(number(*figures.counts.get("pages")? as u64));
                row(format!("{name}: pages in all"), "", &pages);
            }
        }
    }
    table
}

/// None if nothing was measured.
fn rates(virtio: &Rounds) -> Option<Table> {
    let ((_, ours), others) = virtio.systems.split_first()?;
    let mut header: Vec<String> = [&"operation".to_owned()]
        .into_iter()
        .chain(virtio.systems.iter().map(|(name, _)| name))
        .cloned()
        .collect();
    if !others.is_empty() {
        header.push("Faultline / best Linux".into());
    }
    let mut table = Table::new(header);
    for (operation, time) in ours {
        let times = others.iter().map(|(_, times)| {
            let time = times.iter().find(|(name, _)| name == operation);
            time.map(|(_, time)| *time)
        });
        let times: Vec<Option<f64>> = times.collect();
        let rate = |time: f64| number((1e9 / time) as u64);
        let mut row = vec![operation.clone(), rate(*time)];
        row.extend(times.iter().map(|time| time.map_or_else(String::new, rate)));
        if !others.is_empty() {
            let best = times.iter().flatten().copied().reduce(f64::min);
            row.push(best.map_or_else(String::new, |best| format!("{:.1}", best / time)));
        }
        table.rows.push(row);
    }
    (!table.rows.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(lines: &str) -> Column {
        let lines: String = lines
            .lines()
            .map(|line| {
                let (name, fields) = line.split_once(": ").unwrap();
                let fields = fields.replace(' ', "\t");
                format!("@bench\t{name}\truns=1\tmin=1\tmedian=1000\tp99=9\tmean=1\t{fields}\n")
            })
            .collect();
        Column::parse(&(lines + "@end\tticks_per_us=1\n")).unwrap()
    }

    fn results() -> Results {
        let part = |latency_us, ours: &str, linux: &str| Measured {
            latency_us,
            queued: column(ours),
            blocking: column(ours),
            linux: vec![("Linux".to_owned(), column(linux))],
        };
        let reads = |each| format!("swap-in, 8 threads, random: each={each} majors=0.5");
        Results {
            notes: Vec::new(),
            fault_bytes: 296,
            transfer_bytes: 96,
            memory: 384,
            parts: vec![
                part(2, &reads(2500.4), &reads(10_000.0)),
                part(100, &reads(12_000.0), &reads(14_000.0)),
                part(
                    10_000,
                    "compute beside: share=0.951 reads=7",
                    "compute beside: share=0.9 reads=8",
                ),
                part(10, "steady: each=1000.0 majors=0.3", "steady: each=5000.0 majors=0.4"),
                part(10, "evicting a page: left=0.0", "evicting a page: left=1.0"),
            ],
            virtio: Rounds::default(),
        }
    }

    fn cells(table: &Table, row: usize) -> Vec<&str> {
        table.rows[row].iter().map(String::as_str).collect()
    }

    #[test]
    fn goals_depend_on_the_latency_and_pages_that_stayed_have_no_figure() {
        let table = pages(&results());
        let name = "swap-in, 8 threads, random";
        assert_eq!(
            cells(&table, 0),
            [&format!("{name}, 2 us"), "2,500", "3,000", "2,500", "10,000", "4.0"]
        );
        assert_eq!(cells(&table, 1)[2], "12,500");
        assert_eq!(cells(&table, 3), ["evicting a page", "1,000", "", "1,000", "", ""]);
        assert_eq!(pairs(&results()).len(), 3);
    }

    #[test]
    fn shares_and_rates_stand_apart() {
        let table = shares(&results());
        assert_eq!(cells(&table, 0)[1..4], ["296", "512", "296"]);
        assert_eq!(cells(&table, 1)[1], "96");
        assert_eq!(cells(&table, 2)[1..], ["95.1 %", "90 %", "95.1 %", "90.0 %"]);
        assert_eq!(
            cells(&table, 4)[1..],
            ["1,000,000", "3 x Linux", "1,000,000", "200,000"]
        );
        assert_eq!(touches(&results()).rows.len(), 2);
        assert!(all(&results()).contains("swap-in, 8 threads, random, 100 us"));
    }

    #[test]
    fn rates_are_of_the_least_times() {
        assert!(rates(&Rounds::default()).is_none());
        let times = |least: f64| vec![("swap-in".to_owned(), least)];
        let mut rounds = Rounds {
            rounds: 2,
            systems: vec![("Faultline".to_owned(), times(5_000.0))],
        };
        assert_eq!(cells(&rates(&rounds).unwrap(), 0), ["swap-in", "200,000"]);
        rounds.systems.push(("Linux 1".to_owned(), times(20_000.0)));
        rounds.systems.push(("Linux 2".to_owned(), times(10_000.0)));
        assert_eq!(
            cells(&rates(&rounds).unwrap(), 0),
            ["swap-in", "200,000", "50,000", "100,000", "2.0"]
        );
        let results = Results {
            virtio: rounds,
            ..results()
        };
        assert!(all(&results).contains("384 MiB, by the least time of 2 rounds"));
    }
}
