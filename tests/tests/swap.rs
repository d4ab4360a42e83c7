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
