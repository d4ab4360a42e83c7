//! Frames that wait for a TLB generation to pass.

use core::fmt;

use super::allocator::FrameAllocator;
use super::meta::{NONE, Word};
use super::pfn::Pfn;
use super::token::RetiredFrame;
use super::zeroed::BlankFrames;

/// Frames and page tables taken out of one address space, oldest first.
///
/// It is linked through the frames' metadata and needs no memory of its own, so freeing memory never needs memory.
/// Each frame keeps the low 32 bits of the generation of its removal; generations are compared modulo 2^32, which is
/// exact as long as no frame stays for 2^31 generations.
///
/// Dropping the list frees what is left in it. Drop it only when no CPU can hold a translation of the space any more.
pub struct QuarantineList<'a> {
    allocator: &'a FrameAllocator,
    head: u32,
    tail: u32,
    len: usize,
}

impl<'a> QuarantineList<'a> {
    /// An empty list for frames of `allocator`.
    pub const fn new(allocator: &'a FrameAllocator) -> Self {
        Self {
            allocator,
            head: NONE,
            tail: NONE,
            len: 0,
        }
    }

    /// The number of frames that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The low 32 bits of the oldest frame's generation.
    pub fn oldest_generation(&self) -> Option<u32> {
        self.allocator.metadata.get(self.head as usize).map(|meta| meta.prev())
    }

    /// Adds a frame that was removed at `generation`, which is not older than those added before.
    #[inline]
    pub(super) fn push(&mut self, frame: RetiredFrame<'a>, generation: u64, word: Word) {
        debug_assert!(
            core::ptr::eq(self.allocator, frame.allocator()),
            "a frame of another allocator"
        );
        frame.home().tally.quarantined();
        let (pfn, meta) = frame.publish();
        meta.store(word);
        meta.set_prev(generation as u32);
        meta.set_next(NONE);
        match self.allocator.metadata.get(self.tail as usize) {
            Some(last) => last.set_next(pfn.number()),
            None => self.head = pfn.number(),
        }
        self.tail = pfn.number();
        self.len += 1;
    }

    /// Frees every frame that was removed at `generation` or before, which every CPU has passed. Returns their number.
    pub fn release_up_to(&mut self, generation: u64, cpu: usize) -> usize {
        self.release_while(cpu, |removed| (generation as u32).wrapping_sub(removed) as i32 >= 0)
    }

    /// Frees every frame, when no CPU can hold a translation of the space any more. Returns their number.
    pub fn release_all(&mut self, cpu: usize) -> usize {
        self.release_while(cpu, |_| true)
    }

    fn release_while(&mut self, cpu: usize, passed: impl Fn(u32) -> bool) -> usize {
        let frames = self.allocator;
        if frames.limbo.is_held() {
            return self.detain_while(passed);
        }
        let cpu = frames.cpu_index(cpu);
        let head = &mut self.head;
        let mut blank = BlankFrames::new();
        let released = frames.release_each(cpu, || {
            loop {
                let pfn = Pfn::new(*head);
                let meta = frames.metadata.get(pfn.index()).filter(|meta| passed(meta.prev()))?;
                *head = meta.next();
                if meta.load() != Word::QUARANTINED_BLANK {
                    return Some((pfn, meta));
                }
                blank.push(pfn, meta);
            }
        });
        let released = released + frames.release_blank(cpu, blank);
        if self.head == NONE {
            self.tail = NONE;
        }
        self.len -= released;
        frames.cpu(cpu).tally.unquarantined(released as u64);
        released
    }
}

impl QuarantineList<'_> {
    /// As `release_while`, into limbo: this space has flushed, but another one has not.
    #[cold]
    fn detain_while(&mut self, passed: impl Fn(u32) -> bool) -> usize {
        let mut detained = 0;
        while let Some(meta) = self
            .allocator
            .metadata
            .get(self.head as usize)
            .filter(|meta| passed(meta.prev()))
        {
            let pfn = Pfn::new(self.head);
            self.head = meta.next();
            self.allocator.detain(pfn, meta);
            detained += 1;
        }
        if self.head == NONE {
            self.tail = NONE;
        }
        self.len -= detained;
        detained
    }
}

impl Drop for QuarantineList<'_> {
    fn drop(&mut self) {
        self.release_all(0);
    }
}

impl fmt::Debug for QuarantineList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuarantineList")
            .field("len", &self.len)
            .field("oldest", &self.oldest_generation())
            .finish()
    }
}
