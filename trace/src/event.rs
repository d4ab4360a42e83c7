//! Events, their kinds and the categories by which they are switched on.

use bitflags::bitflags;

bitflags! {
    /// Groups of events that are switched on and off together.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Category: u32 {
        /// Spawn, wake and exit of tasks.
        const TASK = 1 << 0;
        /// The life of a fault, from trap to resume.
        const FAULT = 1 << 1;
        /// TLB generations: bumps, flushes and skipped flushes.
        const TLB = 1 << 2;
        /// Frames that change hands.
        const FRAME = 1 << 3;
        /// Waits for memory and the choice of victims.
        const MEMORY = 1 << 4;
        /// System calls.
        const SYSCALL = 1 << 5;
        /// Signals.
        const SIGNAL = 1 << 6;
        /// Devices and interrupts.
        const DEVICE = 1 << 7;
        /// Counters, read at intervals.
        const SAMPLE = 1 << 8;
        /// Arguments of system calls, and what they point to.
        const ARGUMENTS = 1 << 9;
    }
}

impl Category {
    /// What is recorded where nothing else is said: everything but arguments of system calls, which are many events.
    #[must_use]
    pub const fn usual() -> Self {
        Self::all().difference(Self::ARGUMENTS)
    }
}

/// Declares [`Kind`] so that the number, the category and the name of each kind stand on one line.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $category:ident, $text:literal, ($a:literal, $b:literal);)*) => {
        /// What happened. The number is part of the wire format and is never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The category that switches this kind on.
            #[inline(always)]
            #[must_use]
            pub const fn category(self) -> Category {
                match self { $(Kind::$name => Category::$category,)* }
            }

            /// The name in the text form.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }

            /// What the two payload words mean; an empty name says that the word is unused.
            #[must_use]
            pub const fn payload(self) -> (&'static str, &'static str) {
                match self { $(Kind::$name => ($a, $b),)* }
            }
        }

        impl TryFrom<u16> for Kind {
            type Error = u16;
            /// # Errors
            /// Returns the number itself when no kind has it.
            fn try_from(number: u16) -> Result<Self, u16> {
                match number { $($number => Ok(Kind::$name),)* other => Err(other) }
            }
        }
    };
}

