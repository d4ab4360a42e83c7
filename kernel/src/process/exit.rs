//! The end of threads and processes.

use alloc::sync::Arc;

use faultline_trace::Kind;

use super::{Thread, tree};
use crate::signal::pending;
use crate::tracing;

/// A thread's future is about to end: take the thread out of everything that knows it, and end the process with the
/// last one. The thread's own hold on the address space is gone already.
pub fn thread_gone(thread: &Arc<Thread>) {
    let process = &thread.process;
    tree::remove_thread(thread.tid);
    if process.remove_thread(thread) > 0 {
        // Signals for the process that this thread was to take go to another.
        if let Some(other) = process.find_thread(|_| true) {
            pending::review(&other);
            other.wake();
        }
        return;
    }
    let status = process.final_status();
    tracing::record_for(process.pid, Kind::TaskExit, u64::from(status.to_wait_word()), 0);
    // Files and memory go before anybody is told, so that whoever waits finds them free.
    process.release_files();
    drop(process.replace_space(None));
    process.release_parent();
    tree::end_process(process, status);
}
