//! The disk: it answers late, in any order, and sometimes with an error.
//!
//! It writes by itself, as devices do: when an answer is due, the bytes are in the frames that the transfer names, whoever
//! may have taken them meanwhile. So a frame that is freed under the device shows.

use std::cell::RefCell;

use faultline_mm::{
    BlockDevice, DiskFile, LocateError, MemoryObject, PAGE_SIZE, Piece, Pieces, SECTOR_SIZE, Segment, Transfer,
};

use crate::machine::second_word;
use crate::model::{DISK_PAGES, disk_value};
use crate::queue::{Queue, frame_of};
use crate::world::{fail, world};

/// Where the first halves of pages are, and the second halves of those that are in two pieces.
const FIRST: u64 = 100;
const SECOND: u64 = 10_000;

/// Half a page.
const HALF: u16 = (PAGE_SIZE / 2) as u16;

/// What is in memory before the answer.
const UNREAD: u64 = 0xbad;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Each with the pages that were taken out of the object since it began, so that they may be read once more.
    pending: Queue<Vec<u32>>,
    /// Pages that are being taken out of the object.
    discarding: RefCell<Vec<u32>>,
}

impl Disk {
    /// Runs `punch`, which takes a page out of the object.
    pub fn discard(&self, page: u32, punch: impl FnOnce()) {
        self.discarding.borrow_mut().push(page);
        punch();
        for pending in self.pending.all_mut().iter_mut() {
            pending.with.push(page);
        }
        let mut discarding = self.discarding.borrow_mut();
        if let Some(place) = discarding.iter().position(|&other| other == page) {
            discarding.swap_remove(place);
        }
    }

    /// Whether a read of this piece is under way that nobody else may begin.
    fn is_being_read(&self, segment: &Segment) -> bool {
        let page = page_of(segment);
        let pending = self.pending.all();
        let mut readers = pending.iter().filter(|pending| !pending.with.contains(&page));
        !self.discarding.borrow().contains(&page)
            && readers.any(|pending| {
                let mut segments = pending.transfer.segments().iter();
                segments.any(|other| other.sector == segment.sector)
            })
    }

    /// When the next answer is due.
    pub fn next_due(&self) -> Option<u64> {
        self.pending.next_due()
    }

    /// The interrupt: answers what is due.
    pub fn answer(&self) {
        let world = world();
        while let Some(pending) = self.pending.take_due() {
            let fails = world.random.borrow_mut().chance(world.settings().disk_errors, 16);
            pending.check_frames("the disk");
            let transfer = &pending.transfer;
            if !fails {
                transfer.segments().iter().for_each(read);
            }
            world.note(|| {
                let pages: Vec<_> = transfer.segments().iter().map(page_of).collect();
                format!("disk: pages {pages:?}{}", if fails { " failed" } else { "" })
            });
            pending.end(fails);
        }
    }

    fn start(&self, transfer: Transfer) {
        for segment in transfer.segments() {
            if self.is_being_read(segment) {
                fail(format!(
                    "page {} of the disk is read although it is being read",
                    page_of(segment)
                ));
            }
            // The hole of a page that is in two pieces stays as it is.
            let start = u64::from(frame_of(segment)) * PAGE_SIZE;
            if segment.offset == 0 {
                set_word(start, UNREAD);
            }
        }
        if self.pending.add(transfer, Vec::new()) {
            self.answer();
        }
    }
}

/// The page of the file that a piece is of.
fn page_of(segment: &Segment) -> u32 {
    let base = if segment.sector < SECOND { FIRST } else { SECOND };
    ((segment.sector - base) / (PAGE_SIZE / SECTOR_SIZE)) as u32
}

fn set_word(address: u64, value: u64) {
    let word = world().physical.word(address);
    word.store(value, std::sync::atomic::Ordering::Relaxed);
}

/// Moves a piece to its frame: those of the page's two words that are in it.
fn read(segment: &Segment) {
    let start = u64::from(frame_of(segment)) * PAGE_SIZE;
    let value = disk_value(page_of(segment));
    if segment.offset == 0 {
        set_word(start, value);
    }
    if u64::from(segment.offset + segment.length) == PAGE_SIZE {
        set_word(start + PAGE_SIZE - 8, second_word(value));
    }
}

/// The device, as `mm` sees it.
struct Device;

impl BlockDevice for Device {
    fn name(&self) -> &str {
        "disk"
    }

    fn sectors(&self) -> u64 {
        2 * SECOND
    }

    fn start(&self, transfer: Transfer) {
        world().disk.start(transfer);
    }
}

/// The file of the disk: pages of one piece, of two, and of none.
struct File;

impl DiskFile for File {
    fn len(&self) -> u64 {
        u64::from(DISK_PAGES) * PAGE_SIZE
    }

    fn device(&self) -> &dyn BlockDevice {
        &Device
    }

    fn locate(&self, page: u64, pieces: &mut Pieces) -> Result<(), LocateError> {
        let sectors = page * (PAGE_SIZE / SECTOR_SIZE);
        match page % 4 {
            _ if disk_value(page as u32) == 0 => {}
            1 => {
                for (sector, offset) in [(FIRST, 0), (SECOND, HALF)] {
                    pieces.push(Piece {
                        sector: sector + sectors,
                        offset,
                        length: HALF,
                    });
                }
            }
            _ => pieces.push(Piece {
                sector: FIRST + sectors,
                offset: 0,
                length: PAGE_SIZE as u16,
            }),
        }
        Ok(())
    }
}

/// The pages of the file.
pub(crate) fn open() -> Option<faultline_fallible::Arc<MemoryObject>> {
    let file = faultline_fallible::Arc::try_new(File).ok()?;
    let file = faultline_fallible::unsize!(file => dyn DiskFile);
    MemoryObject::of_file(world().memory(), file).ok()
}
