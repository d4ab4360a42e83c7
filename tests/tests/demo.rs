//! What the demo shows of faults that wait for a disk, from the trace of the same machine.

use faultline_tests::{Guest, Run, native};
use faultline_xtask::demo::waiting::{self, Beside};
use faultline_xtask::trace::{Event, Trace};

fn boot() -> (Guest, Trace) {
    let [(task, args)] = waiting::TASK else {
        panic!("one task waits");
    };
    let run = waiting::SETTINGS
        .iter()
        .fold(Run::new(task, args), |run, (key, value)| run.set(key, value));
    let guest = run.counted().with_swap(waiting::SWAP).boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    assert_eq!(guest.stdout, native(task, args).stdout, "the same words as on Linux");
    let trace = guest.trace();
    (guest, trace)
}

fn lines(events: &[&Event]) -> String {
    events.iter().map(|event| format!("{}\n", event.line)).collect()
}

#[test]
fn a_fault_waits_for_the_disk_while_three_others_are_served() {
    let (guest, trace) = boot();
    let beside = Beside::find(&trace).expect("a fault waits beside three");
    assert_eq!(beside.served.len(), 3);
    let faults: Vec<_> = trace
        .events
        .iter()
        .filter(|event| event.fault == beside.waiting || beside.served.contains(&event.fault))
        .collect();
    let steps: Vec<_> = faults.iter().map(|event| (event.fault, event.name.as_str())).collect();
    // The one that waits is admitted and parked; each of the others is admitted, served and resumed; then the page comes.
    let mut expected: Vec<_> = ["trap", "queue", "serve", "frame", "wait"]
        .map(|step| (beside.waiting, step))
        .into();
    for &fault in &beside.served {
        let served = ["trap", "queue", "serve", "frame", "fill", "commit", "wake", "resume"];
        expected.extend(served.map(|step| (fault, step)));
    }
    expected.extend(["serve", "commit", "wake", "resume"].map(|step| (beside.waiting, step)));
    let expected: Vec<_> = expected
        .iter()
        .map(|(fault, step)| (*fault, format!("fault.{step}")))
        .collect();
    let found: Vec<_> = steps.iter().map(|(fault, name)| (*fault, (*name).to_owned())).collect();
    assert_eq!(found, expected, "{}", lines(&faults));
    assert!(faults.is_sorted_by_key(|event| event.time));
    // Four threads of one process, one fault each.
    let mut tasks: Vec<_> = faults.iter().map(|event| event.task).collect();
    tasks.dedup();
    assert_eq!((tasks.len(), tasks[0]), (5, tasks[4]), "{}", lines(&faults));
    assert!(faults.iter().all(|event| event.space == faults[0].space));
    assert_eq!(faults[2].fields["class"], "swap");
    // The disk takes 50 ms, at one instruction a nanosecond; the others together take less.
    assert!((50_000_000..50_100_000).contains(&beside.ticks), "{beside:?}");
    assert_eq!(guest.count("faults.in_flight"), 0);
}

#[test]
fn two_processes_join_on_one_page_of_a_file() {
    let (guest, trace) = boot();
    let [first, second] = waiting::joined(&trace).expect("two processes want one page");
    let steps = [
        "fault.trap",
        "fault.queue",
        "fault.serve",
        "fault.wait",
        "fault.serve",
        "fault.commit",
        "fault.wake",
        "fault.resume",
    ];
    for fault in [first, second] {
        assert_eq!(trace.steps(fault), steps, "{}", lines(&trace.fault(fault)));
    }
    let (first, second) = (trace.fault(first), trace.fault(second));
    assert_ne!(first[0].space, second[0].space, "two processes");
    assert_ne!(first[0].task, second[0].task);
    assert_eq!(first[0].page(), second[0].page());
    assert_eq!((first[3].number("joined"), second[3].number("joined")), (0, 1));
    // The second wants the page while the first waits for it, and both go on with the same frame.
    assert!(first[3].time < second[0].time && second[3].time < first[4].time);
    let frame = |event: &Event| event.number("entry") & 0x000f_ffff_ffff_f000;
    assert_eq!(frame(first[5]), frame(second[5]));
    // Two pages were read in the whole run: the one that a thread waited for, and this one, once.
    assert_eq!(guest.count("disk.vda.bytes_read"), 2 * 4096);
    assert_eq!(guest.count("faults.device_waits"), 3);
}
