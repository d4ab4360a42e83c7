//! The trap path under test, on the real processor (`selftest=traps`): every way out of user mode that a program can
//! find, each with the trap that must come of it, and the cost of a round trip.
//!
//! It needs nothing above `arch`: a hand-made address space of a code and a data page, and snippets of machine code. A
//! wrong result is a panic.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "it runs before the first program, or without one"
)]

mod snippets;
pub(crate) mod space;

use core::arch::asm;

use crate::arch::descriptors::vector::{APIC_TIMER, FIRST_INTERRUPT};
use crate::arch::features::{Features, features};
use crate::arch::{Trap, USER_END, UserContext, alarm, apic, clock, enter_user, kernel_trap, pages};
use crate::memory::{BootMemory, PAGE, phys_to_virt};
use snippets::At;
use space::{CODE, DATA, LAST_PAGE};

/// An address that is not mapped.
const NOTHING: u64 = 0x1234_5000;

const ROUNDS: u64 = 1000;

/// Runs all of it, in an address space of its own, which stays loaded.
///
/// # Panics
/// If a trap is not the expected one.
pub fn run(memory: &mut BootMemory) {
    space::load(memory, &raw const snippets::snippets);
    let at = At::new();
    exceptions(&at);
    addresses(&at);
    flags(&at);
    segments(&at);
    registers(&at);
    interrupts(&at);
    pages(memory);
    ::log::info!("trap test: all as expected");
    costs(&at);
}

/// Zeroing and copying pages, by every way that the processor has.
fn pages(memory: &mut BootMemory) {
    let [page, other] = [(); 2].map(|()| memory.carve(PAGE).expect("the machine has two more pages").start);
    // SAFETY: 1. both pages were just carved; 2. interrupts are off.
    unsafe { pages::check(phys_to_virt(page), phys_to_virt(other)) };
}

fn context(rip: u64) -> UserContext {
    UserContext::new(rip, DATA + PAGE).expect("the heap has just been made")
}

fn enter(context: &mut UserContext) -> Trap {
    loop {
        // SAFETY: the active tables are the template plus two user pages, and this is the CPU's kernel stack.
        match unsafe { enter_user(context) } {
            Trap::Interrupt(_) => {}
            trap => return trap,
        }
    }
}

fn expect(rip: u64, rdi: u64, trap: Trap) {
    let mut context = context(rip);
    context.rdi = rdi;
    assert_eq!(enter(&mut context), trap, "from {rip:#x} with rdi {rdi:#x}");
}

fn exceptions(at: &At) {
    let exception = |vector, error| Trap::Exception { vector, error };
    let protection = exception(13, 0);
    for (rip, trap) in [
        (at.snippet_ud2, exception(6, 0)),
        (at.snippet_int3, exception(3, 0)),
        (at.snippet_divide, exception(0, 0)),
        (at.snippet_hlt, protection),
        (at.snippet_cli, protection),
        (at.snippet_out, protection),
        (at.snippet_wrmsr, protection),
        (at.snippet_swapgs, protection),
        (at.snippet_mov_cr, protection),
        (at.snippet_sysretq, protection),
    ] {
        expect(rip, 0, trap);
    }
    // AMD has no `sysenter` in 64-bit mode; on Intel it is not set up.
    assert!(matches!(
        enter(&mut context(at.snippet_sysenter)),
        Trap::Exception {
            vector: 6 | 13,
            error: 0
        }
    ));
    // QEMU before 8 puts the vector one bit too high into the error code.
    assert!(matches!(
        enter(&mut context(at.snippet_int80)),
        Trap::Exception {
            vector: 13,
            error: 0x402 | 0x802
        }
    ));
    // An emulator may take it for an undefined opcode.
    assert!(matches!(
        enter(&mut context(at.snippet_int1)),
        Trap::Exception {
            vector: 1 | 6,
            error: 0
        }
    ));
    // To an empty stack frame: the selectors are null.
    assert!(matches!(
        enter(&mut context(at.snippet_iretq)),
        Trap::PageFault { .. } | Trap::Exception { .. }
    ));
    let sgdt = if features().contains(Features::UMIP) {
        protection
    } else {
        exception(6, 0)
    };
    expect(at.snippet_sgdt, DATA + PAGE / 2, sgdt);
}

fn addresses(at: &At) {
    let fault = |address, error| Trap::PageFault { address, error };
    let protection = Trap::Exception { vector: 13, error: 0 };
    let kernel = run as *const () as u64;
    expect(at.snippet_read, NOTHING, fault(NOTHING, 0b100));
    expect(at.snippet_write, NOTHING, fault(NOTHING, 0b110));
    expect(at.snippet_write, CODE, fault(CODE, 0b111));
    expect(at.snippet_read, kernel, fault(kernel, 0b101));
    expect(at.snippet_write, kernel, fault(kernel, 0b111));
    expect(at.snippet_jump, kernel, fault(kernel, 0b1_0101));
    expect(at.snippet_jump, DATA, fault(DATA, 0b1_0101));
    expect(at.snippet_read, USER_END, protection);
    // The kernel itself refuses to return to these.
    for rip in [USER_END, u64::MAX, kernel, 1 << 63] {
        expect(rip, 0, protection);
    }
    // A `syscall` in the last two bytes of the lower half returns to an address that is not canonical.
    let mut last = context(at.snippet_last - CODE + LAST_PAGE);
    assert_eq!(enter(&mut last), Trap::Syscall);
    assert_eq!(last.rip(), USER_END);
    assert_eq!(enter(&mut last), protection);
    // No stack at all.
    let mut stackless = context(at.snippet_syscall);
    stackless.set_rsp(0xdead_beef_dead_beef);
    assert_eq!(enter(&mut stackless), Trap::Syscall);
    assert_eq!(enter(&mut stackless), Trap::Syscall);
    assert_eq!(stackless.rsp(), 0xdead_beef_dead_beef);
}

