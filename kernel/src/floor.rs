//! The least that this machine lets each step of a fault cost (`floor=on`): what the benchmarks are measured against.
//!
//! A system call that saves the registers and returns, and page faults whose handler does nothing but what cannot be
//! left out: save 15 registers, read the address, zero or copy a page where the fault is about one, set the entry,
//! return. They run before anything else does, in a hand-made address space, through interrupt gates and a system-call
//! entry of their own, which are gone afterwards.

#![allow(
    clippy::disallowed_types,
    reason = "it runs before the first program, or without one"
)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, sidt};
use x86_64::registers::control::Cr3;
use x86_64::registers::model_specific::LStar;
use x86_64::structures::DescriptorTablePointer;

use crate::arch::descriptors::vector::PAGE_FAULT;
use crate::arch::{Trap, UserContext, enter_user, pages};
use crate::memory::{BootMemory, PAGE, phys_to_virt};
use crate::startup::{Box, Vec};
use crate::trap_test::space::{self, CODE, DATA};

/// Measurements of each step; the least one counts, so that a timer interrupt in another one does no harm.
const ROUNDS: u64 = 16;

/// Where the pages and the huge pages that fault are, behind the two pages of the space and below the same tables.
const PAGES: u64 = CODE + 16 * PAGE;
const HUGE_PAGES: u64 = CODE + 8 * HUGE;
const HUGE: u64 = 2 << 20;

/// Entry bits: present, writable, user, accessed, dirty; and the one that makes it a large page.
const ENTRY: u64 = 0x67;
const LARGE: u64 = 1 << 7;

static STEPS: Once<[(&str, u64); 5]> = Once::new();

/// What the handlers read: the table, the entry to set in it, and the frame's content and the content to copy.
static TABLE: AtomicU64 = AtomicU64::new(0);
static NEW_ENTRY: AtomicU64 = AtomicU64::new(0);
static TO: AtomicU64 = AtomicU64::new(0);
static FROM: AtomicU64 = AtomicU64::new(0);
/// The stack of the system-call entry, and the place for the user's.
static STACK: AtomicU64 = AtomicU64::new(0);
static USER_STACK: AtomicU64 = AtomicU64::new(0);

/// Saves or restores the general registers.
macro_rules! all_registers {
    (push) => {
        "push rax; push rcx; push rdx; push rsi; push rdi; push r8; push r9; push r10; push r11; push rbp; push rbx; \
         push r12; push r13; push r14; push r15"
    };
    (pop) => {
        "pop r15; pop r14; pop r13; pop r12; pop rbx; pop rbp; pop r11; pop r10; pop r9; pop r8; pop rdi; pop rsi; \
         pop rdx; pop rcx; pop rax"
    };
}

/// A page-fault handler: the bit at which the table's index starts in the address, and how the frame gets its content.
macro_rules! handler {
    ($name:literal, $shift:literal, $fill:literal) => {
        concat!(
            $name,
            ":\n",
            all_registers!(push),
            "\n",
            "mov r8, cr2\n",
            "shr r8, ",
            $shift,
            "\n",
            "and r8d, 511\n",
            $fill,
            "\n",
            "mov rcx, [rip + {table}]\n",
            "mov rdx, [rip + {entry}]\n",
            "mov [rcx + 8 * r8], rdx\n",
            all_registers!(pop),
            "\n",
            "add rsp, 8\n",
            "iretq\n",
        )
    };
}

