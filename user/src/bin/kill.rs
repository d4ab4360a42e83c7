//! Children that are killed while they fault: each ends by SIGKILL, and the parent's memory is as it was.
//!
//! With `--in-flight` the parent kills a child when it hears from it, which is just before the child's next fault: on a
//! kernel that serves faults late, the child dies while that fault is in flight.

use std::io::{self, Read, Write};

use faultline_user::{Arguments, Ended, Mapping, PAGE, expect, fail, fork};

fn main() {
    let mut arguments = Arguments::new("kill [--in-flight] [--children N] [--pages N]");
    let mut in_flight = false;
    let mut children = 16;
    let mut pages = 64;
    while let Some(text) = arguments.next_word() {
        match text.as_str() {
            "--in-flight" => in_flight = true,
            "--children" => children = arguments.value(),
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let memory = Mapping::private(pages * PAGE);
    memory.fill(0..memory.words(), 1);
    if in_flight {
        (0..children).for_each(|_| kill_in_flight(&memory));
        println!("{children} children killed at a fault");
        return;
    }
    let progress = Mapping::shared(PAGE);
    for round in 0..children {
        progress.write(0, 0);
        let child = fork(|| fault_for_ever(&memory, &progress));
        // Another number of faults in each round, so that the signal arrives at another step of a fault.
        while progress.read(0) <= round {
            std::thread::yield_now();
        }
        child.kill(libc::SIGKILL);
        expect(child.wait(), Ended::Signal(libc::SIGKILL), "a child that was killed");
        memory.check(0..memory.words(), 1, "the parent's memory");
    }
    println!("{children} children killed while they faulted");
}

/// Kills a child whose next access is a fault.
fn kill_in_flight(memory: &Mapping) {
    let (mut reader, mut writer) = io::pipe().unwrap_or_else(|error| fail(format_args!("pipe: {error}")));
    let child = fork(|| {
        let new = Mapping::private(PAGE);
        let sent = writer.write(&[1]);
        new.write(0, 7);
        if sent.is_err() {
            fail("the child's pipe is closed");
        }
        loop {
            std::thread::yield_now();
        }
    });
    let mut byte = [0];
    if reader.read(&mut byte).is_err() || byte[0] != 1 {
        fail("nothing came through the pipe");
    }
    child.kill(libc::SIGKILL);
    expect(child.wait(), Ended::Signal(libc::SIGKILL), "a child that was killed");
    memory.check(0..memory.words(), 1, "the parent's memory");
}

/// Copies pages of the parent and touches new ones, without an end.
fn fault_for_ever(memory: &Mapping, progress: &Mapping) {
    loop {
        for page in 0..memory.pages() {
            memory.write(page * PAGE / 8, 7);
            let own = Mapping::private(4 * PAGE);
            for word in (0..own.words()).step_by(PAGE / 8) {
                own.write(word, 7);
            }
            progress.write(0, progress.read(0) + 1);
        }
    }
}
