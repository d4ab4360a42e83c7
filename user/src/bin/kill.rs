//! Children that are killed while they fault: each ends by SIGKILL, and the parent's memory is as it was.

use faultline_user::{Arguments, Ended, Mapping, PAGE, expect, fork};

fn main() {
    let mut arguments = Arguments::new("kill [--children N] [--pages N]");
    let mut children = 16;
    let mut pages = 64;
    while let Some(text) = arguments.next_word() {
        match text.as_str() {
            "--children" => children = arguments.value(),
            "--pages" => pages = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    let memory = Mapping::private(pages * PAGE);
    memory.fill(0..memory.words(), 1);
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