global_asm!(
    ".pushsection .text.floor, \"ax\"",
    handler!("floor_fault", "12", ""),
    // The frame of an exception with an error code and 15 registers leave the stack 8 bytes off.
    handler!("floor_fault_zero", "12", "push r8; call {zero}; pop r8"),
    handler!("floor_fault_copy", "12", "push r8; call {copy}; pop r8"),
    handler!("floor_fault_zero_huge", "21", "push r8; call {zero_huge}; pop r8"),
    "floor_syscall:",
    "swapgs",
    "mov [rip + {user_stack}], rsp",
    "mov rsp, [rip + {stack}]",
    all_registers!(push),
    all_registers!(pop),
    "mov rsp, [rip + {user_stack}]",
    "swapgs",
    "sysretq",
    ".popsection",
    // User code, copied to its page. rdi: the first address; r10: from one to the next; r8: how many; rsi: where the
    // times go. Registers that `syscall` changes are not used.
    ".pushsection .rodata.floor, \"a\"",
    ".balign 4096",
    "floor_user:",
    "floor_user_store:",
    "2: rdtsc; shl rdx, 32; or rax, rdx; mov r9, rax",
    "mov byte ptr [rdi], 1",
    "rdtsc; shl rdx, 32; or rax, rdx; sub rax, r9; mov [rsi], rax",
    "add rsi, 8; add rdi, r10; dec r8; jnz 2b; ud2",
    "floor_user_call:",
    "2: rdtsc; shl rdx, 32; or rax, rdx; mov r9, rax",
    "syscall",
    "rdtsc; shl rdx, 32; or rax, rdx; sub rax, r9; mov [rsi], rax",
    "add rsi, 8; add rdi, r10; dec r8; jnz 2b; ud2",
    ".org floor_user + 4096",
    ".popsection",
    table = sym TABLE,
    entry = sym NEW_ENTRY,
    zero = sym zero,
    copy = sym copy,
    zero_huge = sym zero_huge,
    stack = sym STACK,
    user_stack = sym USER_STACK,
);

unsafe extern "C" {
    static floor_user: u8;
    static floor_user_store: u8;
    static floor_user_call: u8;
    static floor_fault: u8;
    static floor_fault_zero: u8;
    static floor_fault_copy: u8;
    static floor_fault_zero_huge: u8;
    static floor_syscall: u8;
}

/// Zeroes a page at `TO`, as the machine does it best.
extern "C" fn zero() {
    // SAFETY: the measurement's own page; interrupts are off in its handlers.
    unsafe { pages::zero(TO.load(Relaxed) as *mut u8) };
}

/// Copies a page from `FROM` to `TO`.
extern "C" fn copy() {
    // SAFETY: as above, and the two differ.
    unsafe { pages::copy(FROM.load(Relaxed) as *const u8, TO.load(Relaxed) as *mut u8) };
}

/// Zeroes a huge page at `TO`.
extern "C" fn zero_huge() {
    let first = TO.load(Relaxed);
    for page in (first..first + HUGE).step_by(PAGE as usize) {
        // SAFETY: as above.
        unsafe { pages::zero(page as *mut u8) };
    }
}

/// The steps by name and what each costs, in ticks of the time-stamp counter; nothing if they were not measured.
pub fn steps() -> &'static [(&'static str, u64)] {
    STEPS.get().map_or(&[], |steps| steps)
}

/// Measures all of it. The address space of the measurement stays loaded.
///
/// # Panics
/// If memory is too small for a large page, or a trap is not the expected one.
pub fn measure(memory: &mut BootMemory) {
    space::load(memory, &raw const floor_user);
    let mut frames = |bytes: u64| memory.carve(bytes).expect("the floor needs a large page").start;
    let huge = frames(2 * HUGE).next_multiple_of(HUGE);
    let (source, stack) = (frames(PAGE), frames(PAGE));
    FROM.store(phys_to_virt(source) as u64, Relaxed);
    TO.store(phys_to_virt(huge) as u64, Relaxed);
    STACK.store(phys_to_virt(stack) as u64 + PAGE, Relaxed);
    let [directory, table] = tables();

    let store = &raw const floor_user_store;
    let nothing = least(store, DATA, 0);
    let fault = |handler: *const u8, first, table: u64, entry| {
        let stride = if table == directory { HUGE } else { PAGE };
        clear(table, first, stride);
        TABLE.store(phys_to_virt(table) as u64, Relaxed);
        NEW_ENTRY.store(huge | entry, Relaxed);
        let cost = with_page_fault_handler(handler, || least(store, first, stride));
        clear(table, first, stride);
        cost - nothing
    };
    STEPS.call_once(|| {
        [
            (
                "syscall",
                with_syscall_entry(|| least(&raw const floor_user_call, 0, 0)) - nothing + 1,
            ),
            ("fault", fault(&raw const floor_fault, PAGES, table, ENTRY)),
            ("fault_zero", fault(&raw const floor_fault_zero, PAGES, table, ENTRY)),
            ("fault_copy", fault(&raw const floor_fault_copy, PAGES, table, ENTRY)),
            (
                "fault_zero_huge",
                fault(&raw const floor_fault_zero_huge, HUGE_PAGES, directory, ENTRY | LARGE),
            ),
        ]
    });
}

