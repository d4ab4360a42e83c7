//! The template: the top-level table whose upper half every address space shares.
//!
//! All 256 kernel slots are present from the start, so a copy of them never goes stale: what the kernel maps later
//! appears below entries that every space already has. The lower half is empty.
//!
//! At start-up the whole kernel half is walked once. No leaf may be both writable and executable, none may be open to
//! user mode; leaves become global where the CPU has that, as they are the same in every space.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};

use super::features::{Features, features};
use crate::memory::{BootMemory, PAGE, phys_to_virt};

/// Entries of the top-level table below the kernel half.
const KERNEL_SLOTS: core::ops::Range<usize> = 256..512;

static TEMPLATE: AtomicU64 = AtomicU64::new(0);

/// Physical address of the template's top-level table; zero before [`start`].
pub fn template_root() -> u64 {
    TEMPLATE.load(Relaxed)
}

/// What the walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Leaves that are executable.
    pub executable: u64,
    /// Leaves that are writable.
    pub writable: u64,
    /// Leaves that are neither.
    pub read_only: u64,
}

/// Builds the template out of the boot stage's tables, checks it, and makes it the active root.
///
/// # Safety
/// Runs once, in ring 0, on boot-stage tables that map the kernel, its stack and all physical memory in the kernel
/// half; nothing uses the lower half any more.
///
/// # Panics
/// If memory is too small for the tables, or a leaf breaks the rules above.
pub unsafe fn start(memory: &mut BootMemory) -> Survey {
    let (boot_root, _) = Cr3::read();
    let mut fresh = || {
        let Some(range) = memory.carve(PAGE) else {
            panic!("too little memory: no room for the kernel's page tables")
        };
        let table = phys_to_virt(range.start).cast::<PageTable>();
        // SAFETY: the page was just carved from free memory and is mapped with all physical memory.
        unsafe { table.write(PageTable::new()) };
        (table, PhysFrame::containing_address(PhysAddr::new(range.start)))
    };
    let (root, root_frame) = fresh();
    // SAFETY: 1. The new table is ours alone. 2. The boot stage's table is only read.
    let (root, boot) = unsafe { (&mut *root, &*table_at(boot_root.start_address())) };
    for slot in KERNEL_SLOTS {
        if boot[slot].is_unused() {
            root[slot].set_addr(
                fresh().1.start_address(),
                PageTableFlags::PRESENT | PageTableFlags::WRITABLE,
            );
        } else {
            root[slot] = boot[slot].clone();
        }
    }
    let mut survey = Survey::default();
    for slot in KERNEL_SLOTS {
        let address = 0xffff_0000_0000_0000 | (slot as u64) << 39;
        visit(
            &mut root[slot],
            4,
            address,
            PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE,
            &mut survey,
        );
    }
    // SAFETY: 1. The template maps the whole kernel half as before. 2. Writing CR3 drops the old translations, but for
    // global ones, and none was global until now.
    unsafe { Cr3::write(root_frame, Cr3Flags::empty()) };
    TEMPLATE.store(root_frame.start_address().as_u64(), Relaxed);
    survey
}

/// Maps fresh memory, not executable, at `range` of the kernel half.
///
/// # Panics
/// If memory is too small, the range is not page-aligned, or something is mapped there.
pub fn map_fresh(range: Range<u64>, memory: &mut BootMemory) {
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let mut fresh = || {
        let Some(range) = memory.carve(PAGE) else {
            panic!("too little memory: no room for the stacks of the other CPUs")
        };
        // SAFETY: the page was just carved from free memory and is mapped with all physical memory.
        unsafe { phys_to_virt(range.start).write_bytes(0, PAGE as usize) };
        PhysAddr::new(range.start)
    };
    assert!(range.start.is_multiple_of(PAGE), "a stack starts with a page");
    for page in range.step_by(PAGE as usize) {
        let mut table = PhysAddr::new(template_root());
        for level in (1..=4).rev() {
            // SAFETY: the kernel's tables are never freed, and only the boot CPU changes them, here and at start-up.
            let entry = unsafe { &mut (&mut *table_at(table))[(page >> (12 + 9 * (level - 1))) as usize % 512] };
            if level == 1 {
                assert!(entry.is_unused(), "something is mapped at {page:#x}");
                let leaf = flags | PageTableFlags::NO_EXECUTE;
                let global = features().contains(Features::PGE);
                entry.set_addr(fresh(), if global { leaf | PageTableFlags::GLOBAL } else { leaf });
            } else if entry.is_unused() {
                entry.set_addr(fresh(), flags);
            }
            table = entry.addr();
        }
    }
}

