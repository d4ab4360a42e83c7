//! A million system calls with wild numbers and pointers from ring 3: the kernel survives, answers to the end, and has
//! lost no frame and no fault. No poll of the kernel takes more than 2 ms.
//!
//! The clock counts instructions, so the run is the same each time.

use std::time::Duration;

use faultline_tests::Run;

#[test]
fn a_million_wild_calls_do_no_harm() {
    let guest = Run::new("calls", &["--count", "1000000", "--seed", "3"])
        .measure_polls()
        .limited(Duration::from_secs(600))
        .boot();
    let said = String::from_utf8_lossy(&guest.stdout);
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    assert_eq!(said, "1000000 calls\n");
    let (longest, task) = guest.longest_poll();
    assert!(longest <= Duration::from_millis(2), "{longest:?} {task}");
    assert_eq!((guest.count("frames.leaked"), guest.count("faults.in_flight")), (0, 0));
}
