//! The file that lies in memory for ever.

use faultline_mm::{FillError, PAGE_SIZE, PageSource, Pfn};
use x86_64::structures::paging::PhysFrame;

use crate::model::{FILE_PAGES, file_value};
use crate::world::world;

/// The file of a world.
#[derive(Debug)]
pub(crate) struct File {
    /// Pages that are whole frames.
    pub resident: Vec<Option<Pfn>>,
}

impl PageSource for File {
    fn len(&self) -> u64 {
        u64::from(FILE_PAGES) * PAGE_SIZE
    }

    fn resident(&self, index: u64) -> Option<PhysFrame> {
        let frame = *self.resident.get(index as usize)?;
        frame.map(PhysFrame::from)
    }

    fn fill(&self, index: u64, page: &mut [u8; 4096]) -> Result<(), FillError> {
        let world = world();
        page.fill(0);
        let target = (page.as_ptr().addr() - world.physical.watched().0) as u64;
        world.physical.set_value(target, file_value(index as u32));
        Ok(())
    }
}