fn flags(at: &At) {
    const TRAP: u64 = 1 << 8;
    const DIRECTION: u64 = 1 << 10;
    const NESTED: u64 = 1 << 14;
    const ALIGNMENT: u64 = 1 << 18;
    let step = Trap::Exception { vector: 1, error: 0 };

    let mut stepped = context(at.snippet_nop);
    stepped.set_rflags(TRAP);
    assert_eq!((enter(&mut stepped), stepped.rip()), (step, at.snippet_nop + 1));
    assert_eq!((enter(&mut stepped), stepped.rip()), (step, at.snippet_nop + 2));

    // Stepping into `syscall`: the kernel is not stepped, and the step is reported after the return.
    let mut stepped = context(at.snippet_syscall);
    stepped.set_rflags(TRAP);
    while enter(&mut stepped) == step {}
    assert_eq!(kernel_flags() & TRAP, 0);
    assert_eq!(enter(&mut stepped), step);

    // The same in the shadow of a stack-segment load, which holds the step back for one instruction.
    for (rip, trap) in [
        (at.snippet_shadow_syscall, Trap::Syscall),
        (at.snippet_shadow_int3, Trap::Exception { vector: 3, error: 0 }),
    ] {
        let mut stepped = context(rip);
        stepped.rax = 0x23;
        stepped.set_rflags(TRAP);
        while enter(&mut stepped) != trap {}
        assert_eq!(kernel_flags() & TRAP, 0);
    }

    // What the user leaves in the flags stays the user's.
    for left in [DIRECTION, NESTED, ALIGNMENT, DIRECTION | NESTED | ALIGNMENT] {
        let mut context = context(at.snippet_flags);
        context.rax = left | 2;
        assert_eq!(enter(&mut context), Trap::Syscall);
        assert_eq!(kernel_flags() & (left | TRAP), 0);
        context.rcx = 0; // the way back is `iretq`
        assert_eq!(enter(&mut context), Trap::Exception { vector: 6, error: 0 });
        assert_eq!(kernel_flags() & (left | TRAP), 0);
        assert_eq!(context.rbx & left, left);
    }
    let mut context = context(at.snippet_nop);
    context.set_rflags(!TRAP);
    assert_eq!(
        context.rflags() & (1 << 17 | 3 << 12 | NESTED),
        0,
        "virtual-8086, I/O level, nested task"
    );
    assert_eq!(enter(&mut context), Trap::Exception { vector: 6, error: 0 });
}

fn segments(at: &At) {
    let undefined = Trap::Exception { vector: 6, error: 0 };
    let mut first = context(at.snippet_fs);
    let mut second = context(at.snippet_fs);
    for (context, word) in [(&mut first, 0u64), (&mut second, 256)] {
        assert!(context.set_fs_base(DATA + word) && context.set_gs_base(DATA + word));
        assert!(!context.set_fs_base(USER_END) && !context.set_gs_base(u64::MAX));
    }
    let mut disturber = context(at.snippet_segments);
    (disturber.rax, disturber.rbx) = (0x23, 0);
    for _ in 0..2 {
        for (context, word) in [(&mut first, 0u64), (&mut second, 256)] {
            context.set_rip(at.snippet_fs);
            assert_eq!(enter(context), undefined);
            assert_eq!((context.rax, context.rbx), (word, word + 8));
            disturber.set_rip(at.snippet_segments);
            assert_eq!(enter(&mut disturber), undefined);
        }
    }
}

