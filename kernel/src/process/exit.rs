//! The end of threads and processes.
//!
//! A large address space takes long to take apart. Its last thread unmaps it piece by piece, letting others run in
//! between, before it goes. That needs no memory: the thread's own future is polled again.

use faultline_fallible::Arc;

use faultline_trace::Kind;

use super::{Thread, run_time, tree};
use crate::ipc;
use crate::machine::Space;
use crate::signal::pending;
use crate::tracing;

/// Closes some files of a process whose last thread ends, then unmaps a piece of its space, each unless somebody else uses
/// it; says whether anything is left.
pub fn dismantle(thread: &Thread, space: &Arc<Space>) -> bool {
    if thread.process.thread_count() > 1 {
        return false;
    }
    if thread.process.close_some() {
        return true;
    }
    // This thread and the process's record hold the space.
    if Arc::strong_count(space) > 2 {
        return false;
    }
    // No CPU has the space loaded then, so what is unmapped is free at once.
    space.memory().leave_spaces();
    space.clear_front()
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
        ipc::process_ends(process.pid);
        process.timers.cancel();
        drop(process.replace_space(None));
        process.release_parent();
    }
    process.thread_count() == 0 && tree::leave(process, process.final_status())
}
