//! A file system on a disk: what programs read, map and execute from it, compared with the folder that it was made of.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use faultline_tests::images::{bytes, folder, image, index, sparse};
use faultline_tests::{Guest, Libc, Run, busybox, c_program, native_file};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| c_program("mounted", Libc::Gnu))
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    text(&guest.stdout)
}

/// What the program prints about a folder on Linux.
fn on_linux(what: &[&str]) -> String {
    let native = native_file(program(), what);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    text(&native.stdout)
}

/// Compares line by line, so that a failure shows the first difference.
fn assert_same(ours: &str, linux: &str) {
    for (ours, linux) in ours.lines().zip(linux.lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(ours, linux);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a temporary name is UTF-8")
}

#[test]
fn every_byte_is_read_and_mapped_as_on_linux() {
    let folder = folder();
    let linux = on_linux(&["tree", path(folder.path())]);
    for options in [
        &["-b", "1024"][..],
        &["-b", "2048"],
        &["-b", "4096"],
        &["-b", "1024", "-t", "ext2"],
    ] {
        let image = image(folder.path(), 32, options);
        let disk = path(image.path());
        for disk in [format!("{disk},ro"), format!("model:{disk},latency=20us")] {
            let guest = Run::file(program(), &["tree", "/mnt"])
                .with_disk(&disk)
                .measure_polls()
                .boot();
            assert_same(&output(&guest), &linux);
            let (longest, task) = guest.longest_poll();
            assert!(longest <= Duration::from_millis(2), "a poll of {longest:?} by {task}");
        }
    }
}

#[test]
fn nothing_on_the_disk_can_be_changed() {
    let folder = folder();
    let image = image(folder.path(), 32, &["-b", "4096"]);
    let before = fs::read(image.path()).unwrap();
    // Without `ro`: it is not the disk that refuses.
    let guest = Run::file(program(), &["refuse", "/mnt"])
        .with_disk(path(image.path()))
        .boot();
    let expected = include_str!("golden/mounted-refuse.txt");
    assert_same(&output(&guest), expected);
    assert!(fs::read(image.path()).unwrap() == before);
}

#[test]
fn ten_thousand_names_are_listed_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let name = |number: usize| folder.path().join(format!("name {number} of many"));
    fs::write(name(0), []).unwrap();
    for number in 1..10_000 {
        fs::hard_link(name(0), name(number)).unwrap();
    }
    let image = image(folder.path(), 16, &["-b", "4096"]);
    // Without an index each name is looked for from the start, which takes longer.
    for step in [50, 1] {
        if step == 1 {
            index(&image);
        }
        let run = Run::file(program(), &["names", "/mnt", "10000", &step.to_string()]);
        let guest = run.with_disk(path(image.path())).measure_polls().boot();
        let found = 10_000 / step;
        // With `lost+found`.
        let expected = format!("listed 10001, found {found}, one more: ENOENT\n100 of 100 again\n");
        assert_eq!(output(&guest), expected);
        let (longest, task) = guest.longest_poll();
        assert!(longest <= Duration::from_millis(2), "a poll of {longest:?} by {task}");
    }
}

#[test]
fn a_page_that_several_processes_want_is_read_once() {
    const PAGES: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), bytes(1, PAGES * 4096 - 100)).unwrap();
    let image = image(folder.path(), 16, &["-b", "4096"]);
    let disk = format!("model:{},latency=100us", path(image.path()));
    let read = |processes: &str| {
        let guest = Run::file(program(), &["join", "/mnt/file", processes])
            .with_disk(&disk)
            .counted()
            .boot();
        let printed = output(&guest);
        (guest.count("disk.vda.bytes_read"), printed)
    };
    let ((alone, one), (together, eight)) = (read("1"), read("8"));
    assert_eq!(eight, one.repeat(8));
    assert!(alone >= PAGES as u64 * 4096, "{alone} bytes read by one");
    assert_eq!(together, alone, "bytes read by eight, and by one");
}

#[test]
fn a_file_larger_than_memory_is_read_and_mapped_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, bytes(1, 96 << 20)).unwrap();
    let linux = on_linux(&["join", path(&file), "1"]);
    let image = image(folder.path(), 128, &["-b", "4096"]);
    // Two processes that map it, one privately and one shared.
    let guest = Run::file(program(), &["join", "/mnt/file", "2"])
        .with_disk(path(image.path()))
        .with_mib(48)
        .boot();
    assert_same(&output(&guest), &linux.repeat(2));
    assert_eq!(guest.count("victims"), 0);
    // And one that reads it, through a pipe and into a file in memory: what was read makes room for both.
    let script = |file: &str, copy: &str| {
        format!("cat {file} | md5sum; head -c 3000000 {file} > {copy}; md5sum < {copy}; rm {copy}")
    };
    let copy = tempfile::NamedTempFile::new().unwrap();
    let native = native_file(&busybox(), &["sh", "-c", &script(path(&file), path(copy.path()))]);
    let command = script("/mnt/file", "/tmp/copy");
    let guest = Run::file(&busybox(), &["sh", "-c", &command])
        .with_disk(path(image.path()))
        .with_mib(48)
        .boot();
    assert_eq!(output(&guest), text(&native.stdout), "{}", text(&guest.stderr));
}

