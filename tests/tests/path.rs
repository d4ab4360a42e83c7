//! The path of a fault: what it must not lose, and what it may cost.

use faultline_tests::{Libc, Run, c_program};

/// All vector registers hold values of their own while the kernel zeroes and copies pages, by whichever instructions are
/// the fastest on the processor.
#[test]
fn no_vector_register_is_lost_to_a_fault() {
    let program = c_program("vectors", Libc::Gnu);
    for (cpu, counted) in [("max", false), ("max", true), ("qemu64", false)] {
        let run = Run::file(&program, &["24"]).on_cpu(cpu);
        let guest = if counted { run.counted() } else { run }.boot();
        let text = String::from_utf8_lossy(&guest.stdout).into_owned();
        assert_eq!(
            (guest.status(), text.as_str()),
            (0, "kept\n"),
            "{cpu}, counted: {counted}"
        );
    }
}

/// The median of each operation in the first table of `docs/benchmarks.md`.
fn documented() -> Vec<(String, u64)> {
    let page = include_str!("../../docs/benchmarks.md");
    let table = page.split("<!-- bench: begin -->").nth(1).expect("the figures");
    let rows = table.lines().skip_while(|line| !line.starts_with("|--")).skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let (name, median) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            let median = median.replace(',', "").parse();
            (name.to_owned(), median.unwrap_or_else(|_| panic!("no median: {line}")))
        })
        .collect()
}

/// A change that makes an operation dearer, or cheaper, shows: `docs/benchmarks.md` says how its figures are refreshed.
#[test]
fn every_operation_costs_what_the_documentation_says() {
    let guest = Run::new("bench", &[])
        .counted()
        .with_mib(1024)
        .set("zero_pool", "off")
        .boot();
    assert_eq!(guest.status(), 0);
    let text = String::from_utf8_lossy(&guest.stdout).into_owned();
    let measured = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} was not measured: {text}"));
        let median = line[name.len()..].split_whitespace().next();
        median
            .and_then(|median| median.parse().ok())
            .unwrap_or_else(|| panic!("no figure: {line}"))
    };
    let documented = documented();
    assert!(documented.len() >= 25, "{documented:?}");
    let differ: Vec<_> = documented
        .iter()
        .map(|(name, figure)| (name, *figure, measured(name)))
        .filter(|(_, documented, measured)| documented.abs_diff(*measured) > (documented / 50).max(2))
        .collect();
    assert!(differ.is_empty(), "documented, measured: {differ:?}");
}
