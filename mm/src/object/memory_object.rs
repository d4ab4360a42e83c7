//! Memory that several spaces see: `MAP_SHARED | MAP_ANONYMOUS`, memfd.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use faultline_fallible::{AllocError, Arc};

use crate::sync::Mutex;

use crate::address::PAGE_SIZE;
use crate::error::VasError;
use crate::frame::{FrameAllocator, Pfn, ReservedFrame};
use crate::object::disk_file::DiskFile;
use crate::object::sparse::{Left, Sparse};

/// The number of an object. It names the object even to who does not keep it alive.
pub(crate) struct ObjectId(u64);

impl ObjectId {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// An object of zeroed memory whose pages appear when they are first touched, by whichever space.
///
/// The object holds one reference to each of its frames, and every entry that maps one holds another; a frame is free
/// when the object and all mappings are gone. A page without a frame takes no memory: the tree of pages grows with those
/// that were touched. What an object loses at once, when it is cut off or dropped, goes back piece by piece:
/// [`Memory::give_back_left`](crate::Memory::give_back_left).
pub struct MemoryObject {
    pub(crate) id: ObjectId,
    pub(crate) frames: &'static FrameAllocator,
    pub(crate) pages: Mutex<Pages>,
    /// Where absent pages are read from; without it they are zeros.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
}

/// The pages of an object.
#[derive(Default)]
pub(crate) struct Pages {
    /// How many there may be.
    pub end: u64,
    /// Those with a frame; all are below the end.
    pub tree: Sparse,
}

/// Frames that go back at once when an object is cut off; the others follow.
pub(crate) const AT_ONCE: usize = 16;

impl MemoryObject {
    /// An object of `size` bytes, rounded up to whole pages. Takes no frame.
    ///
    /// # Errors
    /// [`VasError::EmptyRange`] for size 0; [`VasError::OutOfMemory`] if there is no kernel memory for the object, or
    /// if it has more pages than the machine has frames.
    pub fn new(frames: &'static FrameAllocator, size: u64) -> Result<Arc<Self>, VasError> {
        let count = size.div_ceil(PAGE_SIZE);
        if count == 0 {
            return Err(VasError::EmptyRange { start: 0 });
        }
        // More pages than the machine has frames can't all be had.
        if count > u64::from(frames.end().number()) {
            return Err(VasError::OutOfMemory { needed: count });
        }
        let object = Self::empty(frames)?;
        object.pages.lock().end = count;
        Ok(object)
    }

    /// An object with the pages of a file on a disk, as many as the file has. Takes no frame.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn of_file(frames: &'static FrameAllocator, file: Arc<dyn DiskFile>) -> Result<Arc<Self>, AllocError> {
        let end = file.len().div_ceil(PAGE_SIZE);
        Arc::try_new(Self {
            id: ObjectId::new(),
            frames,
            pages: Mutex::new(Pages {
                end,
                ..Pages::default()
            }),
            file: Some(file),
        })
    }

    /// The file on a disk that its pages come from.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<dyn DiskFile>> {
        self.file.as_ref()
    }

    /// Its number, which no other object has or will have.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.lock().end * PAGE_SIZE
    }

    /// Pages that have a frame.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.pages.lock().tree.count()
    }

    /// A new reference to the frame of a page, if it has one.
    pub(crate) fn reference(&self, page: u64) -> Option<Pfn> {
        let pages = self.pages.lock();
        let frame = pages.tree.get(page);
        self.frames.add_mapping(frame).ok()?;
        Some(frame)
    }

    /// Gives a page its frame, or drops `new` if another fault was faster; returns a new reference to the frame that
    /// the page has now. `None` beyond the end, and without kernel memory for the page's place.
    pub(crate) fn insert(&self, page: u64, new: ReservedFrame<'static>) -> Option<Pfn> {
        let mut pages = self.pages.lock();
        if page >= pages.end {
            return None;
        }
        let mut frame = pages.tree.get(page);
        if frame == Pfn::NONE {
            pages.tree.prepare(page).ok()?;
            frame = new.map();
            pages.tree.insert(page, frame);
        }
        self.frames.add_mapping(frame).ok()?;
        Some(frame)
    }

    /// Takes the frames of the pages from `start` up to `end` away from the object, whose lock the caller has.
    pub(crate) fn detach(&self, pages: &mut Pages, start: u64, end: u64) {
        let mut lost = Left::new();
        pages.tree.detach(start, end, &mut lost);
        if !lost.is_empty() {
            self.frames.left.lock().append(self.frames, lost);
        }
    }
}

impl FrameAllocator {
    /// Gives back about `most` frames that shared objects have lost; says whether some are left.
    pub(crate) fn give_back_left(&self, most: usize) -> bool {
        let mut given = 0;
        let mut left = self.left.lock();
        while given < most {
            match left.give_back_one(self) {
                Some(count) => given += count + 1,
                None => break,
            }
        }
        !left.is_empty()
    }
}

impl Drop for MemoryObject {
    fn drop(&mut self) {
        let pages = self.pages.get_mut();
        let count = pages.tree.count();
        if count == 0 {
            return;
        }
        let mut lost = Left::new();
        pages.tree.detach_all(&mut lost);
        self.frames.left.lock().append(self.frames, lost);
        if count <= AT_ONCE {
            self.frames.give_back_left(count);
        }
    }
}

impl fmt::Debug for MemoryObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MemoryObject of {} bytes, {} pages resident",
            self.size(),
            self.resident()
        )
    }
}