#[test]
fn a_sparse_file_of_three_gibibytes_shows_both_ends() {
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let places = [(0, 10_000), (GIB, 4096), (2 * GIB + 8192, 1), (3 * GIB - 4096, 4096)];
    sparse(&folder.path().join("huge"), &places);
    let huge = folder.path().join("huge");
    let linux = on_linux(&["huge", path(&huge)]);
    let image = image(folder.path(), 16, &["-b", "4096"]);
    let guest = Run::file(program(), &["huge", "/mnt/huge"])
        .with_disk(path(image.path()))
        .boot();
    assert_same(&output(&guest), &linux);
}

#[test]
fn a_disk_that_fails_now_and_then_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), bytes(1, 3_000_000)).unwrap();
    let file = folder.path().join("file");
    let linux = on_linux(&["errors", path(&file)]);
    let image = image(folder.path(), 16, &["-b", "4096"]);
    let mut failed = (0, 0);
    for seed in 1..=4 {
        let disk = format!("model:{},latency=10us,errors=0.05,seed={seed}", path(image.path()));
        let guest = Run::file(program(), &["errors", "/mnt/file"])
            .with_disk(&disk)
            .counted()
            .boot();
        assert_same(&output(&guest), &linux);
        assert_eq!(guest.count("disk.vda.in_flight"), 0);
        let said = text(&guest.stderr);
        let mut numbers = said.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        failed.0 += numbers.next().unwrap();
        failed.1 += numbers.next().unwrap();
    }
    assert!(failed.0 > 0 && failed.1 > 0, "EIO and SIGBUS: {failed:?}");
}

#[test]
fn who_waits_for_a_disk_that_hangs_can_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, bytes(1, 1_000_000)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("file.d")).unwrap();
    for number in 0..500 {
        fs::write(folder.path().join(format!("file.d/{number}")), []).unwrap();
    }
    let image = image(folder.path(), 16, &["-b", "1024"]);
    for hang in [8, 12, 16] {
        // The disk is given up at last, so that its frames come back; that is after all are gone, also if it has no time limit.
        let limit = if hang == 12 { "0" } else { "1s" };
        let disk = format!("model:{},latency=10us,hang={hang},timeout={limit}", path(image.path()));
        let guest = Run::file(program(), &["hang", "/mnt/file"])
            .with_disk(&disk)
            .counted()
            .boot();
        assert_eq!(output(&guest), "12 of 12 killed\n", "hang={hang}");
        assert!(guest.count("disk.vda.errors") > 0);
    }
}

#[test]
fn programs_and_scripts_run_from_the_disk() {
    let folder = folder();
    fs::copy(busybox(), folder.path().join("busybox")).unwrap();
    fs::copy(program(), folder.path().join("program")).unwrap();
    let linux = on_linux(&["tree", path(&folder.path().join("many"))]);
    for options in [&["-b", "1024"][..], &["-b", "4096"]] {
        let image = image(folder.path(), 32, options);
        let script = "cd /mnt && ./script 1 2 && ./program tree many && cat /proc/mounts && readlink /proc/self/exe";
        let guest = Run::file(&busybox(), &["sh", "-c", &format!("/mnt/busybox sh -c '{script}'")])
            .with_disk(path(image.path()))
            .boot();
        let mounts = "rootfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda /mnt ext4 ro 0 0\n";
        let expected = format!("a script on a disk, 1 2\n{linux}{mounts}/mnt/busybox\n");
        assert_same(&output(&guest), &expected);
    }
}

#[test]
fn a_damaged_file_system_does_no_harm() {
    let folder = folder();
    let whole = image(folder.path(), 16, &["-b", "1024"]);
    let sound = fs::read(whole.path()).unwrap();
    for seed in 0..6_usize {
        let mut mangled = sound.clone();
        // Superblock aside, in what begins the file system: group descriptors, bitmaps, inodes, directories.
        for (place, value) in bytes(seed, 6000).chunks_exact(3).map(|at| (at, at[2])) {
            let at = 2048 + (usize::from(place[0]) << 8 | usize::from(place[1])) * 16;
            mangled[at % (1 << 20)] = value;
        }
        fs::write(whole.path(), &mangled).unwrap();
        let guest = Run::file(program(), &["tree", "/mnt"])
            .with_disk(&format!("{},ro", path(whole.path())))
            .boot();
        // It may fail, but the machine does not: the account holds.
        let _ = guest.statuses();
    }
}
