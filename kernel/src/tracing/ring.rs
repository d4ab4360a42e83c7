//! The CPUs' rings: blocks of events in memory that a device can read.
//!
//! A block has room for a frame's header, for [`EVENTS`] events and for a trailer, so that it can be sent as it is. One
//! block of each CPU is *current*: [`push`] writes to it through two words of that CPU, where the next event goes and where
//! the block ends. The sinks take full blocks and give empty ones; a CPU without a current block has both words null.
//!
//! Kernel code runs with interrupts off wherever it records, and only the CPU itself touches its words, so they need no
//! lock: a handler that interrupts the idle CPU runs to its end before anything else does. When the others stand still,
//! at the end of a run, one CPU reads the words of all.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use faultline_trace::wire::{MAX_HEADER, RECORD, TRAILER};
use faultline_trace::{Event, Kind};

use crate::arch::{clock, cpu, smp};
use crate::config::{Config, TraceMode};
use crate::local::Local;
use crate::memory::{BootMemory, phys_to_virt};

/// Bytes of a block.
pub const BLOCK: usize = 64 * 1024;

/// Where the events of a block start; the header ends there.
pub const EVENTS_AT: usize = 128;

/// Events in a block.
pub const EVENTS: usize = (BLOCK - EVENTS_AT - TRAILER) / RECORD;

const _: () = assert!(MAX_HEADER <= EVENTS_AT && EVENTS_AT.is_multiple_of(align_of::<Event>()));

/// Blocks of a binary trace. More than the queue of the device is deep would never be on their way.
pub const BLOCKS: usize = 48;

/// A CPU's side of the ring.
#[derive(Debug)]
#[repr(C)]
pub struct Words {
    /// Where the next event goes.
    next: AtomicPtr<Event>,
    /// The end of the current block.
    end: AtomicPtr<Event>,
}

impl Words {
    /// Those of a CPU without a current block.
    pub const fn new() -> Self {
        Self {
            next: AtomicPtr::new(core::ptr::null_mut()),
            end: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Makes block `index` current and empty.
    pub fn set_current(&self, index: usize) {
        // SAFETY: a block has room for its header and this many events.
        let first = unsafe { block(index).add(EVENTS_AT) }.cast::<Event>();
        self.next.store(first, Relaxed);
        // SAFETY: as above.
        self.end.store(unsafe { first.add(EVENTS) }, Relaxed);
    }

    /// Leaves the CPU without a current block.
    pub fn set_none(&self) {
        self.next.store(core::ptr::null_mut(), Relaxed);
        self.end.store(core::ptr::null_mut(), Relaxed);
    }

    /// What is in the current block so far.
    pub fn recorded(&self) -> &'static [Event] {
        let next = self.next.load(Relaxed);
        if next.is_null() {
            return &[];
        }
        // SAFETY: 1. the block ends at `end`, so its events start `EVENTS` before; 2. all of them up to `next` were
        // written; 3. an event of a block is written once before the block is made current anew, which only the caller does.
        unsafe {
            let first = self.end.load(Relaxed).sub(EVENTS);
            slice::from_raw_parts(first, next.offset_from_unsigned(first))
        }
    }
}

/// The words of this CPU.
#[inline(always)]
pub fn here() -> &'static Words {
    &cpu::local().tracing.words
}

/// All blocks, one behind the other.
static MEMORY: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Takes memory for what the configuration asks for, before the frame allocator takes it all.
pub fn reserve(memory: &mut BootMemory, config: &Config) {
    let blocks = match config.trace {
        TraceMode::Off => return,
        TraceMode::Text => smp::count(),
        TraceMode::Binary => BLOCKS,
    };
    let bytes = (blocks * BLOCK) as u64;
    let Some(range) = memory.carve(bytes) else {
        ::log::warn!("no trace: there is no room for its {} KiB", bytes >> 10);
        return;
    };
    MEMORY.store(phys_to_virt(range.start), Relaxed);
    COUNT.store(blocks, Relaxed);
}

/// Gives each CPU that runs a block. Returns whether there are blocks.
pub fn start() -> bool {
    if has_blocks() {
        for (cpu, local) in cpu::locals().iter().take(smp::count()).enumerate() {
            local.tracing.stamp.cpu.store(cpu as u16, Relaxed);
            local.tracing.words.set_current(cpu);
        }
    }
    has_blocks()
}

/// Whether there is a block at all.
pub fn has_blocks() -> bool {
    COUNT.load(Relaxed) > 0
}

/// The start of block `index`.
///
/// # Panics
/// If there is no such block.
pub fn block(index: usize) -> *mut u8 {
    assert!(index < COUNT.load(Relaxed), "the ring has no block {index}");
    // SAFETY: the memory that was carved has this many blocks.
    unsafe { MEMORY.load(Relaxed).add(index * BLOCK) }
}

