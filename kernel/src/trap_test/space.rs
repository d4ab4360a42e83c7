//! The address space of the trap test: a code page, which is also the last page of the lower half, and a data page.

use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use crate::arch::{USER_END, paging};
use crate::memory::{BootMemory, PAGE, phys_to_virt};

/// Where the code page is mapped, and once more as the last page of the lower half.
pub const CODE: u64 = 0x40_0000;
/// See [`CODE`].
pub const LAST_PAGE: u64 = USER_END - PAGE;
/// The data page, read-write; each word holds its offset.
pub const DATA: u64 = CODE + PAGE;

/// Builds and loads a space with the two pages; `code` is the content of the code page.
pub fn load(memory: &mut BootMemory, code: *const u8) {
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const NO_EXECUTE: u64 = 1 << 63;
    let mut page = |content: *const u8| {
        let frame = memory.carve(PAGE).expect("the test needs a few pages").start;
        // SAFETY: the frame is fresh and mapped; the content is a whole page, or null for zeros.
        unsafe {
            phys_to_virt(frame).write_bytes(0, PAGE as usize);
            if !content.is_null() {
                phys_to_virt(frame).copy_from_nonoverlapping(content, PAGE as usize);
            }
        }
        frame
    };
    let set = |table: u64, level: u32, address: u64, entry: u64| {
        let index = address >> (12 + 9 * (level - 1)) & 511;
        // SAFETY: the table is one of the fresh frames.
        unsafe { phys_to_virt(table).cast::<u64>().add(index as usize).write(entry) };
    };
    let none = core::ptr::null();
    let root = page(phys_to_virt(paging::template_root()));
    let code = page(code);
    let data = page(none);
    for word in 0..PAGE / 8 {
        // SAFETY: within the data page: every word holds its own offset.
        unsafe { phys_to_virt(data).cast::<u64>().add(word as usize).write(word * 8) };
    }
    let table = PRESENT | WRITABLE | USER;
    for (address, frame, flags) in [
        (CODE, code, PRESENT | USER),
        (LAST_PAGE, code, PRESENT | USER),
        (DATA, data, table | NO_EXECUTE),
    ] {
        let mut parent = root;
        for level in [4, 3, 2] {
            let index = address >> (12 + 9 * (level - 1)) & 511;
            // SAFETY: the table is one of the fresh frames.
            let entry = unsafe { phys_to_virt(parent).cast::<u64>().add(index as usize).read() };
            let below = if entry & PRESENT != 0 {
                entry & !(PAGE - 1)
            } else {
                page(none)
            };
            set(parent, level, address, below | table);
            parent = below;
        }
        set(parent, 1, address, frame | flags);
    }
    // SAFETY: the kernel half is the template's.
    unsafe { Cr3::write(PhysFrame::containing_address(PhysAddr::new(root)), Cr3Flags::empty()) };
}
