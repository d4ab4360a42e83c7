//! Where the bytes of a file are: its extents, in memory.
//!
//! They are read once, when a file is opened. Faults and reads then find the bytes of a page without another read and
//! without memory.

use faultline_fallible::Vec;

use crate::error::{Error, Structure, Unsupported, corrupt};
use crate::extent::Run;
use crate::superblock::Superblock;

/// The most extents of one file: 4 MiB of them.
pub const MAX_EXTENTS: usize = 1 << 18;

#[derive(Clone, Copy, Debug)]
struct Extent {
    first: u32,
    count: u32,
    start: u64,
}

impl Extent {
    const fn end(&self) -> u64 {
        self.first as u64 + self.count as u64
    }
}

/// Bytes of a file that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are on the device; none if they are zeros that take no place.
    pub at: Option<u64>,
    /// How many; a multiple of the block size from the start of a block on.
    pub length: u64,
}

/// Where the bytes of a file are. What is in no extent is zeros.
#[derive(Debug)]
pub struct Extents {
    /// In ascending order, disjoint, and each within the volume.
    extents: Vec<Extent>,
    /// Blocks in them.
    blocks: u64,
    block_bits: u32,
}

impl Extents {
    pub(crate) const fn new(superblock: &Superblock) -> Self {
        Self {
            extents: Vec::new(),
            blocks: 0,
            block_bits: superblock.block_bits,
        }
    }

    /// Adds a run behind all others.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not behind the others or not within the volume, or if the file would have more blocks than
    /// the volume; [`Error::Unsupported`] if there are too many; [`Error::NoMemory`].
    pub(crate) fn add<E>(
        &mut self,
        superblock: &Superblock,
        run: Run,
        (structure, inode): (Structure, u32),
    ) -> Result<(), Error<E>> {
        let bad = corrupt(structure, u64::from(inode));
        let (count, first) = (u64::from(run.count), u64::from(run.first));
        let Some(last_block) = count.checked_sub(1).and_then(|more| run.start.checked_add(more)) else {
            return Err(bad);
        };
        if first + count > Superblock::MAX_FILE_BLOCKS {
            return Err(bad);
        }
        let last = self.extents.last_mut();
        if last.as_ref().is_some_and(|last| first < last.end()) {
            return Err(bad);
        }
        if !run.written {
            return Ok(());
        }
        if superblock.address(run.start).is_none() || superblock.address(last_block).is_none() {
            return Err(bad);
        }
        self.blocks += count;
        if self.blocks > superblock.blocks {
            return Err(bad);
        }
        if let Some(last) = last
            && last.end() == first
            && last.start + u64::from(last.count) == run.start
        {
            // `first + count` is below 2^32, so the sum does not overflow.
            last.count += run.count;
            return Ok(());
        }
        if self.extents.len() == MAX_EXTENTS {
            return Err(Error::Unsupported(Unsupported::Extents));
        }
        self.extents.try_push(Extent {
            first: run.first,
            count: run.count,
            start: run.start,
        })?;
        Ok(())
    }

    /// How many extents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether the file has no bytes but zeros.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The bytes from `offset` on, as many as follow each other on the device or are zeros together. They may go beyond
    /// the end of the file.
    #[must_use]
    pub fn piece(&self, offset: u64) -> Piece {
        let block = offset >> self.block_bits;
        let within = offset & ((1 << self.block_bits) - 1);
        let next = self.extents.partition_point(|extent| extent.end() <= block);
        let (at, end) = match self.extents.get(next) {
            Some(extent) if u64::from(extent.first) <= block => {
                let start = extent.start + (block - u64::from(extent.first));
                (Some((start << self.block_bits) + within), extent.end())
            }
            Some(extent) => (None, u64::from(extent.first)),
            None => (None, u64::MAX >> self.block_bits),
        };
        Piece {
            at,
            length: (end << self.block_bits).saturating_sub(offset),
        }
    }

    /// Where the next bytes that take a place are, from `offset` on.
    #[must_use]
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let piece = self.piece(offset);
        match piece.at {
            Some(_) => Some(offset),
            None => {
                let next = offset.checked_add(piece.length)?;
                self.piece(next).at.map(|_| next)
            }
        }
    }

    /// Where the next bytes that take no place are, from `offset` on.
    #[must_use]
    pub fn next_hole(&self, offset: u64) -> u64 {
        let mut at = offset;
        loop {
            let piece = self.piece(at);
            if piece.at.is_none() {
                return at;
            }
            at += piece.length;
        }
    }
}
