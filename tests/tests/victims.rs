//! When memory is short, whoever holds most of it is ended, in whatever form it holds it, and the report says so.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use faultline_tests::{Guest, Libc, Run, c_program};

const MIB: u64 = 128;

/// More than is free in a machine of [`MIB`], and less than it has.
const HOG: &str = "119";

/// The longest poll that may be.
const LONGEST: Duration = Duration::from_millis(2);

/// The program, built once for all tests.
fn hogs() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| c_program("hogs", Libc::Gnu))
}

/// Runs a hog of more memory than there is beside innocents, and checks that it is the only victim.
fn only_the_hog(what: &str) -> Guest {
    let guest = Run::file(hogs(), &[what, HOG]).with_mib(MIB).measure_polls().boot();
    let (longest, whose) = guest.longest_poll();
    assert!(longest < LONGEST, "a poll took {longest:?}: {whose}");
    let text = String::from_utf8_lossy(&guest.stdout);
    assert_eq!(guest.status(), 0, "{text}");
    let log = String::from_utf8_lossy(&guest.log);
    assert_eq!(
        text, "the hog ended by signal 9\ninnocents that ended: 0\n",
        "a hog of {what}:\n{log}"
    );
    guest
}

/// What the report says of the first victim: KiB in all, mapped, of tables, of files, of the heap.
fn held(guest: &Guest) -> [u64; 5] {
    let victim = guest.account().text("victim.0").expect("the victim is named");
    assert!(victim.contains("`hogs-gnu-stati"), "{victim}");
    let (_, amounts) = victim.split_once("held most: ").expect("the amounts");
    let numbers: Vec<u64> = amounts
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers[..5].try_into().expect("five amounts")
}

#[test]
fn a_hog_of_page_tables_is_the_victim() {
    let guest = only_the_hog("tables");
    let [all, mapped, tables, ..] = held(&guest);
    assert!(
        tables > 64 << 10 && mapped < 4 << 10 && all >= tables,
        "{tables} of {all}"
    );
    assert_eq!(guest.count("victims"), 1);
}

#[test]
fn a_hog_of_an_object_that_nobody_maps_is_the_victim() {
    let [all, mapped, _, objects, _] = held(&only_the_hog("object"));
    assert!(
        objects > 64 << 10 && mapped < 40 << 10 && all >= objects,
        "{objects} of {all}, {mapped} mapped"
    );
}

#[test]
fn a_hog_of_an_object_with_two_holders_is_the_first_victim() {
    let guest = Run::file(hogs(), &["shared", HOG]).with_mib(MIB).boot();
    let text = String::from_utf8_lossy(&guest.stdout);
    assert_eq!(
        (guest.status(), text.contains("an innocent"), text.contains("ended: 0")),
        (0, false, true),
        "{text}"
    );
    let [all, _, _, objects, _] = held(&guest);
    assert!(
        objects > 32 << 10 && objects < all && all < 80 << 10,
        "half of the object: {objects} of {all}"
    );
}

#[test]
fn a_hog_of_pages_is_the_victim() {
    let [all, mapped, ..] = held(&only_the_hog("pages"));
    assert!(mapped > 64 << 10 && all >= mapped, "{mapped} of {all}");
}

#[test]
fn a_hog_of_pipes_answers_for_them() {
    let [all, _, _, pipes, _] = held(&only_the_hog("pipes"));
    assert!(pipes > 24 << 10 && all > 64 << 10, "{pipes} of {all}");
}

#[test]
fn an_adjustment_weighs_in_the_choice() {
    let file = c_program("chosen", Libc::Gnu);
    // The first holds 70 MiB and the second less than 50, so that a fifth of 128 MiB decides.
    for (adjustment, chosen) in [
        ("0", "first"),
        ("-100", "first"),
        ("-600", "second"),
        ("-1000", "second"),
    ] {
        let guest = Run::file(&file, &[adjustment]).with_mib(MIB).boot();
        let text = String::from_utf8_lossy(&guest.stdout).into_owned();
        assert_eq!(text, format!("the {chosen} was chosen, signal 9\n"), "{adjustment}");
        assert_eq!((guest.status(), guest.count("victims")), (0, 1));
    }
}
