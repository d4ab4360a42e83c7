//! The page tables with which the kernel starts.

use x86_64::structures::paging::mapper::{MapToError, OffsetPageTable};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::error::Error;
use crate::memory::{FreeMemory, PAGE, Range};

const TABLE_FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// Frames for page tables, out of free memory.
struct TableFrames<'a>(&'a mut FreeMemory);

// SAFETY: `FreeMemory::allocate` hands every frame out once, and only frames that nothing uses.
unsafe impl FrameAllocator<Size4KiB> for TableFrames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.0.allocate(PAGE).ok()?;
        Some(PhysFrame::containing_address(PhysAddr::new(frame.start)))
    }
}

/// A tree of page tables that is being built; not the one in use.
pub struct Tables {
    mapper: OffsetPageTable<'static>,
    root: u64,
    giant_pages: bool,
}

impl Tables {
    /// An empty tree. `giant_pages` says whether the CPU has 1 GiB pages.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is no frame for the root.
    pub fn new(memory: &mut FreeMemory, giant_pages: bool) -> Result<Self, Error> {
        let root = memory.allocate(PAGE)?.start;
        // SAFETY: 1. The frame is fresh and identity mapped, and nothing else refers to it for the rest of the stage.
        // 2. Tables come from below 4 GiB, where virtual and physical addresses are equal: the offset is 0.
        let mapper = unsafe {
            (root as *mut PageTable).write(PageTable::new());
            OffsetPageTable::new(&mut *(root as *mut PageTable), VirtAddr::zero())
        };
        Ok(Self {
            mapper,
            root,
            giant_pages,
        })
    }

    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps the whole pages of `frames` at `address`, with the largest pages that alignment and CPU allow.
    ///
    /// # Errors
    /// [`Error::Map`] if something is mapped there, [`Error::Memory`] if there is no frame for a table.
    pub fn map(
        &mut self,
        memory: &mut FreeMemory,
        what: &'static str,
        address: u64,
        frames: Range,
        flags: PageTableFlags,
    ) -> Result<(), Error> {
        let length = frames.len().next_multiple_of(PAGE);
        let mut done = 0;
        while done < length {
            let (to, from, left) = (address + done, frames.start + done, length - done);
            let fits = |size: u64| (to | from) % size == 0 && left >= size;
            done += if self.giant_pages && fits(Size1GiB::SIZE) {
                self.map_one::<Size1GiB>(memory, what, to, from, flags)?
            } else if fits(Size2MiB::SIZE) {
                self.map_one::<Size2MiB>(memory, what, to, from, flags)?
            } else {
                self.map_one::<Size4KiB>(memory, what, to, from, flags)?
            };
        }
        Ok(())
    }

    fn map_one<S: PageSize>(
        &mut self,
        memory: &mut FreeMemory,
        what: &'static str,
        to: u64,
        from: u64,
        flags: PageTableFlags,
    ) -> Result<u64, Error>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let address = VirtAddr::try_new(to).map_err(|_| Error::Map { what, address: to })?;
        let page = Page::<S>::containing_address(address);
        let frame = PhysFrame::<S>::containing_address(PhysAddr::new(from));
        // SAFETY: this tree is not in use, so no mapping of it can be relied on yet; the kernel is what gives the
        // mapped addresses their meaning.
        let mapped = unsafe {
            self.mapper
                .map_to_with_table_flags(page, frame, flags, TABLE_FLAGS, &mut TableFrames(memory))
        };
        match mapped {
            // No translation of this tree is cached anywhere.
            Ok(flush) => flush.ignore(),
            Err(MapToError::FrameAllocationFailed) => {
                return Err(crate::memory::MemoryError::OutOfMemory(PAGE).into());
            }
            Err(MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_)) => {
                return Err(Error::Map { what, address: to });
            }
        }
        Ok(S::SIZE)
    }
}