kinds! {
    /// A task was spawned.
    TaskSpawn = 0x01, TASK, "task.spawn", ("id", "class");
    /// A task was made runnable.
    TaskWake = 0x02, TASK, "task.wake", ("id", "");
    /// A task ended; the payload is its exit status as wait4 would report it.
    TaskExit = 0x03, TASK, "task.exit", ("status", "");
    /// Another user thread than before was entered on this CPU.
    TaskSwitch = 0x04, TASK, "task.switch", ("from", "");
    /// A user thread was made; the payload is its process, and the thread that made it or 0.
    TaskStart = 0x05, TASK, "task.start", ("process", "parent");
    /// A process runs this program; the payload is the first 16 bytes of the file's name.
    TaskName = 0x06, TASK, "task.name", ("name", "");
    /// A process runs a new program; the payload is its address space and the program's first instruction.
    TaskExec = 0x07, TASK, "task.exec", ("space", "entry");
    /// A task that waited for its turn moved to a CPU that had nothing to do.
    TaskMove = 0x08, TASK, "task.move", ("id", "to");

    /// The processor raised a page fault; the payload is the address and a [`TrapWord`].
    FaultTrap = 0x10, FAULT, "fault.trap", ("addr", "access");
    /// A slot was claimed and pushed on the fault queue.
    FaultQueue = 0x11, FAULT, "fault.queue", ("addr", "slot");
    /// The fault joined one that is already in flight (single flight).
    FaultJoin = 0x12, FAULT, "fault.join", ("addr", "slot");
    /// The entry allowed the access already.
    FaultSpurious = 0x13, FAULT, "fault.spurious", ("addr", "");
    /// The fault was refused; the payload carries the reason.
    FaultDenied = 0x14, FAULT, "fault.denied", ("addr", "reason");
    /// The service took the fault from the queue; the payload is the [`FaultClass`].
    FaultServe = 0x15, FAULT, "fault.serve", ("addr", "class");
    /// The service has a frame for the fault; the second word is 1 if it came zeroed from the pool.
    FaultFrame = 0x16, FAULT, "fault.frame", ("frame", "zeroed");
    /// The frame has its content.
    FaultFill = 0x17, FAULT, "fault.fill", ("frame", "");
    /// The page-table entry is published.
    FaultCommit = 0x18, FAULT, "fault.commit", ("addr", "entry");
    /// At commit, the address space no longer said what it said when the fault was queued.
    FaultStale = 0x19, FAULT, "fault.stale", ("addr", "");
    /// Nobody waits for the fault any more; the service gave it up.
    FaultCancel = 0x1a, FAULT, "fault.cancel", ("addr", "");
    /// A waiter was woken with the result.
    FaultWake = 0x1b, FAULT, "fault.wake", ("addr", "waiters");
    /// The faulting thread is about to re-execute its instruction.
    FaultResume = 0x1c, FAULT, "fault.resume", ("addr", "");
    /// The service has to wait for memory or for a device before it can go on; the second word is 1 if other faults wait for
    /// the same page already, of whichever space.
    FaultWait = 0x1d, FAULT, "fault.wait", ("addr", "joined");
    /// The fault ran ahead: so many pages from this one on were mapped with its own.
    FaultAhead = 0x1e, FAULT, "fault.ahead", ("addr", "pages");

    /// The generation of a space was bumped.
    TlbBump = 0x20, TLB, "tlb.bump", ("generation", "pages");
    /// Single pages were invalidated on this CPU.
    TlbFlushPage = 0x21, TLB, "tlb.page", ("addr", "pages");
    /// The whole TLB slot was flushed on this CPU.
    TlbFlushAll = 0x22, TLB, "tlb.flush", ("generation", "seen");
    /// A switch found the generation unchanged: nothing was flushed.
    TlbSkip = 0x23, TLB, "tlb.skip", ("generation", "");
    /// Other CPUs were asked to flush; the payload is their bit set, and that of those among them that were interrupted.
    TlbAsk = 0x24, TLB, "tlb.ask", ("cpus", "interrupted");

    /// A frame became a page table.
    FrameTable = 0x30, FRAME, "frame.table", ("frame", "");
    /// The last reference to a frame is gone: a page's, or a page table's.
    FrameFree = 0x31, FRAME, "frame.free", ("frame", "");
    /// Frames wait for a flush before they can be reused.
    FrameQuarantine = 0x32, FRAME, "frame.quarantine", ("frame", "generation");

    /// A fault has to wait because no frame is free.
    MemoryWait = 0x40, MEMORY, "memory.wait", ("addr", "waiting");
    /// A victim was chosen to free memory.
    MemoryVictim = 0x41, MEMORY, "memory.victim", ("task", "pages");

    /// A system call was entered.
    SyscallEnter = 0x50, SYSCALL, "syscall.enter", ("number", "arg0");
    /// A system call returned.
    SyscallExit = 0x51, SYSCALL, "syscall.exit", ("number", "result");
    /// A call that the kernel does not have; named once.
    SyscallUnknown = 0x52, SYSCALL, "syscall.unknown", ("number", "");

    /// The second and the third argument of the call that was entered just before.
    SyscallArgs = 0x53, ARGUMENTS, "syscall.args", ("arg1", "arg2");
    /// The fourth and the fifth.
    SyscallMore = 0x54, ARGUMENTS, "syscall.more", ("arg3", "arg4");
    /// The sixth; the last event of a call without texts.
    SyscallLast = 0x55, ARGUMENTS, "syscall.last", ("arg5", "");
    /// What an argument points to follows: the number of the argument, and how many bytes.
    SyscallText = 0x56, ARGUMENTS, "syscall.text", ("argument", "bytes");
    /// Sixteen bytes of it.
    SyscallBytes = 0x57, ARGUMENTS, "syscall.bytes", ("low", "high");

    /// A signal was raised for a task.
    SignalRaise = 0x60, SIGNAL, "signal.raise", ("signal", "addr");
    /// A signal is delivered to a handler.
    SignalDeliver = 0x61, SIGNAL, "signal.deliver", ("signal", "handler");

    /// An interrupt was taken.
    Interrupt = 0x70, DEVICE, "irq", ("vector", "");

    /// Frames that are free, and frames that are free and zeroed.
    SampleFree = 0x80, SAMPLE, "sample.free", ("frames", "zeroed");
    /// Frames that are mapped, and frames that hold page tables.
    SampleUsed = 0x81, SAMPLE, "sample.used", ("mapped", "tables");
    /// Frames that are in flight, and frames that wait for a flush.
    SampleHeld = 0x82, SAMPLE, "sample.held", ("reserved", "quarantined");
    /// Faults that are in flight, and faults that wait for memory.
    SampleFaults = 0x83, SAMPLE, "sample.faults", ("flight", "memory");
    /// Faults of a [`FaultClass`] served since the start.
    SampleServed = 0x84, SAMPLE, "sample.served", ("class", "count");
    /// Whole flushes and single pages invalidated since the start.
    SampleFlushes = 0x85, SAMPLE, "sample.flushes", ("whole", "pages");
    /// Switches without a flush, and generations bumped, since the start.
    SampleSkips = 0x86, SAMPLE, "sample.skips", ("skips", "bumps");
}

