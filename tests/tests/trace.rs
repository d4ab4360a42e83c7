//! The exact order of events in the life of a fault, read from the text trace of real runs.
//!
//! Runs count instructions, so that a task is preempted at the same instruction in every run. Frames come unzeroed
//! (`zero_pool=off`), so that every fault that needs a zeroed frame zeroes one. `service=last` has the fault service
//! wait until no user thread can go on: so faults stay in flight while other threads run.

use faultline_tests::Run;
use faultline_xtask::trace::{Event, Trace};

/// Runs a task with every event of these categories on, and checks that it passes.
fn traced(task: &str, args: &[&str], categories: &str, settings: &[(&'static str, &str)]) -> Trace {
    let mut run = Run::new(task, args)
        .counted()
        .traced(categories)
        .set("zero_pool", "off");
    for (key, value) in settings {
        run = run.set(key, value);
    }
    let guest = run.boot();
    assert_eq!(guest.status(), 0, "{}", String::from_utf8_lossy(&guest.stderr));
    guest.trace()
}

/// The faults of a class, in the order in which they were served.
fn of_class(trace: &Trace, class: &str) -> Vec<u64> {
    let served = trace
        .named("fault.serve")
        .filter(|event| event.fields["class"] == class);
    let mut faults: Vec<_> = served.map(|event| event.fault).collect();
    faults.dedup();
    faults
}

/// The lines of some faults together, for the message of an assertion.
fn lines(events: &[&Event]) -> String {
    events.iter().map(|event| format!("{}\n", event.line)).collect()
}

/// The number of a system call's return, and what it returned.
fn returned(trace: &Trace, number: u64) -> Vec<u64> {
    let exits = trace
        .named("syscall.exit")
        .filter(|event| event.number("number") == number);
    exits.map(|event| event.number("result")).collect()
}

const MMAP: u64 = 9;

#[test]
fn a_demand_zero_fault() {
    let trace = traced("touch", &["--pages", "3", "sequential"], "fault,syscall", &[]);
    let memory = *returned(&trace, MMAP).last().expect("touch maps its memory");
    // The first page of the mapping brings its page table with it; the second one is a fault and nothing else.
    let page = memory + 4096;
    let trap = trace
        .named("fault.trap")
        .find(|event| event.page() == page)
        .expect("the page is touched");
    let events = trace.fault(trap.fault);
    let expected = [
        "fault.trap",
        "fault.queue",
        "fault.serve",
        "fault.frame",
        "fault.fill",
        "fault.commit",
        "fault.wake",
        "fault.resume",
    ];
    assert_eq!(trace.steps(trap.fault), expected, "{}", lines(&events));
    assert_eq!(events[0].number("access"), 1, "a write");
    assert_eq!(events[2].fields["class"], "demand-zero");
    assert_eq!(events[3].number("zeroed"), 0);
    assert_eq!(events[3].number("frame"), events[4].number("frame"));
    let entry = events[5].number("entry");
    assert_eq!(
        entry & 0x000f_ffff_ffff_f000,
        events[3].number("frame"),
        "the entry maps the frame"
    );
    assert_eq!(entry & 0b111, 0b111, "present, writable, for user mode");
    assert_eq!(entry >> 63, 1, "not executable");
    assert_eq!(events[6].number("waiters"), 1);
    assert!(events.is_sorted_by_key(|event| event.time));
}

#[test]
fn two_threads_on_one_page_are_one_fault_with_two_waiters() {
    let arguments = ["--threads", "2", "--pages", "2"];
    let trace = traced("threads", &arguments, "fault", &[("service", "last")]);
    let join = trace
        .named("fault.join")
        .next()
        .expect("the second thread joins the first one's fault");
    let first = trace
        .named("fault.queue")
        .filter(|event| event.page() == join.page() && event.space == join.space && event.time < join.time)
        .last()
        .expect("there is a fault to join");
    assert_ne!((first.task, first.fault), (join.task, join.fault));
    let together: Vec<_> = trace
        .events
        .iter()
        .filter(|event| [first.fault, join.fault].contains(&event.fault))
        .collect();
    let steps: Vec<_> = together
        .iter()
        .filter(|event| event.name != "fault.serve" || event.time > join.time)
        .map(|event| (event.name.as_str(), event.fault == first.fault))
        .collect();
    let order: Vec<_> = steps.iter().take(steps.len() - 2).copied().collect();
    let expected = [
        ("fault.trap", true),
        ("fault.queue", true),
        ("fault.trap", false),
        ("fault.join", false),
        ("fault.serve", true),
        ("fault.frame", true),
        ("fault.fill", true),
        ("fault.commit", true),
        ("fault.wake", true),
        ("fault.wake", true),
    ];
    assert_eq!(order, expected, "{}", lines(&together));
    let woken = together.iter().filter(|event| event.name == "fault.wake");
    assert_eq!(woken.map(|event| event.number("waiters")).sum::<u64>(), 2);
    let resumed: Vec<_> = steps.iter().skip(steps.len() - 2).collect();
    assert!(
        resumed.contains(&&("fault.resume", true)) && resumed.contains(&&("fault.resume", false)),
        "{resumed:?}"
    );
}

#[test]
fn a_copy_on_write_fault_and_the_last_owner() {
    let trace = traced("cow", &["--pages", "6"], "fault,tlb", &[]);
    let writes = of_class(&trace, "cow-copy");
    let with_steps = |expected: &[&str]| writes.iter().copied().find(|&fault| trace.steps(fault) == expected);
    let plain = with_steps(&[
        "fault.trap",
        "fault.queue",
        "fault.serve",
        "fault.frame",
        "fault.fill",
        "fault.commit",
        "fault.wake",
        "fault.resume",
    ]);
    let plain = plain.expect("a page that others still see is copied");
    let events = trace.fault(plain);
    assert_eq!(events[0].number("access") & 1, 1, "a write");
    // A present entry was replaced: the generation of the space moves before the thread goes on.
    let bumped = trace.named("tlb.bump").any(|bump| {
        bump.space == events[0].space && bump.time >= events[3].time && bump.time <= events.last().unwrap().time
    });
    assert!(bumped, "{}", lines(&events));

    // The last owner's page gets no frame and no content: its own entry is published again, as writable.
    let reused = with_steps(&[
        "fault.trap",
        "fault.queue",
        "fault.serve",
        "fault.commit",
        "fault.wake",
        "fault.resume",
    ]);
    let reused = trace.fault(reused.expect("a page of the last owner is kept"));
    assert_eq!(
        reused[3].number("entry") & 0b111,
        0b111,
        "present, writable, for user mode"
    );
}

#[test]
fn a_denied_fault_ends_in_its_signal() {
    let guest = Run::new("wild", &["null"]).counted().traced("fault,signal").boot();
    assert_eq!(guest.status(), 128 + 11);
    let trace = guest.trace();
    let denied = trace
        .named("fault.denied")
        .find(|event| event.number("addr") == 0)
        .expect("null is denied");
    assert_eq!(
        trace.steps(denied.fault),
        ["fault.trap", "fault.denied"],
        "{}",
        lines(&trace.fault(denied.fault))
    );
    let raised = trace
        .named("signal.raise")
        .find(|event| event.time >= denied.time && event.task == denied.task);
    assert_eq!(raised.expect("a signal follows").number("signal"), 11);
}

#[test]
fn a_fault_whose_thread_is_killed_is_given_up() {
    let arguments = ["--in-flight", "--children", "3"];
    let trace = traced("kill", &arguments, "fault,task", &[("service", "last")]);
    let cancelled = trace
        .named("fault.cancel")
        .next()
        .expect("a child dies while its fault is in flight");
    let events = trace.fault(cancelled.fault);
    assert_eq!(
        trace.steps(cancelled.fault),
        ["fault.trap", "fault.queue", "fault.cancel"],
        "{}",
        lines(&events)
    );
    let child = events[0].task;
    let exit = trace
        .named("task.exit")
        .find(|event| event.task == child)
        .expect("the child ends");
    assert_eq!(exit.number("status"), 9, "by SIGKILL, as wait4 reports it");
}

#[test]
fn a_switch_flushes_what_has_changed() {
    let trace = traced("cow", &["--pages", "2"], "tlb,task", &[]);
    // A fork takes rights from the parent's entries: one bump, and the parent's next switch flushes.
    let bump = trace
        .named("tlb.bump")
        .find(|bump| bump.number("pages") > 1)
        .expect("the fork bumps the generation");
    let next = trace
        .events
        .iter()
        .filter(|event| event.space == bump.space && event.time > bump.time)
        .find(|event| event.name.starts_with("tlb."))
        .expect("the space is switched to again");
    assert!(["tlb.flush", "tlb.page"].contains(&next.name.as_str()), "{}", next.line);
}

#[test]
fn a_switch_between_threads_of_a_space_has_nothing_to_flush() {
    let trace = traced("threads", &["--threads", "2", "--pages", "8"], "tlb,task", &[]);
    let (mut task, mut generation, mut skips) = (0, None, 0);
    for event in &trace.events {
        match event.name.as_str() {
            "tlb.bump" => generation = Some(event.number("generation")),
            "tlb.skip" => {
                assert_ne!(event.task, task, "another thread than before: {}", event.line);
                assert!(
                    generation.is_none_or(|bumped| bumped == event.number("generation")),
                    "nothing is left to flush: {}",
                    event.line
                );
                task = event.task;
                skips += 1;
            }
            _ => {}
        }
    }
    assert!(skips > 2, "{skips}");
}

#[test]
fn the_shared_zero_page_and_the_write_that_leaves_it() {
    let trace = traced("touch", &["--pages", "3", "read-write"], "fault,syscall", &[]);
    let memory = *returned(&trace, MMAP).last().expect("touch maps its memory");
    let traps: Vec<_> = trace
        .named("fault.trap")
        .filter(|event| event.page() == memory + 4096)
        .collect();
    assert_eq!(traps.len(), 2, "a read and a write");
    let read = trace.fault(traps[0].fault);
    assert!(
        read.iter()
            .any(|event| event.name == "fault.serve" && event.fields["class"] == "zero-page")
    );
    assert!(
        read.iter().all(|event| event.name != "fault.fill"),
        "no frame is filled:\n{}",
        lines(&read)
    );
    let write = trace.fault(traps[1].fault);
    assert!(
        write.iter().any(|event| event.name == "fault.frame"),
        "{}",
        lines(&write)
    );
}
