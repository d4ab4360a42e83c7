//! The last step: the mappings that the kernel's configuration asks for, the `BootInfo`, and the jump.
//!
//! Addresses that the configuration leaves open are handed out upwards from its dynamic range, each mapping in a
//! 512 GiB slot of its own as the `bootloader` crate does, so that no two of them can meet.

use core::arch::{asm, global_asm};
use core::convert::Infallible;
use core::mem::size_of;

use bootloader_api::BootInfo;
use bootloader_api::config::Mapping;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind, MemoryRegions, TlsTemplate};
use x86_64::structures::paging::PageTableFlags;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::memory::{FREE_BELOW, FreeMemory, MAX_RANGES, PAGE, Range};
use crate::paging::Tables;
use crate::pvh::Machine;
use crate::start::LINK_BASE;

const READ_ONLY: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);
const READ_WRITE: PageTableFlags = READ_ONLY.union(PageTableFlags::WRITABLE);
const READ_EXECUTE: PageTableFlags = PageTableFlags::PRESENT;

const LARGE_PAGE: u64 = 2 << 20;

/// What one entry of the top-level table covers.
const SLOT: u64 = 1 << 39;

/// The kernel's memory regions: each entry of the map may be cut by every free range once.
const MAX_REGIONS: usize = 3 * MAX_RANGES;

// Switches to the kernel's tables and stack and jumps. It runs at its physical address, which both trees map; it uses
// no memory of the stage after the switch.
//   rdi = boot info, rsi = stack top, rdx = entry, rcx = root table
global_asm!(
    ".section .entry, \"ax\"",
    ".global handoff_jump",
    "handoff_jump:",
    "mov cr3, rcx",
    "mov rsp, rsi",
    "xor ebp, ebp", // nobody called
    "push rbp",     // the place of a return address: the entry is an ordinary function
    "jmp rdx",
    ".text",
);

unsafe extern "C" {
    static handoff_jump: u8;
}

/// Addresses for `Mapping::Dynamic`.
struct Addresses {
    next: u64,
    end: u64,
}

impl Addresses {
    /// An address for `length` bytes; one that is free to choose lies as `frame` does within a large page, so that
    /// large pages can map it.
    fn choose(&mut self, mapping: Mapping, length: u64, frame: u64, what: &'static str) -> Result<u64, Error> {
        if let Mapping::FixedAddress(address) = mapping {
            return if address % PAGE == 0 {
                Ok(address)
            } else {
                Err(Error::Config("an address is not page-aligned"))
            };
        }
        let address = self.next + frame % LARGE_PAGE;
        let slots = (frame % LARGE_PAGE + length).next_multiple_of(SLOT);
        self.next = self
            .next
            .checked_add(slots)
            .filter(|_| address + length <= self.end)
            .ok_or(Error::Map { what, address })?;
        Ok(address)
    }
}