fn table_at(address: PhysAddr) -> *mut PageTable {
    phys_to_virt(address.as_u64()).cast()
}

/// Visits the entry at `level` that maps `address`; `allowed` are the rights that every entry above it grants, where
/// no-execute counts as granted once it is set.
fn visit(entry: &mut PageTableEntry, level: u8, address: u64, allowed: PageTableFlags, survey: &mut Survey) {
    let flags = entry.flags();
    if !flags.contains(PageTableFlags::PRESENT) {
        return;
    }
    let narrowing = PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
    let rights = (allowed & flags & narrowing) | ((allowed | flags) & PageTableFlags::NO_EXECUTE);
    if level == 1 || flags.contains(PageTableFlags::HUGE_PAGE) {
        let executable = !rights.contains(PageTableFlags::NO_EXECUTE);
        let writable = rights.contains(PageTableFlags::WRITABLE);
        assert!(
            !(executable && writable),
            "kernel page {address:#x} is writable and executable"
        );
        assert!(
            !rights.contains(PageTableFlags::USER_ACCESSIBLE),
            "kernel page {address:#x} is open to user mode"
        );
        survey.executable += u64::from(executable);
        survey.writable += u64::from(writable);
        survey.read_only += u64::from(!executable && !writable);
        if features().contains(Features::PGE) {
            entry.set_flags(flags | PageTableFlags::GLOBAL);
        }
        return;
    }
    // SAFETY: a present entry above level 1 without the page-size bit holds the address of a table, and nobody else
    // refers to the kernel's tables while this runs.
    let table = unsafe { &mut *table_at(entry.addr()) };
    for (index, below) in table.iter_mut().enumerate() {
        let step = (index as u64) << (12 + 9 * (u32::from(level) - 2));
        visit(below, level - 1, address | step, rights, survey);
    }
}

/// The physical address of `bytes`, which lie in the kernel half, if they are physically contiguous.
pub fn physical_run(bytes: &[u8]) -> Option<PhysAddr> {
    let start = bytes.as_ptr() as u64;
    let first = translate(start)?;
    let pages = (start & !(PAGE - 1)..start + bytes.len() as u64).step_by(PAGE as usize);
    for page in pages.skip(1) {
        if translate(page)?.as_u64() != first.as_u64() + (page - start) {
            return None;
        }
    }
    Some(first)
}

/// The physical address of `address`, if the kernel half maps it.
pub fn physical_address(address: u64) -> Option<u64> {
    translate(address).map(PhysAddr::as_u64)
}

/// Where the template maps `address`.
fn translate(address: u64) -> Option<PhysAddr> {
    let mut table = PhysAddr::new(template_root());
    for level in (1..=4).rev() {
        let shift = 12 + 9 * (level - 1);
        // SAFETY: a present entry above level 1 without the page-size bit holds the address of a table; the kernel's
        // tables are never freed.
        let entry = unsafe { &(&*table_at(table))[(address >> shift) as usize % 512] };
        if !entry.flags().contains(PageTableFlags::PRESENT) {
            return None;
        }
        if level == 1 || entry.flags().contains(PageTableFlags::HUGE_PAGE) {
            let size = 1 << shift;
            return Some(PhysAddr::new(
                (entry.addr().as_u64() & !(size - 1)) + (address & (size - 1)),
            ));
        }
        table = entry.addr();
    }
    None
}
