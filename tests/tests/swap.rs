//! Swap: programs that use more memory than there is, and what they are told about it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use faultline_tests::{Guest, Libc, Run, c_program};

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| c_program("swap", Libc::Gnu))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    assert_eq!(
        guest.count("swap.leaked"),
        0,
        "slots are left when all programs are gone"
    );
    text(&guest.stdout)
}

#[test]
fn swapon_and_swapoff_say_what_they_say_on_linux() {
    let guest = Run::file(program(), &["calls", "/dev/vda"])
        .with_swap("model:1M,latency=1us")
        .boot();
    let expected = "flags: Invalid argument\n\
         nothing: No such file or directory\n\
         a device of characters: Invalid argument\n\
         a folder: Invalid argument\n\
         a bad address: Bad address\n\
         off, a folder: Invalid argument\n\
         off: done\n\
         off again: Invalid argument\n\
         0 and 0 bytes of swap\n\
         on: done\n\
         on again: Device or resource busy\n\
         1\n\
         1\n\
         Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
         /dev/vda                                partition\t1024\t\t0\t\t-2\n";
    assert_eq!(output(&guest), expected);
}

#[test]
fn a_program_has_more_memory_than_the_machine() {
    // The modelled disk is memory of the machine, too: some 30 MiB are left for 40 MiB and what a child changes of them.
    let guest = Run::file(program(), &["more", "40"])
        .with_mib(132)
        .with_swap("model:80M,latency=10us,depth=64")
        .set("audit", 20)
        .counted()
        .boot();
    assert_eq!(output(&guest), "10240 pages are right\n");
    assert!(guest.count("swap.writes") > 4096, "{:?}", guest.report);
    assert_eq!((guest.count("victims"), guest.count("audit.errors")), (0, 0));
}

#[test]
fn a_virtio_disk_is_swapped_to() {
    let guest = Run::file(program(), &["more", "48"])
        .with_mib(48)
        .with_swap("160M")
        .set("audit", 50)
        .boot();
    assert_eq!(output(&guest), "12288 pages are right\n");
    assert_eq!((guest.count("victims"), guest.count("audit.errors")), (0, 0));
}

#[test]
fn advice_moves_pages_out_and_in() {
    let guest = Run::file(program(), &["advice"])
        .with_swap("model:4M,latency=10us")
        .counted()
        .boot();
    let expected = "written: 64 present, 0 swapped\n\
         paged out: 0 present, 64 swapped\n\
         VmSwap 256 kB\n\
         Swap 256 kB\n\
         read: 64 present, 0 swapped\n\
         pages went out: 1\n\
         pages came in, or were still there: 1\n\
         paged out again: 0 present, 64 swapped\n\
         written again: 0\n\
         more is referenced: 1\n\
         PAGEOUT of what is locked: Invalid argument\n\
         locked: 8 present, 0 swapped\n\
         unlocked and paged out: 0 present, 8 swapped\n\
         locked again: 8 present, 0 swapped\n\
         VmSwap 0 kB\n\
         LazyFree 256 kB\n\
         REMOVE of private memory: Invalid argument\n\
         FREE of shared memory: Invalid argument\n\
         PAGEOUT over a hole: Cannot allocate memory\n\
         COLD, not aligned: Invalid argument\n\
         done\n";
    assert_eq!(output(&guest), expected);
}

#[test]
fn faults_that_block_wait_one_after_the_other() {
    // How long a touch takes on the mean where 8 threads read pages back. The disk takes 10,000 of it: eight times that where
    // each waits for those before it.
    let mean = |fault: &str| {
        let words = ["--suite", "swap", "--fields", "--filter", "swap-in, 8 threads"];
        let guest = Run::new("bench", &words)
            .with_mib(384)
            .with_swap("model:64M,latency=10us,bandwidth=0")
            .set("fault", fault)
            .set("zero_pool", "off")
            .counted()
            .boot();
        let text = output(&guest);
        let field = text.split_whitespace().find_map(|word| word.strip_prefix("mean="));
        field.and_then(|mean| mean.parse::<u64>().ok()).expect(&text)
    };
    let (queued, blocking) = (mean("queued"), mean("blocking"));
    assert!(queued < 40_000 && blocking >= 80_000, "{queued} {blocking}");
}

#[test]
fn swap_is_switched_off_under_load() {
    let guest = Run::file(program(), &["off", "/dev/vda", "12"])
        .with_mib(96)
        .with_swap("model:24M,latency=20us")
        .set("audit", 20)
        .counted()
        .boot();
    assert_eq!(output(&guest), "off and on\n");
    assert_eq!(guest.count("audit.errors"), 0);
}

/// Whether a program was right to the end, or ended by SIGBUS when a page of its own could not be read.
fn is_right_or_lost_a_page(guest: &Guest) -> bool {
    const SIGBUS: u8 = 128 + 7;
    let status = guest.status();
    assert!(
        status == 0 || status == SIGBUS,
        "{status}: {}{}",
        text(&guest.stdout),
        text(&guest.stderr)
    );
    assert_eq!((guest.count("swap.leaked"), guest.count("audit.errors")), (0, 0));
    status == 0
}

#[test]
fn errors_of_the_disk_cost_no_wrong_byte() {
    let guest = Run::file(program(), &["more", "40"])
        .with_mib(132)
        .with_swap("model:80M,latency=10us,errors=0.002,seed=5")
        .set("audit", 20)
        .counted()
        .boot();
    is_right_or_lost_a_page(&guest);
    assert!(guest.count("swap.errors") > 0);
}

#[test]
fn a_disk_that_hangs_ends_those_who_need_it_and_nobody_else() {
    let guest = Run::file(program(), &["more", "40"])
        .and("hello", &[])
        .with_mib(132)
        .with_swap("model:80M,latency=10us,hang=300,timeout=20ms")
        .counted()
        .boot();
    assert_eq!(guest.statuses()[1], 0);
    assert_ne!(guest.statuses()[0], 0);
    assert_eq!(guest.count("swap.leaked"), 0);
}

#[test]
fn a_full_swap_area_has_its_victim() {
    let guest = Run::file(program(), &["more", "60"])
        .and("hello", &[])
        .with_mib(64)
        .with_swap("8M")
        .boot();
    // A kernel that has something to do all the time would not hear of the disk.
    let log = text(&guest.log);
    assert!(!log.contains("did not answer"), "{log}");
    assert_eq!(guest.statuses(), [128 + 9, 0]);
    let victims = guest.count("victims");
    assert!((1..=2).contains(&victims), "{victims}");
    assert_eq!(guest.count("swap.leaked"), 0);
    let report = guest.account();
    assert!(
        report
            .text("victim.0")
            .is_some_and(|victim| victim.contains("`swap-gnu")),
        "{report:?}"
    );
}

/// Nothing else wakes the CPU up between the start and the first program.
#[test]
fn a_machine_with_a_disk_and_no_timer_starts() {
    let guest = Run::new("hello", &[])
        .counted()
        .set("zero_pool", "off")
        .with_swap("model:1M,latency=1us")
        .boot();
    assert_eq!(guest.status(), 0, "{}", text(&guest.stderr));
}
