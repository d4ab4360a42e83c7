//! Disks: what a program reads from `/dev/vda` is what the disk holds, on a virtio disk and on a modelled one, also while
//! they fail, hang and are slow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use faultline_tests::{Guest, Libc, Run, busybox, c_program};
use faultline_xtask::root::Root;

/// Bytes of the disk: not whole pages.
const SIZE: usize = (3 << 20) + 512;

/// A file with the content that the program expects.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let file = faultline_xtask::workspace::target_dir().join(format!("image-{}", std::process::id()));
        let expected = |at: usize| ((at >> 9) * 31 + (at & 511) * 7 + (at >> 20)) as u8;
        fs::write(&file, (0..SIZE).map(expected).collect::<Vec<_>>()).expect("the target directory can be written");
        file
    })
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| c_program("disk", Libc::Gnu))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads from a disk with so many threads, so often each.
fn reading(disk: &str, threads: &str, reads: &str) -> Run {
    let disk = disk.replace("FILE", &image().to_string_lossy());
    Run::file(program(), &["/dev/vda", threads, reads]).with_disk(&disk)
}

/// The number of reads that failed.
fn errors(guest: &Guest) -> u64 {
    assert_eq!(guest.status(), 0, "{}{}", text(&guest.stdout), text(&guest.stderr));
    let printed = text(&guest.stdout);
    let (first, last) = printed.trim().split_once('\n').expect("two lines");
    assert_eq!(first, format!("a disk of {SIZE} bytes"));
    assert_eq!(guest.count("disk.vda.in_flight"), 0);
    last.strip_suffix(" errors")
        .expect("a number of errors")
        .parse()
        .expect("a number")
}

#[test]
fn many_threads_read_a_virtio_disk_byte_for_byte() {
    let guest = reading("FILE,ro", "64", "20").boot();
    assert_eq!(errors(&guest), 0);
    // All of them wait for the disk together before the first one is served.
    assert!(guest.count("disk.vda.most_at_once") > 32, "{:?}", guest.report);
    assert_eq!(guest.count("disk.vda.errors"), 0);
}

#[test]
fn queues_may_be_short() {
    for size in ["128", "16"] {
        let queue = format!("virtio-blk-pci.queue-size={size}");
        let guest = reading("FILE", "64", "5").with_qemu(&["-global", &queue]).boot();
        assert_eq!(errors(&guest), 0);
    }
}

#[test]
fn many_threads_read_a_modelled_disk_and_runs_repeat() {
    let run = || {
        let model = "model:FILE,latency=5ms,bandwidth=1G,depth=16,jitter=0.2,seed=3";
        let guest = reading(model, "64", "10").counted().boot();
        assert_eq!(errors(&guest), 0);
        assert_eq!(guest.count("disk.vda.most_at_once"), 64);
        guest.count("time.ns")
    };
    assert_eq!(run(), run());
}

#[test]
fn a_modelled_disk_is_as_slow_as_it_is_told_to_be() {
    let time = |latency: &str| {
        let guest = reading(&format!("model:FILE,latency={latency}"), "1", "100")
            .counted()
            .boot();
        errors(&guest);
        (guest.count("time.ns"), guest.count("disk.vda.reads"))
    };
    let ((quick, reads), (slow, again)) = (time("0"), time("1ms"));
    assert_eq!(reads, again);
    let added = (slow - quick) / reads;
    assert!((990_000..1_010_000).contains(&added), "{added} ns a read");
}

#[test]
fn a_file_and_the_disk_made_of_it_compare_equal() {
    for disk in ["FILE,ro", "model:FILE"] {
        let mut root = Root::default();
        root.add_file("image", false, fs::read(image()).expect("the image can be read"));
        let disk = disk.replace("FILE", &image().to_string_lossy());
        let guest = Run::file(&busybox(), &["cmp", "/dev/vda", "/image"])
            .with_files(root)
            .with_disk(&disk)
            .boot();
        assert_eq!(
            guest.status(),
            0,
            "{disk}: {}{}",
            text(&guest.stdout),
            text(&guest.stderr)
        );
    }
}

#[test]
fn errors_of_a_disk_are_errors_of_its_readers() {
    let guest = reading("model:FILE,errors=0.1", "16", "50").boot();
    let failed = errors(&guest);
    assert!(failed > 0);
    assert!(guest.count("disk.vda.errors") >= failed);
}

#[test]
fn a_disk_that_never_answers_is_given_up() {
    let guest = reading("model:FILE,hang=100,timeout=20ms", "64", "10").counted().boot();
    assert!(errors(&guest) > 400);
    // A device that serves a request a second is as good as none for who waits a fifth of that.
    let slow = [
        "-drive",
        "if=none,id=slow,format=raw,readonly=on,throttling.iops-total=1",
    ];
    let file = format!("{},file={}", slow[1], image().display());
    let guest = Run::file(program(), &["/dev/vda", "64", "3"])
        .set("disk", "virtio,timeout=200ms")
        .with_qemu(&[slow[0], &file, "-device", "virtio-blk-pci,drive=slow,disable-legacy=on"])
        .boot();
    assert!(errors(&guest) > 150);
    assert!(text(&guest.log).contains("disk vda did not answer for 200 ms, and was given up"));
}

#[test]
fn disks_are_named_in_order_and_the_swap_area_comes_last() {
    let guest = Run::file(&busybox(), &["ls", "-l", "/dev/vda", "/dev/vdb", "/dev/vdc"])
        .with_disk(&format!("model:{}", image().display()))
        .with_disk(&format!("{},ro", image().display()))
        .with_swap("1M")
        .boot();
    let listed = text(&guest.stdout);
    assert_eq!(guest.status(), 0, "{}", text(&guest.stderr));
    assert_eq!(
        listed.lines().filter(|line| line.starts_with("br--r-----")).count(),
        3,
        "{listed}"
    );
    let log = text(&guest.log);
    for line in [
        "disk vda: 3072 KiB, a model, read-only",
        "disk vdb: 3072 KiB, read-only",
        "disk vdc: 1024 KiB, for swap",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_disk_that_cannot_be_ends_the_boot_with_its_reason() {
    for (line, said) in [
        ("virtio", "disk vda: the machine has no virtio disk for it"),
        ("virtio,depth=0", "`depth` takes a number from 1 to 1024, not `0`"),
        ("floppy", "it is neither virtio nor model:SIZE"),
        ("model:/nothing", "the ramdisk has no file nothing"),
        ("model:1T", "no room for a modelled disk of 1073741824 KiB"),
    ] {
        let guest = Run::file(program(), &["/dev/vda", "1", "1"]).set("disk", line).boot();
        let (_, message) = guest.failure.as_ref().unwrap_or_else(|| panic!("{line} was taken"));
        assert!(message.contains(said), "{line}: {message}");
    }
}
