//! The machine-readable report of a run: `key value` lines on the report port (COM4).
//!
//! The report is written at the orderly end of the kernel (the lines `audit` and `audit.error` of [`crate::audit`] while
//! programs run), in ASCII, one fact a line, the key first and the rest
//! of the line its value. A reader must ignore keys it does not know. The last line is `report.end`: a report without
//! it was cut off.
//!
//! | key | value |
//! |---|---|
//! | `report.version` | 1 |
//! | `programs` | how many programs were configured; `N` below counts from 0 |
//! | `program.N.path` | the path in the ramdisk |
//! | `program.N.status` | the status a shell would show: the exit code, or 128 + the signal; 126 or 127 if it never started |
//! | `program.N.signal` | the signal that ended it; absent after an exit |
//! | `program.N.error` | why it never started; absent if it did |
//! | `program.N.faults.minor`, `program.N.faults.major` | what `getrusage` would say, children included |
//! | `faults.total` | page faults of user threads that were served |
//! | `faults.CLASS` | how many were of that class: `demand-zero`, `zero-page`, `file`, `cow-copy`, `cow-reuse`, `shared`, `huge`, `swap` |
//! | `faults.coalesced` | joined a fault already in flight |
//! | `faults.spurious` | found that the entry allowed the access already |
//! | `faults.denied` | refused, so that the thread got a signal or a call its `EFAULT` |
//! | `faults.stale` | found at commit that the space had changed |
//! | `faults.cancelled` | given up because nobody waited any more |
//! | `faults.memory_waits` | had to wait for memory |
//! | `faults.queue_waits` | had to wait for a free fault slot |
//! | `faults.CLASS.tsc` | time-stamp ticks from the trap to the resumed thread, sum over the class |
//! | `faults.CLASS.tsc_each` | the same for one fault (the mean) |
//! | `tlb.bumps` | generations bumped |
//! | `tlb.flush_all`, `tlb.flush_page` | whole flushes and single pages invalidated at a switch |
//! | `tlb.skipped` | switches that found the generation unchanged |
//! | `frames.total` | frames the allocator was given at boot |
//! | `frames.STATE.before`, `frames.STATE.after` | the account before the first process and after the last |
//! | `frames.leaked` | frames missing from `free` after teardown; 0 in a correct run |
//! | `frames.equation` | `holds` or `broken`: states add up to the total, before and after |
//! | `thread.bytes` | kernel memory of an idle user thread, without its FPU area |
//! | `thread.future_bytes`, `thread.record_bytes`, `thread.fpu_bytes` | its parts, and the FPU area |
//! | `heap.size`, `heap.used` | bytes of the kernel heap, and of those in use, at the end |
//! | `disk.NAME.reads`, `disk.NAME.bytes_read`, `disk.NAME.writes`, `disk.NAME.bytes_written` | transfers that a disk was given, and their bytes |
//! | `disk.NAME.errors`, `disk.NAME.most_at_once`, `disk.NAME.in_flight` | transfers that failed, that it had at once, and that it still has |
//! | `swap.disk` | the disk that is the swap area; absent, as all that follows, without one |
//! | `swap.slots` | pages that it has room for |
//! | `swap.leaked`, `swap.cached` | slots that are in use when all programs are gone, and of these those whose page is in memory too; 0 in a correct run |
//! | `swap.batches`, `swap.scanned`, `swap.reclaimed`, `swap.rounds` | what the reclaimer did: batches written, pages looked at, frames freed, rounds over all memory |
//! | `swap.reads`, `swap.writes`, `swap.read_ahead`, `swap.errors` | pages read (`read_ahead`: before anybody touched them), pages written, transfers that failed |
//! | `threads.started`, `processes.started` | over the whole run |
//! | `process.N` | with `processes=on`: number and parent of a process, the most KiB that it had when it was looked at, its faults (minor, major), its name |
//! | `processes.left_out` | how many processes have no such line |
//! | `syscalls` | system calls made by user threads |
//! | `switches` | times another thread than the last was entered |
//! | `fpu.saves`, `fpu.loads` | times the FPU and vector registers of a thread were saved, and loaded |
//! | `ticks` | timer interrupts taken in user mode |
//! | `ticks.total` | timer interrupts taken at all |
//! | `interrupts.longest_off_ns` | the longest that a timer interrupt had to wait |
//! | `polls` | polls of all tasks |
//! | `polls.longest_ns` | the longest; the time in user mode counts, which is a slice at most |
//! | `polls.longest_kernel_ns` | with `polls=kernel`: the longest, where the time in user mode does not count |
//! | `polls.longest_task` | the name of the task that had the longest, and the user thread that ran last: the task itself if it is one |
//! | `polls.stalls` | polls that took more than `stall=` milliseconds, each of which is on the log with its task and who waits for what |
//! | `interrupts.spurious`, `interrupts.nmi` | interrupts that nobody asked for |
//! | `faults.in_flight` | faults in flight at the end; 0 in a correct run |
//! | `audit.checks`, `audit.errors` | with `audit=`: checks made while programs ran and after, and what they found wrong |
//! | `floor.STEP` | with `floor=on`: ticks of `syscall`, `fault`, `fault_zero`, `fault_copy`, `fault_zero_huge` at the least |
//! | `executor.tasks` | with `executor=`: tasks that were alive at the most |
//! | `executor.bytes_per_task` | bytes of the heap that each of them took |
//! | `executor.STEP` | ticks of `spawn`, `wake`, `pair`, `empty_turn`, `latency_few`, `latency_many`, in hundredths |
//! | `victims` | processes killed to free memory |
//! | `victim.N` | each of the first eight of them, how much it held of what, and who held most after it |
//! | `time.ns` | from the first program's start to the end of the last |
//! | `report.end` | 1 |

use core::fmt::{self, Display, Write};

/// Writes the lines of a report to a port.
pub struct Report<'a> {
    out: &'a mut dyn Write,
    result: fmt::Result,
}

impl<'a> Report<'a> {
    /// Starts a report on `out` with its version line.
    pub fn begin(out: &'a mut dyn Write) -> Self {
        let mut report = Self { out, result: Ok(()) };
        report.line("report.version", 1);
        report
    }

    /// Writes one fact.
    pub fn line(&mut self, key: impl Display, value: impl Display) {
        if self.result.is_ok() {
            self.result = writeln!(self.out, "{key} {value}");
        }
    }

    /// Writes the line that says that the report is whole.
    ///
    /// # Errors
    /// The first error of the port, if it refused a line.
    pub fn end(mut self) -> fmt::Result {
        self.line("report.end", 1);
        self.result
    }
}
