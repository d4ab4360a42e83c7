//! The end of threads and processes.
//!
//! A large address space takes long to take apart. Its last thread unmaps it piece by piece, letting others run in
//! between, before it goes. That needs no memory: the thread's own future is polled again.

use faultline_fallible::Arc;

use faultline_mm::HUGE_PAGE_SIZE;
use faultline_trace::Kind;
use x86_64::VirtAddr;

use super::{Thread, run_time, tree};
use crate::exec::elf::USER_END;
use crate::machine::Space;
use crate::signal::pending;
use crate::{time, tracing};

/// How much of a space is unmapped at a time where it is full; one that maps no more than this goes in one piece.
const PIECE: u64 = 32 * HUGE_PAGE_SIZE;

/// How long pieces are unmapped before others run, in nanoseconds.
const TURN: u64 = 200_000;

/// A piece that took no longer than this, in nanoseconds, was empty: the next is twice as large.
const EMPTY: u64 = 20_000;

/// Unmaps a piece of the space of a thread that ends, if nobody else uses it; says whether much is left.
pub fn dismantle(thread: &Thread, space: &Arc<Space>) -> bool {
    // This thread and the process's record hold the space.
    if Arc::strong_count(space) > 2 || thread.process.thread_count() > 1 || space.virtual_bytes() <= PIECE {
        return false;
    }
    // No CPU has the space loaded then, so what is unmapped is free at once.
    space.memory().leave_spaces();
    let began = time::now();
    let (mut now, mut piece) = (began, PIECE);
    while now - began < TURN {
        let Some(region) = space.first_region_above(VirtAddr::zero()) else {
            return false;
        };
        // A piece starts and ends where a table's span does, whatever regions are in it: so no shared table has to be
        // split, which takes long and could need memory.
        let start = region.start() & !(HUGE_PAGE_SIZE - 1);
        let size = piece.min(USER_END - start);
        if space.unmap(VirtAddr::new_truncate(start), size).is_err() {
            return false;
        }
        let then = core::mem::replace(&mut now, time::now());
        // A program may map far more than there is memory for.
        piece = if now - then < EMPTY {
            piece.saturating_mul(2)
        } else {
            PIECE
        };
    }
    true
}

/// A thread's future is about to end: takes the thread out of everything that knows it, and ends the process with the
/// last one. The thread's own hold on the address space is gone already. Says whether more is left to do: then this is to
/// be called again when others have run.
pub fn thread_gone(thread: &Arc<Thread>) -> bool {
    let process = &thread.process;
    if let Some(left) = process.remove_thread(thread) {
        run_time::end(thread);
        process.ended_usage.add(&thread.usage);
        tree::remove_thread(thread.tid());
        if left > 0 {
            // Signals for the process that this thread was to take go to another.
            if let Some(other) = process.find_thread(|_| true) {
                pending::review(&other);
                other.wake();
            }
            return false;
        }
        let status = process.final_status();
        // Whatever comes now does not change how it ended.
        process.begin_exit(status);
        tracing::record_for(process.pid, Kind::TaskExit, u64::from(status.to_wait_word()), 0);
        // Files and memory go before anybody is told, so that whoever waits finds them free.
        process.release_files();
        process.timers.cancel();
        drop(process.replace_space(None));
        process.release_parent();
    }
    process.thread_count() == 0 && tree::leave(process, process.final_status())
}
