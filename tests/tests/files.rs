//! Files: what calls on them say, compared with this machine's Linux, and what they cost when a program makes them large.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, busybox, c_program, native_file};
use faultline_xtask::root::Root;

/// The longest poll that may be.
const LONGEST: Duration = Duration::from_millis(2);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(guest: &Guest) -> String {
    assert_eq!(guest.status(), 0, "{}\n{}", text(&guest.stdout), text(&guest.stderr));
    text(&guest.stdout)
}

/// Runs a program that makes something large, counted, and says what it printed; no poll may have been long. A poll ends
/// with a thread's slice, which is short here: so what is long is one call, and not the sum of many.
fn large(file: &Path, args: &[&str], mib: u64) -> String {
    let run = Run::file(file, args).with_mib(mib).set("slice", 1);
    let guest = run.measure_polls().boot();
    let printed = output(&guest);
    let (longest, task) = guest.longest_poll();
    assert!(
        longest <= LONGEST,
        "{args:?}: a poll of {longest:?} by {task}\n{printed}"
    );
    printed
}

/// The program that makes something large out of files.
fn large_files() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| c_program("largefiles", Libc::Gnu))
}

/// Runs a program on both kernels; the outputs are the same, line by line.
fn same_as_native(name: &str) {
    let program = c_program(name, Libc::Gnu);
    let native = native_file(&program, &[]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    let ours = output(&Run::file(&program, &[]).boot());
    for (ours, linux) in ours.lines().zip(text(&native.stdout).lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(ours, text(&native.stdout));
}

#[test]
fn transfers_that_get_only_a_part_of_the_way_are_as_on_linux() {
    same_as_native("partial");
}

#[test]
fn holes_and_new_ends_are_seen_by_all_who_have_mapped_the_file() {
    same_as_native("holes");
}

#[test]
fn named_pipes_moved_pages_and_files_of_signals_and_processes_are_as_on_linux() {
    same_as_native("movers");
}

#[test]
fn the_one_user_and_writing_back_are_as_on_linux() {
    same_as_native("others");
}

/// The number behind a word in what a program printed.
fn number(printed: &str, word: &str) -> u64 {
    let line = printed.lines().find_map(|line| line.strip_prefix(word));
    let number = line.unwrap_or_else(|| panic!("no {word} in {printed}")).trim();
    number.parse().unwrap_or_else(|_| panic!("{word}{number}"))
}

#[test]
fn calls_on_files_say_what_they_say_on_linux() {
    let program = c_program("filecalls", Libc::Gnu);
    let native = native_file(&program, &[]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    let printed = output(&Run::file(&program, &[]).boot());
    for (ours, linux) in printed.lines().zip(text(&native.stdout).lines()) {
        assert_eq!(ours, linux);
    }
    assert_eq!(printed, text(&native.stdout));
}

#[test]
fn deep_directories_are_entered_named_moved_and_given_up() {
    let program = large_files();
    // The account at the end shows that the tree was taken apart without the kernel's stack.
    let printed = large(program, &["deep", "3000", "1"], 64);
    assert_eq!(number(&printed, "deep "), 3000);
    assert!(printed.contains("getcwd: File name too long\n"), "{printed}");
    assert!(printed.contains("into itself: Invalid argument\n"), "{printed}");
    assert!(printed.contains("up again: 3000\n"), "{printed}");
    let printed = large(program, &["deep", "20000", "250"], 64);
    // The names take twenty times what the smallest heap has: it grows, or the call fails.
    let failed = printed.contains("mkdir: Cannot allocate memory\n");
    assert!(number(&printed, "deep ") == 20_000 || failed, "{printed}");
}

#[test]
fn a_large_directory_is_searched_and_listed_piece_by_piece() {
    let program = large_files();
    let printed = large(program, &["names", "4000"], 128);
    assert!(printed.contains("listed 4000, 0 twice, 0 missed\n"), "{printed}");
    // An entry of a listing, and a look-up in a full directory, in instructions with those of user mode.
    let (entry, search) = (number(&printed, "an entry: "), number(&printed, "a look-up: "));
    assert!(entry < 1000, "{entry} instructions an entry");
    assert!(search < 4000, "{search} instructions a look-up");
    let printed = large(program, &["names", "200000"], 64);
    assert!(printed.contains("create: Cannot allocate memory\n"), "{printed}");
    assert!(printed.contains(" 0 twice, 0 missed\n"), "{printed}");
}

#[test]
fn a_path_of_many_links_lets_others_run() {
    let printed = large(large_files(), &["links"], 64);
    assert_eq!(
        printed,
        "39 links of 2,047 parts: ok\nand one of many parts: ok\n40 links and one more: Too many levels of symbolic links\n"
    );
}

#[test]
fn proc_shows_many_regions_piece_by_piece() {
    let program = large_files();
    let printed = large(program, &["maps", "20000"], 256);
    let regions = number(&printed, "regions ");
    assert!(regions >= 20_000, "{printed}");
    assert_eq!(number(&printed, "lines "), regions, "{printed}");
    assert!(number(&printed, "open: ") < 20_000, "{printed}");
}

#[test]
fn arguments_are_as_many_as_on_linux_and_no_more() {
    let program = large_files();
    let printed = large(program, &["arguments"], 128);
    let native = native_file(program, &["arguments"]);
    assert_eq!(native.status, 0, "on Linux: {}", text(&native.stderr));
    assert_eq!(printed, text(&native.stdout));
}

#[test]
fn a_large_sparse_program_runs_from_its_file() {
    let printed = large(large_files(), &["program"], 64);
    assert_eq!(printed, "the program runs\nstatus 0\n");
}

#[test]
fn what_is_cut_off_a_large_file_goes_back() {
    let printed = large(large_files(), &["cut"], 128);
    assert_eq!(printed, "written 60 times 48 MiB\n");
}

#[test]
fn many_locks_on_a_file_are_bounded() {
    let printed = large(large_files(), &["locks"], 64);
    assert!(number(&printed, "locks ") >= 1000, "{printed}");
    assert!(printed.contains("then: No locks available\n"), "{printed}");
    assert!(printed.contains("after: 0\n"), "{printed}");
}

#[test]
fn a_free_descriptor_is_found_without_a_walk() {
    let printed = large(large_files(), &["descriptors"], 64);
    assert!(printed.contains("100 of 100 took the only free one\n"), "{printed}");
    let cost = number(&printed, "a dup and a close: ");
    assert!(cost < 1500, "{cost} instructions for a dup and a close");
}

#[test]
fn a_thousand_large_files_are_closed_piece_by_piece() {
    assert_eq!(large(large_files(), &["thousand"], 512), "1000 open\n");
}

#[test]
fn an_empty_proc_in_the_root_is_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["proc", "dev", "bin", "deep/er"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let root = Root::of_folder(folder.path()).unwrap();
    let command =
        "cat /proc/self/comm /proc/$$/comm; [ -d /dev/shm ] && echo shm; ls /dev/fd/ | head -n 1; ls -d /deep/er";
    let guest = Run::file(&busybox(), &["sh", "-c", command]).with_files(root).boot();
    assert_eq!(output(&guest), "cat\nbusybox\nshm\n0\n/deep/er\n");
}

#[test]
fn a_root_of_a_hundred_thousand_files_boots_on_a_small_machine() {
    let mut root = Root::default();
    for number in 0..100_000 {
        root.add_file(
            &format!("many/{}/{number}", number % 100),
            false,
            vec![b'x'; number % 3],
        );
    }
    let command =
        "cat /many/99/99999 | wc -c; ls /many/7 | wc -l; ls /many | wc -l; echo new > /many/7/new; cat /many/7/new";
    let guest = Run::file(&busybox(), &["sh", "-c", command]).with_files(root).boot();
    assert_eq!(output(&guest), "0\n1000\n100\nnew\n");
}