/// Maps everything, writes the boot info and enters the kernel; returns only errors.
///
/// # Errors
/// Whatever keeps a mapping from being made.
pub fn enter(kernel: &Kernel, machine: &Machine, mut memory: FreeMemory, module: Range) -> Result<Infallible, Error> {
    let mappings = &kernel.config.mappings;
    if mappings.page_table_recursive.is_some() {
        return Err(Error::Config("a recursive page table"));
    }
    let memory = &mut memory;
    let mut tables = Tables::new(memory, has_giant_pages())?;
    let mut addresses = Addresses {
        next: mappings.dynamic_range_start.unwrap_or(SLOT).next_multiple_of(SLOT),
        end: mappings.dynamic_range_end.unwrap_or(u64::MAX),
    };
    kernel.load(memory, &mut tables)?;

    // The lowest page of the stack area stays unmapped: the guard page.
    let stack_size = kernel.config.kernel_stack_size.next_multiple_of(PAGE);
    let guard = addresses.choose(mappings.kernel_stack, stack_size + PAGE, 0, "the kernel stack")?;
    let stack = memory.allocate(stack_size)?;
    tables.map(memory, "the kernel stack", guard + PAGE, stack, READ_WRITE)?;

    let info_size = (size_of::<BootInfo>() + MAX_REGIONS * size_of::<MemoryRegion>()) as u64;
    let info_address = addresses.choose(mappings.boot_info, info_size, 0, "the boot info")?;
    let info_frames = memory.allocate(info_size)?;
    tables.map(memory, "the boot info", info_address, info_frames, READ_WRITE)?;

    let physical_memory_offset = match mappings.physical_memory {
        None => None,
        Some(mapping) => {
            let end = machine
                .ram()
                .map(|range| range.end)
                .fold(FREE_BELOW, u64::max)
                .next_multiple_of(LARGE_PAGE);
            let offset = addresses.choose(mapping, end, 0, "physical memory")?;
            tables.map(memory, "physical memory", offset, Range::new(0, end), READ_WRITE)?;
            Some(offset)
        }
    };

    let ramdisk_address = addresses.choose(mappings.ramdisk_memory, module.len(), module.start, "the ramdisk")?;
    tables.map(memory, "the ramdisk", ramdisk_address, module, READ_ONLY)?;

    let jump = &raw const handoff_jump as u64 - LINK_BASE;
    let jump_page = jump & !(PAGE - 1);
    tables.map(
        memory,
        "the boot stage",
        jump_page,
        Range::new(jump_page, jump_page + PAGE),
        READ_EXECUTE,
    )?;

    // Nothing is allocated from here on: what is free now is what the kernel may use.
    // SAFETY: the frames are fresh, identity mapped, and long enough for the info and MAX_REGIONS regions behind it.
    let info = unsafe {
        let regions = (info_frames.start + size_of::<BootInfo>() as u64) as *mut MemoryRegion;
        let count = write_regions(core::slice::from_raw_parts_mut(regions, MAX_REGIONS), machine, memory)?;
        let kernel_view = (info_address + size_of::<BootInfo>() as u64) as *mut MemoryRegion;
        let info = info_frames.start as *mut BootInfo;
        info.write(BootInfo::new(MemoryRegions::from(core::slice::from_raw_parts_mut(
            kernel_view,
            count,
        ))));
        &mut *info
    };
    info.physical_memory_offset = physical_memory_offset.into();
    info.rsdp_addr = machine.rsdp.into();
    info.ramdisk_addr = Some(ramdisk_address).into();
    info.ramdisk_len = module.len();
    info.kernel_addr = kernel.file.as_ptr() as u64;
    info.kernel_len = kernel.file.len() as u64;
    info.kernel_stack_bottom = guard + PAGE;
    info.kernel_stack_len = stack_size;
    info.tls_template = kernel
        .tls()
        .map(|tls| TlsTemplate {
            start_addr: tls.p_vaddr,
            file_size: tls.p_filesz,
            mem_size: tls.p_memsz,
        })
        .into();

    // SAFETY: 1. `handoff_jump` runs at its physical address, mapped executable in both trees. 2. The new tree maps
    // the kernel, its stack and the boot info at the addresses passed. 3. The info outlives the kernel: its frames
    // are not in the free list.
    unsafe {
        asm!(
            "jmp {jump}",
            jump = in(reg) jump,
            in("rdi") info_address,
            in("rsi") guard + PAGE + stack_size,
            in("rdx") kernel.entry(),
            in("rcx") tables.root(),
            options(noreturn)
        )
    }
}

/// Writes the memory map as the kernel sees it: what is still free is usable, the rest of RAM belongs to the stage.
fn write_regions(regions: &mut [MemoryRegion], machine: &Machine, memory: &FreeMemory) -> Result<usize, Error> {
    let mut count = 0;
    let mut push = |start: u64, end: u64, kind: MemoryRegionKind| -> Result<(), Error> {
        if start >= end {
            return Ok(());
        }
        let slot = regions
            .get_mut(count)
            .ok_or(Error::StartInfo("the memory map has too many entries"))?;
        *slot = MemoryRegion { start, end, kind };
        count += 1;
        Ok(())
    };
    let mut written = 0;
    for entry in machine.map() {
        let range = entry.range();
        if !entry.is_ram() {
            push(range.start, range.end, MemoryRegionKind::UnknownBios(entry.kind))?;
            continue;
        }
        let mut at = range.start.max(written);
        for free in memory.ranges() {
            let (start, end) = (free.start.max(at), free.end.min(range.end));
            if start < end {
                push(at, start, MemoryRegionKind::Bootloader)?;
                push(start, end, MemoryRegionKind::Usable)?;
                at = end;
            }
        }
        push(at, range.end, MemoryRegionKind::Bootloader)?;
        written = written.max(range.end);
    }
    Ok(count)
}

/// Whether the CPU has 1 GiB pages.
fn has_giant_pages() -> bool {
    let extended = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    extended >= 0x8000_0001 && core::arch::x86_64::__cpuid(0x8000_0001).edx & (1 << 26) != 0
}
