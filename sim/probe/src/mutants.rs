//! Planted mistakes: each shows that the simulation would find one like it.

use core::sync::atomic::{AtomicU8, Ordering};

/// Number of the mutant that is on, plus 1.
static ON: AtomicU8 = AtomicU8::new(0);

/// Switches a mutant on, or all off, in the whole process.
pub fn switch_on(mutant: Option<Mutant>) {
    ON.store(mutant.map_or(0, |mutant| mutant as u8 + 1), Ordering::Relaxed);
}

/// Whether this mutant is on.
#[inline]
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    ON.load(Ordering::Relaxed) == mutant as u8 + 1
}

/// Declares the mutants, each with its name and what it does.
macro_rules! mutants {
    ($($name:ident, $text:literal;)*) => {
        /// A planted mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutant { $(#[doc = $text] $name,)* }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// What it does.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$name => stringify!($name),)* }
            }
        }
    };
}

mutants! {
    SkipRevalidation, "a commit does not look whether its marker is still there";
    ForgetStale, "a call that takes a marker away does not make its fault stale";
    KeepStale, "a slot that was stale once stays so in its next use";
    ForgetSide, "a call forgets the faults of the side list";
    KeepMarker, "a fault that is not served leaves its marker behind";
    CopyMarker, "fork copies markers";
    ShareMarkedTable, "fork shares a table that holds markers";
    ForgetWake, "a waiter has its result and is not woken";
    ResumeAny, "a task is polled again although the fault that was served is not what it waits for";
    PollKilled, "a task is polled again although it was cancelled meanwhile";
    PassDueTimers, "a task goes on after its faults for ever, and passes over due timers";
    WakeOnlyFirst, "only the first waiter of a fault gets the result";
    ForgetSlotWaiter, "a slot that comes free wakes nobody";
    ForgetMemoryWaker, "the service does not ask to be woken by the next free frame";
    QueueWithoutWake, "a fault is parked although a frame is free, and the service sleeps on";
    ForgetParked, "the end of a read wakes nobody who waits for the page";
    ReadTwice, "a page of a file is read although it is being read";
    EarlyResident, "a page of a file counts as there when its read begins";
    ForgetReadError, "a page that could not be read counts as there";
    ForgetHole, "what a page has not on the disk is not zeroed";
    BorrowObjectFrame, "a private mapping takes no reference to the frame of an object";
    LoseStarved, "who found no room for another read is forgotten";
    RefuseJoiner, "a fault that joined another is refused with it";
    RunBeyondRegion, "a first write that runs ahead goes on behind its region";
    RunOverMarker, "a first write that runs ahead takes pages that have something";
    ForgetZero, "a frame is published without being zeroed";
    ReuseSharedFrame, "copy-on-write takes a frame that another space still has";
    TakeBackWritable, "a table is taken back with rights to frames that others have";
    ProtectForgetsCow, "mprotect makes a shared frame writable";
    DropCowFlush, "a copy-on-write commit flushes nothing";
    ForkWithoutFlush, "fork does not flush the rights it takes away";
    UnmapWithoutFlush, "unmap flushes no page";
    ProtectWithoutFlush, "mprotect flushes nothing";
    UnshareWithoutFlush, "a copied table leaves pointers to the old one";
    AskNobody, "no other CPU is asked to flush";
    AskBeforeBump, "other CPUs are asked before the generation is bumped";
    WaitWithoutAsking, "who waits for a flush asks nobody for it";
    ForgetQuarantine, "a frame is free before other CPUs have flushed";
    ForgetTableQuarantine, "a table is free before anybody has flushed";
    ReleaseUnflushed, "quarantine ends with the bump";
    ForgetHold, "a shared frame is free although another space's CPUs have not flushed";
    ForgetTableHold, "a shared table is free although the processor may walk it";
    ForgetLimbo, "a frame that comes to limbo late stays there";
    KeepUnseen, "a switch keeps what changed while the space was away";
    OldRoot, "a switch loads the root that it saw before the generation";
    LeaveBeforeLoad, "a space counts as gone from a CPU before its PCID is flushed";
    KeepStaleTag, "an asked CPU keeps what it has under a PCID that is not loaded";
    FlushHereOnly, "a flush of everything asks no other CPU";
    FlushInSilence, "a CPU that has flushed everything wakes nobody who waits for it";
    WriteUnflushed, "a page is written before every CPU has flushed it";
    DirtyBeforeExchange, "the dirty bit is read before the entry is taken away";
    IgnoreDirty, "a page that was written to since it came back is not written again";
    DropDirty, "a page that was written to since MADV_FREE is dropped";
    ForgetBatchHold, "frames are free although a batch is not flushed";
    ForgetFlushParked, "a fault that waits for the flush of a batch is forgotten";
    FreeWhileRead, "a swap slot is free while it is being read";
    ReadSlotTwice, "a swap slot is read although it is being read";
    ForgetSwapReadError, "the failed read of a swap slot wakes nobody";
    ForgetWriteError, "a page that could not be written counts as written";
    ReturnWritable, "a page comes back writable although others have it";
    CountAtFork, "a copied entry does not count in its swap slot";
    DetachUsed, "the swap area goes although a page is in it";
    KeepPermit, "who was killed while waiting for a frame leaves the permit behind";
    ChangeUnflushed, "a change of a page whose batch is not flushed flushes nothing";
    MapUnflushed, "a fault maps a page that another CPU can still write to";
    ForgetEmptyBatch, "a batch in which nothing has left is never finished";
    SecondSlot, "a frame whose slot's word has changed gets a second slot";
    CatchUpOnePage, "a CPU that is several changes behind flushes the last one";
    ReuseId, "a space gets the id of another";
    ClearAfterPoll, "a wake during the poll is lost";
    ForgetBacklog, "a CPU sleeps although a class has used its share only";
    ForgetNotify, "work for a CPU that sleeps does not wake it";
    MoveWithoutHome, "a task that moves to another CPU keeps the queue of the one that it has left";
    LoseInbox, "only the newest task of an inbox is taken";
}
