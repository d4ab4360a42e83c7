//! A node of an extent tree: a header, and entries in the order of the file's blocks.
//!
//! An inner node's entry names the node below for the blocks from its own first block up to the next entry's. A leaf's
//! entry says where a run of blocks is.

use crate::bytes::Fields;

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;

/// The highest tree, as on Linux.
pub(crate) const MAX_DEPTH: u16 = 5;

/// A run longer than this is one that was reserved but not written; it reads as zeros.
const MAX_WRITTEN: u16 = 32768;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first block of the file.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The first block of the volume.
    pub start: u64,
    /// Whether they hold bytes of the file.
    pub written: bool,
}

/// A node that has been checked as far as it goes alone.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    entries: &'a [u8],
    /// Levels below it; 0 is a leaf.
    pub depth: u16,
}

impl<'a> Node<'a> {
    /// Checks the header of the node in `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let fields = Fields(bytes);
        let (count, depth) = (usize::from(fields.u16(2)), fields.u16(6));
        if fields.u16(0) != MAGIC || depth > MAX_DEPTH {
            return None;
        }
        let entries = bytes.get(HEADER..)?.get(..count * ENTRY)?;
        Some(Self { entries, depth })
    }

    /// How many entries it has.
    pub const fn len(&self) -> usize {
        self.entries.len() / ENTRY
    }

    fn entry(&self, index: usize) -> Option<Fields<'a>> {
        self.entries.chunks_exact(ENTRY).nth(index).map(Fields)
    }

    /// An entry of an inner node: the first block of the file, and the block of the volume that has the node below.
    pub fn below(&self, index: usize) -> Option<(u32, u64)> {
        let fields = self.entry(index)?;
        let block = u64::from(fields.u32(4)) | u64::from(fields.u16(8)) << 32;
        Some((fields.u32(0), block))
    }

    /// An entry of a leaf.
    pub fn run(&self, index: usize) -> Option<Run> {
        let fields = self.entry(index)?;
        let length = fields.u16(4);
        let written = length <= MAX_WRITTEN;
        Some(Run {
            first: fields.u32(0),
            count: u32::from(if written { length } else { length - MAX_WRITTEN }),
            start: u64::from(fields.u32(8)) | u64::from(fields.u16(6)) << 32,
            written,
        })
    }
}