/// When the oldest event of this CPU's current block was recorded.
#[inline]
pub fn first_time() -> Option<u64> {
    here().recorded().first().map(|event| event.time)
}

/// Whether the newest event of the current block is of one of these kinds.
#[inline(always)]
pub fn last_is(kinds: [Kind; 2]) -> bool {
    let next = here().next.load(Relaxed);
    if next.is_null() {
        return false;
    }
    // SAFETY: a block has a header in front of its events, so the bytes before the first one are there, too; they are
    // read as a number, which any bytes are.
    let kind = unsafe {
        next.cast::<u8>()
            .sub(size_of::<Event>() - offset_of!(Event, kind))
            .cast::<u16>()
            .read()
    };
    kinds.iter().any(|known| *known as u16 == kind)
}

/// Records an event of the current thread, or loses it.
#[inline(always)]
pub fn push_here(kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
    // SAFETY: `push_raw` changes the registers that are named here and no others, keeps the stack as it is, and follows
    // only what this CPU's words promise. The target has no red zone, so the call may push.
    unsafe {
        asm!(
            "call {push}",
            push = sym push_raw,
            in("rdi") u64::from(kind as u16),
            in("rsi") space,
            in("r9") fault,
            in("rcx") a,
            in("r8") b,
            out("rax") _,
            out("rdx") _,
            out("r10") _,
        );
    }
}

/// Stores an event: kind in `rdi`, space in `rsi`, fault in `r9`, payload in `rcx` and `r8`.
///
/// In assembly, because it takes so few registers that a site has next to nothing to save: the whole is 18 instructions,
/// where a Rust function and its callers take twice as many.
#[unsafe(naked)]
unsafe extern "sysv64" fn push_raw() {
    naked_asm!(
        "mov rax, gs:[{local}]",
        "mov r10, [rax + {next}]",
        "cmp r10, [rax + {end}]",
        "je 2f",
        "mov rdx, [rax + {stamp}]",
        "or rdx, rdi",
        "mov [r10 + {kind}], rdx",
        "mov [r10 + {space}], rsi",
        "mov [r10 + {fault}], r9",
        "mov [r10 + {a}], rcx",
        "mov [r10 + {b}], r8",
        "lea rdx, [r10 + {size}]",
        "mov [rax + {next}], rdx",
        "rdtsc",
        "mov [r10 + {time}], eax",
        "mov [r10 + {time} + 4], edx",
        "ret",
        // No room. The Rust function may change what a site expects to keep.
        "2:",
        "push rbp",
        "mov rbp, rsp",
        "push rcx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r11",
        "and rsp, -16",
        "mov rdx, r9",
        "call {slow}",
        "lea rsp, [rbp - 48]",
        "pop r11",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rcx",
        "pop rbp",
        "ret",
        local = const cpu::LOCAL,
        next = const HERE + offset_of!(super::Here, words) + offset_of!(Words, next),
        end = const HERE + offset_of!(super::Here, words) + offset_of!(Words, end),
        stamp = const HERE + offset_of!(super::Here, stamp),
        slow = sym push_slowly,
        time = const offset_of!(Event, time),
        kind = const offset_of!(Event, kind),
        space = const offset_of!(Event, space),
        fault = const offset_of!(Event, fault),
        a = const offset_of!(Event, a),
        b = const offset_of!(Event, b),
        size = const size_of::<Event>(),
    )
}

/// Where a CPU has what it knows of its events.
const HERE: usize = offset_of!(Local, tracing);

// `push_raw` stores kind, CPU and thread as one word.
const _: () = {
    use super::Stamp;
    assert!(offset_of!(Event, cpu) - offset_of!(Event, kind) == offset_of!(Stamp, cpu));
    assert!(offset_of!(Event, task) - offset_of!(Event, kind) == offset_of!(Stamp, current));
    assert!(offset_of!(Stamp, kind) == 0 && size_of::<Stamp>() == 8);
};

/// The way of an event that found no room.
#[cold]
extern "sysv64" fn push_slowly(kind: u32, space: u64, fault: u64, a: u64, b: u64) {
    if let Ok(kind) = Kind::try_from(kind as u16)
        && super::make_room()
    {
        push(kind, super::current(), space, fault, a, b);
    }
}

/// Records an event. Returns whether there was room.
#[inline(always)]
pub fn push(kind: Kind, task: u32, space: u64, fault: u64, a: u64, b: u64) -> bool {
    let words = here();
    let next = words.next.load(Relaxed);
    if next == words.end.load(Relaxed) {
        return false;
    }
    let time = clock::counter();
    // SAFETY: `next` is below the end of the current block, and nobody reads beyond it.
    unsafe {
        next.write(Event {
            time,
            kind,
            cpu: cpu::index() as u16,
            task,
            space,
            fault,
            a,
            b,
        });
        words.next.store(next.add(1), Relaxed);
    }
    true
}
