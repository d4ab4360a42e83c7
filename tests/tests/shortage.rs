//! Memory that does not fit: right bytes, exact accounts and documented victims, whatever the disk does.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use faultline_tests::{Guest, Libc, Run, busybox, c_program, native, native_file, pandoc, sqlite};
use faultline_xtask::root::Root;

/// Memory of a machine with a modelled swap area of 64 MiB.
const MIB: u64 = 160;

fn program(name: &'static str) -> &'static Path {
    static FILES: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    FILES[usize::from(name == "hogs")].get_or_init(|| c_program(name, Libc::Gnu))
}

fn swapping(words: &[&str], swap: &str) -> Run {
    Run::file(program("swapping"), words).with_mib(MIB).with_swap(swap)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the program printed, if it ended well and nothing is left of its pages in memory or on the disk.
fn printed(guest: &Guest) -> String {
    let (out, error) = (text(&guest.stdout), text(&guest.stderr));
    assert_eq!(guest.status(), 0, "{out}{error}{}", text(&guest.log));
    assert_eq!(guest.count("swap.leaked"), 0, "slots are left: {:#?}", guest.report);
    assert_eq!(guest.count("victims"), 0, "{:#?}", guest.report);
    out
}

/// Eight processes that need 40 MiB together, in a part of that.
fn storm(rounds: &str, part: &str, swap: &str) -> Guest {
    let guest = swapping(&["storm", "40960", "8", rounds, part], swap).boot();
    assert_eq!(printed(&guest), "right\n");
    assert!(guest.count("swap.writes") > 1000, "{:#?}", guest.report);
    guest
}

#[test]
fn a_storm_in_half_of_the_memory_loses_nothing() {
    storm("20", "2", "64M");
}

#[test]
fn a_storm_in_a_quarter_of_the_memory_loses_nothing() {
    storm("20", "4", "model:64M,latency=10us,jitter=0.5,seed=3");
}

#[test]
fn a_storm_in_a_tenth_of_the_memory_loses_nothing() {
    storm("5", "10", "model:64M,latency=2us");
}

#[test]
fn a_slow_disk_loses_nothing() {
    storm("2", "4", "model:64M,latency=1ms,bandwidth=200M,depth=4,jitter=0.9");
}

#[test]
fn swap_is_switched_off_under_load_and_nothing_is_lost() {
    let words = ["storm", "8192", "4", "60", "0", "/dev/vda"];
    let guest = swapping(&words, "model:64M,latency=10us").boot();
    assert_eq!(printed(&guest), "right, and off at times\n");
    // What does not fit into memory can't be brought back: then it is ENOMEM, and nothing is lost either.
    let words = ["storm", "40960", "8", "10", "4", "/dev/vda"];
    let guest = swapping(&words, "model:64M,latency=10us").boot();
    assert!(printed(&guest).starts_with("right"), "{}", text(&guest.stdout));
}

#[test]
fn ten_thousand_waiting_faults_are_killed() {
    // 160 times 64 threads.
    let guest = swapping(&["kills", "1024", "160"], "model:64M,latency=2ms")
        .counted()
        .boot();
    assert_eq!(printed(&guest), "right\n");
    assert!(guest.count("faults.cancelled") > 5000, "{:#?}", guest.report);
}

#[test]
fn a_page_that_cannot_be_read_is_a_signal_and_only_that() {
    // Of a read of many pages that fails only the page is lost that is read alone then and fails again: with few errors none
    // may be, as the order of reads differs from run to run.
    let guest = swapping(&["errors", "8192"], "model:64M,latency=2us,errors=0.3,seed=5").boot();
    assert_eq!(printed(&guest), "lost some\n");
    assert!(guest.count("swap.errors") > 0);
    let guest = swapping(&["errors", "8192"], "model:64M,latency=2us").boot();
    assert_eq!(printed(&guest), "lost none\n");
}

#[test]
fn a_disk_that_hangs_takes_only_its_own_pages_along() {
    let hanging = "model:64M,latency=2us,hang=40,timeout=5ms";
    let guest = swapping(&["errors", "8192"], hanging).counted().boot();
    assert!(guest.status() == 0, "{}", text(&guest.stdout));
}

#[test]
fn with_swap_full_the_hog_is_the_victim_and_nobody_else() {
    let guest = Run::file(program("hogs"), &["pages", "160"])
        .with_mib(128)
        .with_swap("16M")
        .boot();
    assert_eq!(
        (guest.status(), text(&guest.stdout)),
        (0, "the hog ended by signal 9\ninnocents that ended: 0\n".to_owned()),
        "{}",
        text(&guest.log)
    );
    assert_eq!(guest.count("victims"), 1);
    assert_eq!(guest.count("swap.leaked"), 0);
}

#[test]
fn what_does_not_fit_into_memory_fits_with_swap() {
    // 130 MiB in a machine of 128.
    let guest = Run::new("touch", &["--mib", "130"])
        .with_mib(128)
        .with_swap("128M")
        .boot();
    printed(&guest);
}

#[test]
fn a_hash_map_of_three_times_memory_is_that_of_linux() {
    // 66 MiB, and as much again while it grows, in a machine that has some 25 free.
    let words = ["--entries", "100000"];
    let guest = Run::new("hashmap", &words).with_mib(48).with_swap("256M").boot();
    let expected = native("hashmap", &words);
    assert_eq!((printed(&guest), expected.status), (text(&expected.stdout), 0));
    assert!(guest.count("swap.reads") > 10_000, "{:#?}", guest.report);
}

#[test]
fn busybox_sorts_a_file_that_is_larger_than_memory() {
    let mut lines = String::new();
    for number in 0..600_000u64 {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(lines, "{mixed:016x} {number}").expect("a string takes any text");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lines");
    std::fs::write(&file, &lines).expect("the folder can be written");
    let mut root = Root::default();
    root.add_file("lines", false, lines.into_bytes());
    let guest = Run::file(&busybox(), &["sort", "/lines"])
        .with_files(root)
        .with_mib(56)
        .with_swap("128M")
        .boot();
    let expected = native_file(&busybox(), &["sort", &file.to_string_lossy()]);
    assert!(printed(&guest).as_bytes() == expected.stdout, "the lines differ");
    assert!(guest.count("swap.writes") > 0, "{:#?}", guest.report);
}

/// A folder of its own with these files, which becomes a disk.
fn disk(files: &[(&Path, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, name) in files {
        std::fs::copy(file, folder.path().join(name)).expect("the folder can be written");
    }
    folder
}

#[test]
fn sqlite_asks_a_database_larger_than_memory() {
    let program = sqlite();
    let folder = disk(&[]);
    let file = folder.path().join("base");
    let made = native_file(&program, &["make", &file.to_string_lossy(), "80000"]);
    assert_eq!(made.status, 0, "{}", text(&made.stdout));
    let length = std::fs::metadata(&file).expect("it was made").len();
    let expected = native_file(&program, &["ask", &file.to_string_lossy()]);
    assert_eq!(expected.status, 0, "{}", text(&expected.stdout));
    let guest = Run::file(&program, &["ask", "/mnt/base"])
        .with_mib(48)
        .with_disk(&folder.path().to_string_lossy())
        .boot();
    assert_eq!(guest.status(), 0, "{}", text(&guest.stdout));
    assert_eq!(text(&guest.stdout), text(&expected.stdout));
    // Everything of the machine, programs and tables included.
    let memory = guest.count("frames.total") * 4096;
    assert!(length > memory, "{length} bytes in {memory}");
    assert!(guest.count("disk.vda.bytes_read") > length, "{:#?}", guest.report);
    assert_eq!(guest.count("victims"), 0);
}

/// The program alone is 155 MiB long: it runs from the disk, page by page.
#[test]
fn pandoc_runs_in_64_mib() {
    let mut markdown =
        "# Faults\n\nA *page fault* is a **future**.\n\n1. one\n2. two\n\n| a | b |\n|---|--:|\n| x | 1 |\n".to_owned();
    for number in 1..=60 {
        write!(
            markdown,
            "\n## Section {number}\n\nSome *text* with `code` and [a link](to/{number}).\n"
        )
        .expect("a string takes any text");
    }
    let folder = disk(&[(&pandoc(), "pandoc")]);
    let file = folder.path().join("in.md");
    std::fs::write(&file, markdown).expect("the folder can be written");
    let expected = native_file(&pandoc(), &["-f", "markdown", "-t", "html", &file.to_string_lossy()]);
    assert_eq!(expected.status, 0, "{}", text(&expected.stderr));
    let command = "exec /mnt/pandoc -f markdown -t html /mnt/in.md";
    let guest = Run::file(&busybox(), &["sh", "-c", command])
        .with_mib(64)
        .with_disk(&folder.path().to_string_lossy())
        .with_swap("256M")
        .boot();
    assert_eq!(printed(&guest), text(&expected.stdout));
    assert!(guest.count("swap.writes") > 0, "{:#?}", guest.report);
}
