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
         PAGEOUT of what is locked: Invalid argument\n\
         locked: 8 present, 0 swapped\n\
         unlocked and paged out: 0 present, 8 swapped\n\
         locked again: 8 present, 0 swapped\n\
         VmSwap 0 kB\n\
         done\n";
    assert_eq!(output(&guest), expected);
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
