//! Faults that wait for a disk: a thread touches a page that is swapped out while three others touch new ones, and two
//! processes touch the same page of a file that is swapped out.
//!
//! Where there is nothing to swap to, nobody waits, and every word is the same.

use std::fs::{self, OpenOptions};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use faultline_user::{Arguments, Ended, Mapping, PAGE, PAGE_WORDS, expect, fail, fork};

/// Threads with a new page each.
const OTHERS: usize = 3;

fn main() {
    let mut arguments = Arguments::new("wait");
    if arguments.next_word().is_some() {
        arguments.wrong();
    }
    one_page_is_away();
    two_processes_want_a_page();
}

/// The main thread's page is away. It goes first, and the others do not wait behind it.
fn one_page_is_away() {
    let (away, new) = (Mapping::private(PAGE), Mapping::private(OTHERS * PAGE));
    away.fill(0..PAGE_WORDS, 1);
    page_out(&away);
    let (ready, gone) = (Barrier::new(OTHERS + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        for page in 0..OTHERS {
            let (ready, gone, new) = (&ready, &gone, &new);
            scope.spawn(move || {
                ready.wait();
                while !gone.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                new.fill(page * PAGE_WORDS..(page + 1) * PAGE_WORDS, 2);
            });
        }
        ready.wait();
        gone.store(true, Ordering::Release);
        away.check(0..PAGE_WORDS, 1, "the page that was away");
    });
    new.check(0..new.words(), 2, "the new pages");
    println!("1 page was away, {OTHERS} were new: all are right");
}

/// Both wait until they may go, so that the second wants the page while the first still waits for it.
fn two_processes_want_a_page() {
    let path = format!("/tmp/faultline-wait-{}", std::process::id());
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.unwrap_or_else(|error| fail(format_args!("{path}: {error}")));
    fs::remove_file(&path).unwrap_or_else(|error| fail(format_args!("{path}: {error}")));
    let memory = Mapping::of_file(&file, PAGE);
    memory.fill(0..PAGE_WORDS, 3);
    page_out(&memory);
    let go = Mapping::shared(PAGE);
    let children = [1, 2].map(|number| {
        fork(|| {
            while go.read(0) == 0 {
                thread::yield_now();
            }
            memory.check(0..PAGE_WORDS, 3, &format!("the page of the file in process {number}"));
        })
    });
    go.write(0, 1);
    for child in children {
        expect(child.wait(), Ended::Exit(0), "a process that reads the file");
    }
    println!("2 processes saw the same page of a file");
}

fn page_out(memory: &Mapping) {
    if let Err(error) = memory.try_advise(0..memory.pages(), libc::MADV_PAGEOUT) {
        fail(format_args!("MADV_PAGEOUT: {error}"));
    }
}
