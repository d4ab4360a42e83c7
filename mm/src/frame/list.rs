//! A last-in-first-out list of single frames, linked through their metadata.

use super::meta::{FrameMeta, NONE, Word};
use super::pfn::Pfn;

/// The frame freed last is handed out first: its metadata, and often its content, is still in the cache.
#[derive(Debug)]
pub(super) struct FrameList {
    head: u32,
    len: u32,
}

impl FrameList {
    pub const fn new() -> Self {
        Self { head: NONE, len: 0 }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Puts a frame that the caller owns on the list, in the state that `word` says.
    #[inline]
    pub fn push(&mut self, metadata: &[FrameMeta], pfn: Pfn, word: Word) {
        let meta = &metadata[pfn.index()];
        meta.store(word);
        meta.set_next(self.head);
        self.head = pfn.number();
        self.len += 1;
    }

    /// Takes the first frame. The caller owns it and must set its state.
    #[inline]
    pub fn pop<'m>(&mut self, metadata: &'m [FrameMeta]) -> Option<(Pfn, &'m FrameMeta)> {
        let pfn = Pfn::new(self.head);
        let meta = metadata.get(pfn.index())?;
        self.head = meta.next();
        self.len -= 1;
        Some((pfn, meta))
    }
}