/// The second payload word of [`Kind::FaultTrap`]: what the access was, and which instruction made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrapWord(pub u64);

impl TrapWord {
    /// The access bit of a write.
    pub const WRITE: u64 = 1;
    /// The access bit of an instruction fetch.
    pub const EXECUTE: u64 = 2;

    /// The word for an access by the instruction at `instruction`.
    #[inline(always)]
    #[must_use]
    pub const fn new(access: u64, instruction: u64) -> Self {
        Self(instruction << 2 | access)
    }

    /// The access bits.
    #[must_use]
    pub const fn access(self) -> u64 {
        self.0 & 3
    }

    /// The address of the instruction, which lies below 2^62 in user mode.
    #[must_use]
    pub const fn instruction(self) -> u64 {
        self.0 >> 2
    }
}

/// How a fault is served; the payload of [`Kind::FaultServe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultClass {
    /// A first write to anonymous memory: a zeroed frame of its own.
    DemandZero = 0,
    /// A first read of anonymous memory: the shared zero frame.
    ZeroPage = 1,
    /// A first access to file-backed memory.
    File = 2,
    /// A write to a copy-on-write page that others still see: a copy.
    CowCopy = 3,
    /// A write to a copy-on-write page whose last owner is left: no copy.
    CowReuse = 4,
    /// A first access to shared anonymous memory.
    Shared = 5,
    /// A 2 MiB page.
    Huge = 6,
    /// A first access to a page that was swapped out.
    Swap = 7,
}

impl FaultClass {
    /// Every class, in the order of the numbers.
    pub const ALL: [FaultClass; 8] = [
        FaultClass::DemandZero,
        FaultClass::ZeroPage,
        FaultClass::File,
        FaultClass::CowCopy,
        FaultClass::CowReuse,
        FaultClass::Shared,
        FaultClass::Huge,
        FaultClass::Swap,
    ];

    /// The name in tables and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FaultClass::DemandZero => "demand-zero",
            FaultClass::ZeroPage => "zero-page",
            FaultClass::File => "file",
            FaultClass::CowCopy => "cow-copy",
            FaultClass::CowReuse => "cow-reuse",
            FaultClass::Shared => "shared",
            FaultClass::Huge => "huge",
            FaultClass::Swap => "swap",
        }
    }
}

/// One event, 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Time-stamp counter.
    pub time: u64,
    /// What happened.
    pub kind: Kind,
    /// The CPU on which it happened.
    pub cpu: u16,
    /// The user thread (its tid) on whose behalf it happened; 0 for the kernel's own tasks.
    pub task: u32,
    /// The address space (its id); 0 for none.
    pub space: u64,
    /// The correlation id of the fault; 0 for none.
    pub fault: u64,
    /// First payload word, as [`Kind::payload`] says.
    pub a: u64,
    /// Second payload word.
    pub b: u64,
}

const _: () = assert!(size_of::<Event>() == 48);