fn registers(at: &At) {
    let mut context = context(at.snippet_ud2);
    fill(&mut context);
    let before = context.clone_registers();
    assert_eq!(enter(&mut context), Trap::Exception { vector: 6, error: 0 });
    assert_eq!(context.clone_registers(), before);
    context.set_rip(at.snippet_syscall);
    assert_eq!(enter(&mut context), Trap::Syscall);
    assert_eq!((context.rcx, context.r11), (context.rip(), context.rflags()));
    (context.rcx, context.r11) = (before[3], before[8]);
    assert_eq!(context.clone_registers(), before);

    // FPU registers belong to their thread, and to a copy of it.
    let mut threads = [self::context(at.snippet_xmm_set), self::context(at.snippet_xmm_set)];
    for (thread, value) in threads.iter_mut().zip([0x1111_2222_3333_4444, 0x5555_6666_7777_8888]) {
        thread.rax = value;
        assert_eq!(enter(thread), Trap::Syscall);
    }
    let mut copy = threads[0].fork().expect("the heap has room");
    let image = threads[1].fpu().image().to_vec();
    for (thread, value) in threads.iter_mut().zip([0x1111_2222_3333_4444, 0x5555_6666_7777_8888]) {
        assert_eq!(enter(thread), Trap::Exception { vector: 6, error: 0 });
        assert_eq!(thread.rbx, value);
    }
    // They can be read and replaced, and no image, whatever is in it, makes the kernel fault.
    let [mut reader, _] = threads;
    for image in [&image[..], &image[..512]] {
        assert!(reader.fpu_mut().replace(image));
        reader.set_rip(at.snippet_xmm_set);
        reader.rax = 1;
        assert_eq!(enter(&mut reader), Trap::Syscall);
        assert!(reader.fpu_mut().replace(image));
        assert_eq!(enter(&mut reader), Trap::Exception { vector: 6, error: 0 });
        assert_eq!(reader.rbx, 0x5555_6666_7777_8888);
    }
    for length in [511, 512, 600, image.len(), image.len() + 100] {
        assert_eq!(
            reader.fpu_mut().replace(&crate::startup::vec![0xff; length]),
            length >= 512
        );
        reader.set_rip(at.snippet_syscall);
        assert_eq!(enter(&mut reader), Trap::Syscall);
    }
    reader.fpu_mut().reset();
    assert_eq!(enter(&mut reader), Trap::Syscall);
    drop(reader);
    assert_eq!(enter(&mut copy), Trap::Exception { vector: 6, error: 0 });
    assert_eq!(copy.rbx, 0x1111_2222_3333_4444);
}

fn fill(context: &mut UserContext) {
    for (index, register) in registers_of(context).into_iter().enumerate() {
        *register = 0x0101_0101_0101_0101 * (index as u64 + 1);
    }
}

fn registers_of(context: &mut UserContext) -> [&mut u64; 15] {
    let frame = &mut **context;
    [
        &mut frame.rax,
        &mut frame.rbx,
        &mut frame.rdx,
        &mut frame.rcx,
        &mut frame.rsi,
        &mut frame.rdi,
        &mut frame.rbp,
        &mut frame.r10,
        &mut frame.r11,
        &mut frame.r8,
        &mut frame.r9,
        &mut frame.r12,
        &mut frame.r13,
        &mut frame.r14,
        &mut frame.r15,
    ]
}

impl UserContext {
    fn clone_registers(&mut self) -> [u64; 15] {
        registers_of(self).map(|register| *register)
    }
}

fn interrupts(at: &At) {
    let mut context = context(at.snippet_loop);
    fill(&mut context);
    let before = context.clone_registers();
    for _ in 0..3 {
        alarm::by(clock::counter() + clock::counter_hz() / 10_000);
        // SAFETY: as in `enter`.
        let trap = unsafe { enter_user(&mut context) };
        assert!(
            matches!(trap, Trap::Interrupt(FIRST_INTERRUPT | APIC_TIMER)),
            "{trap:?}"
        );
    }
    assert_eq!(context.clone_registers(), before);

    // A non-maskable interrupt is counted and forgotten, although interrupts are off.
    let nmis = kernel_trap::nmi_count();
    if apic::send_nmi() {
        let deadline = clock::now() + 1_000_000;
        while kernel_trap::nmi_count() == nmis && clock::now() < deadline {}
        assert_eq!(kernel_trap::nmi_count(), nmis + 1);
    }
    assert_eq!(kernel_flags() & 1 << 9, 0, "interrupts are off");
}

/// Prints the cost of round trips: with `-icount shift=0` one count is one instruction.
fn costs(at: &At) {
    let mut call = context(at.snippet_syscall);
    let mut fault = context(at.snippet_read);
    fault.rdi = NOTHING;
    let mut other = context(at.snippet_syscall);
    let report = |name, counts| ::log::info!("trap test: {name}: {counts} counts");
    report("syscall and back", measure(&mut call, None));
    report("page fault and back", measure(&mut fault, None));
    report(
        "syscall and back, another thread each time",
        measure(&mut call, Some(&mut other)),
    );
}

fn measure(first: &mut UserContext, mut second: Option<&mut UserContext>) -> u64 {
    // The first entry switches the FPU; a tick in the middle would add its handler, so the smallest of a few is taken.
    enter(first);
    (0..8)
        .map(|_| {
            let start = clock::counter();
            for _ in 0..ROUNDS / 100 {
                // SAFETY: as in `enter`.
                unsafe {
                    enter_user(first);
                    if let Some(second) = &mut second {
                        enter_user(second);
                    }
                }
            }
            let entries = ROUNDS / 100 * if second.is_some() { 2 } else { 1 };
            (clock::counter() - start) / entries
        })
        .min()
        .unwrap_or(0)
}

fn kernel_flags() -> u64 {
    let flags: u64;
    // SAFETY: pushes and pops one word.
    unsafe { asm!("pushfq; pop {}", out(reg) flags) };
    flags
}
