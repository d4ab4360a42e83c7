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
