//! The object itself: its pages, and how it gets and loses them.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use faultline_fallible::{AllocError, Arc, Weak};

use super::all::Links;
use super::disk_file::DiskFile;
use super::sparse::{Left, Sparse};
use super::state::PageState;
use crate::address::PAGE_SIZE;
use crate::error::VasError;
use crate::frame::{FrameAllocator, Pfn, ReservedFrame};
use crate::memory::Memory;
use crate::platform::Platform;
use crate::sync::Mutex;

/// The number of an object. It names the object even to who does not keep it alive.
struct ObjectId(u64);

impl ObjectId {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Pages that several spaces see: anonymous shared memory, a memfd or tmpfs file, a file on a disk.
///
/// The pages appear when they are first touched, by whichever space: as zeros, or as they are on the disk. The object
/// holds one reference to each of its frames, and every entry that maps one holds another; a frame is free when the
/// object and all mappings are gone. A page that is not in memory takes none: the tree of pages grows with those that
/// were touched. What an object loses at once, when it is cut off or dropped, goes back piece by piece:
/// [`Memory::give_back_left`](crate::Memory::give_back_left).
pub struct MemoryObject {
    id: ObjectId,
    pub(crate) frames: &'static FrameAllocator,
    pub(crate) pages: Mutex<Pages>,
    /// Where absent pages are read from; without it they are zeros.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// No page leaves memory.
    pub(super) stays: bool,
    pub(super) links: Links,
}

/// The pages of an object.
pub(crate) struct Pages {
    /// How many there may be.
    pub end: u64,
    /// Those that are not absent; all are below the end.
    pub tree: Sparse,
    /// The object itself, for reads that keep it alive.
    pub this: Weak<MemoryObject>,
    /// The page that the object's hand comes to next; none at the end.
    pub hand: Option<u64>,
    /// The round of the hand over all objects in which it was here last.
    pub round: u64,
}

/// Frames that go back at once when an object is cut off; the others follow.
pub(super) const AT_ONCE: usize = 16;

impl MemoryObject {
    /// An object of `size` bytes of zeros, rounded up to whole pages. Takes no frame.
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
        Ok(Self::with(frames, count, None, false)?)
    }

    /// An object without pages, which [`resize`](Self::resize) gives some.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn empty(frames: &'static FrameAllocator) -> Result<Arc<Self>, AllocError> {
        Self::with(frames, 0, None, false)
    }

    /// As [`empty`](Self::empty), for the kernel's own use: no page of it ever leaves memory, so it is read and written
    /// without waiting.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn of_kernel(frames: &'static FrameAllocator) -> Result<Arc<Self>, AllocError> {
        Self::with(frames, 0, None, true)
    }

    /// An object with the pages of a file on a disk, as many as the file has. Takes no frame. The first such object makes
    /// room for transfers, which stays.
    ///
    /// # Errors
    /// There is no kernel memory.
    pub fn of_file<P: Platform>(memory: &'static Memory<P>, file: Arc<dyn DiskFile>) -> Result<Arc<Self>, AllocError> {
        memory.reads.prepare()?;
        memory.adjust_watermarks();
        let end = file.len().div_ceil(PAGE_SIZE);
        Self::with(memory.frames(), end, Some(file), false)
    }

    fn with(
        frames: &'static FrameAllocator,
        end: u64,
        file: Option<Arc<dyn DiskFile>>,
        stays: bool,
    ) -> Result<Arc<Self>, AllocError> {
        let pages = Pages {
            end,
            tree: Sparse::default(),
            this: Weak::new(),
            hand: Some(0),
            round: 0,
        };
        let object = Arc::try_new(Self {
            id: ObjectId::new(),
            frames,
            pages: Mutex::new(pages),
            file,
            stays,
            links: Links::new(),
        })?;
        object.pages.lock().this = Arc::downgrade(&object);
        frames.objects.all.add(&object);
        Ok(object)
    }

    /// The file on a disk that its pages come from.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<dyn DiskFile>> {
        self.file.as_ref()
    }

    /// Length of its file in bytes; 0 without one.
    pub(super) fn file_length(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.len())
    }

    /// Whether its pages can leave memory before it does: to a file that has them, or to the swap area.
    pub(crate) fn can_give_up_pages(&self) -> bool {
        !self.stays && (self.file.is_some() || self.frames.swap.free() > 0)
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

    /// Pages that are in memory, or on their way.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.pages.lock().tree.count()
    }

    /// Makes the object `size` bytes long, rounded up to whole pages. New pages are zero and take no memory; those that
    /// are cut off go, but a space that has mapped one keeps seeing it until it unmaps it, or
    /// [`Memory::unmap_object`](crate::Memory::unmap_object) does.
    pub fn resize(&self, size: u64) {
        let mut pages = self.pages.lock();
        let end = size.div_ceil(PAGE_SIZE);
        let cut = pages.end > end;
        pages.end = end;
        if cut {
            self.detach(&mut pages, end, u64::MAX);
        }
        drop(pages);
        self.frames.give_back_left(AT_ONCE);
    }

    /// Takes the frames of the pages from `first` up to `end` away: they read as zeros then, or as they are on the disk. A
    /// space that has mapped one keeps seeing it until it unmaps it.
    pub fn punch(&self, first: u64, end: u64) {
        self.detach(&mut self.pages.lock(), first, end);
        self.frames.give_back_left(AT_ONCE);
    }

    /// As [`punch`](Self::punch), the first pages of a range, and no page that a space has mapped unless `mapped` says so.
    /// Says where to go on; nothing if a page is mapped, and then nothing has changed.
    pub(crate) fn punch_next(&self, range: Range<u64>, mapped: bool) -> Option<u64> {
        const LOOKED: usize = 256;
        let mut pages = self.pages.lock();
        let mut end = range.start;
        for _ in 0..LOOKED {
            let next = pages.tree.next_page(end).filter(|&page| page < range.end);
            let Some(page) = next else {
                end = range.end;
                break;
            };
            let frame = pages.tree.get(page).resident_frame();
            if !mapped && frame.is_some_and(|frame| self.frames.mapping_count(frame) > 1) {
                if end == range.start {
                    return None;
                }
                break;
            }
            end = page + 1;
        }
        self.detach(&mut pages, range.start, end);
        drop(pages);
        self.frames.give_back_left(AT_ONCE);
        Some(end)
    }

    /// Takes the pages from `start` up to `end` away from the object, whose lock the caller has.
    fn detach(&self, pages: &mut Pages, start: u64, end: u64) {
        let mut lost = Left::new();
        pages.tree.detach(start, end, &mut lost);
        if !lost.is_empty() {
            self.frames.objects.left.lock().append(self.frames, lost);
        }
    }

    /// Gives an absent page of the object, whose lock the caller has, its frame.
    ///
    /// # Errors
    /// There is no kernel memory for the page's place; the frame has gone back.
    #[inline(always)]
    pub(crate) fn insert(
        &self,
        pages: &mut Pages,
        page: u64,
        frame: ReservedFrame<'static>,
    ) -> Result<Pfn, AllocError> {
        pages.tree.prepare(page)?;
        let frame = self.frames.map_for_object(frame);
        pages.tree.insert(page, PageState::resident(frame));
        self.frames.objects.resident.add(1);
        Ok(frame)
    }
}

impl Drop for MemoryObject {
    fn drop(&mut self) {
        self.frames.objects.all.remove(self);
        let pages = self.pages.get_mut();
        let count = pages.tree.count();
        if count == 0 {
            return;
        }
        let mut lost = Left::new();
        pages.tree.detach_all(&mut lost);
        self.frames.objects.left.lock().append(self.frames, lost);
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