/// The page directory and the page table of the space's code page.
fn tables() -> [u64; 2] {
    let root = Cr3::read().0.start_address().as_u64();
    let directory = below(below(root, 4, CODE), 3, CODE);
    [directory, below(directory, 2, CODE)]
}

/// What the entry for `address` in a table of this level points to.
fn below(table: u64, level: u64, address: u64) -> u64 {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let index = address >> (12 + 9 * (level - 1)) & 511;
    // SAFETY: the table is one of the loaded space, in which the code and the data page are mapped.
    unsafe { phys_to_virt(table).cast::<u64>().add(index as usize).read() & FRAME }
}

/// Empties the entries of the addresses that fault, and every TLB entry with them.
fn clear(table: u64, first: u64, stride: u64) {
    for round in 0..ROUNDS {
        let index = ((first + round * stride) / stride) & 511;
        // SAFETY: the table is one of the loaded space; nothing but the measurement uses these entries.
        unsafe { phys_to_virt(table).cast::<u64>().add(index as usize).write_volatile(0) };
    }
    let (root, flags) = Cr3::read();
    // SAFETY: the same root again.
    unsafe { Cr3::write(root, flags) };
}

/// Runs user code and returns the least of the times that it wrote down.
fn least(code: *const u8, first: u64, stride: u64) -> u64 {
    let rip = CODE + (code as u64 - &raw const floor_user as u64);
    let mut context = UserContext::new(rip, DATA + PAGE).expect("the heap has just been made");
    (context.rdi, context.rsi, context.r8, context.r10) = (first, DATA + PAGE / 2, ROUNDS, stride);
    loop {
        // SAFETY: the active tables are the template plus the space of the measurement, and this is the CPU's kernel
        // stack.
        match unsafe { enter_user(&mut context) } {
            Trap::Interrupt(_) => {}
            Trap::Exception { vector: 6, .. } => break,
            trap => panic!("the measurement of the floor ended in {trap:?}"),
        }
    }
    let [_, table] = tables();
    let data = below(table, 1, DATA);
    (0..ROUNDS)
        // SAFETY: the data page is a frame of the space; the user code wrote these words, which lie in it.
        .map(|round| unsafe { phys_to_virt(data + PAGE / 2 + round * 8).cast::<u64>().read_volatile() })
        .min()
        .unwrap_or(0)
}

/// Runs `measure` with another handler of page faults.
fn with_page_fault_handler(handler: *const u8, measure: impl FnOnce() -> u64) -> u64 {
    let old = sidt();
    let words = (usize::from(old.limit) + 1) / 8;
    // SAFETY: the loaded table of gates has this many words and nobody writes to it.
    let gates: &[u64] = unsafe { core::slice::from_raw_parts(old.base.as_ptr(), words) };
    let mut gates: Box<[u64]> = Vec::from(gates).into_boxed_slice();
    let (gate, address) = (2 * usize::from(PAGE_FAULT), handler as u64);
    gates[gate] = gates[gate] & 0x0000_ffff_ffff_0000 | address & 0xffff | (address & 0xffff_0000) << 32;
    gates[gate + 1] = address >> 32;
    let new = DescriptorTablePointer {
        limit: old.limit,
        base: VirtAddr::from_ptr(gates.as_ptr()),
    };
    // SAFETY: the table differs from the loaded one in a handler that ends every page fault of the measurement, and
    // lives until the old one is loaded again.
    unsafe {
        lidt(&new);
        let result = measure();
        lidt(&old);
        result
    }
}

/// Runs `measure` with another entry of system calls.
fn with_syscall_entry(measure: impl FnOnce() -> u64) -> u64 {
    let old = LStar::read();
    LStar::write(VirtAddr::from_ptr(&raw const floor_syscall));
    let result = measure();
    LStar::write(old);
    result
}
