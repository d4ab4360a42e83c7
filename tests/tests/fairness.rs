//! Who gets the CPU and when: polls, time slices, shares, timers. All under `--accel icount`, where an instruction is a
//! nanosecond.

use std::time::Duration;

use faultline_tests::{Libc, Run, c_program};

#[test]
fn the_longest_poll_of_the_kernel_does_not_count_user_mode() {
    let guest = Run::file(&c_program("spin", Libc::Musl), &["30"])
        .measure_polls()
        .boot();
    assert_eq!(guest.status(), 0);
    let (longest, task) = guest.longest_poll();
    assert!(
        longest > Duration::from_micros(1) && longest < Duration::from_micros(500),
        "{longest:?} {task}"
    );
    let guest = Run::new("hello", &[]).set("selftest", "stall").measure_polls().boot();
    assert_eq!(guest.status(), 0);
    let (longest, task) = guest.longest_poll();
    assert!(
        longest > Duration::from_millis(20) && longest < Duration::from_micros(21_500),
        "{longest:?} {task}"
    );
    assert!(task.starts_with("holder,"), "{task}");
}
