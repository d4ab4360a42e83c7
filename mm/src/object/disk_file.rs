//! What a file system says about a file whose pages a memory object reads from a block device.

use core::fmt;
use core::ops::Deref;

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::address::PAGE_SIZE;
use crate::transfer::{BlockDevice, SECTOR_SIZE};

/// Pieces of one page at most: one for each sector.
pub const MAX_PIECES: usize = (PAGE_SIZE / SECTOR_SIZE) as usize;

/// A read-only file on a block device.
///
/// The file says where its bytes are, and never reads them itself: [`MemoryObject`](crate::MemoryObject) holds its pages,
/// reads them by transfers, and keeps them in memory for all who map or read the file. Length and places never change.
pub trait DiskFile: Send + Sync {
    /// Length in bytes. What the device holds behind the end in the last page is never seen: it reads as zeros.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device that the places are on.
    fn device(&self) -> &dyn BlockDevice;

    /// Adds to `pieces`, which is empty, where the parts of page `page` (in units of 4 KiB) are. What no piece covers is a
    /// hole, and reads as zeros. Called on the way of a fault: it neither waits nor allocates.
    ///
    /// # Errors
    /// [`LocateError`]: whoever faults on the page gets [`FaultError::ReadFailed`](crate::FaultError::ReadFailed).
    fn locate(&self, page: u64, pieces: &mut Pieces) -> Result<(), LocateError>;
}

/// The file system does not know where a page is: what it has read about the file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("page {page} has no valid place on the device")]
pub struct LocateError {
    /// The page.
    pub page: u64,
}

/// A part of a page, and where it is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first sector on the device.
    pub sector: u64,
    /// Where the part starts in the page, in bytes.
    pub offset: u16,
    /// Its length in bytes.
    pub length: u16,
}

/// The parts of a page that are on the device.
#[derive(Clone, Default)]
pub struct Pieces(ArrayVec<Piece, MAX_PIECES>);

impl Pieces {
    /// None: the page is a hole.
    #[must_use]
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Adds a part behind those that are there; one that follows the last on the device too makes that longer.
    ///
    /// # Panics
    /// If the part is empty, does not consist of whole sectors, does not lie behind the others, or leaves the page.
    pub fn push(&mut self, piece: Piece) {
        let Piece { sector, offset, length } = piece;
        let after = self.0.last().map_or(0, |last| last.offset + last.length);
        let whole = |n: u16| u64::from(n).is_multiple_of(SECTOR_SIZE);
        assert!(
            length > 0
                && whole(offset)
                && whole(length)
                && offset >= after
                && u64::from(offset) + u64::from(length) <= PAGE_SIZE,
            "bad piece {piece:?}"
        );
        match self.0.last_mut() {
            Some(last) if offset == after && last.sector + u64::from(last.length) / SECTOR_SIZE == sector => {
                last.length += length;
            }
            _ => self.0.push(piece),
        }
    }

    /// Whether they cover the whole page.
    pub(crate) fn are_whole_page(&self) -> bool {
        self.0.iter().map(|piece| u64::from(piece.length)).sum::<u64>() == PAGE_SIZE
    }
}

impl Deref for Pieces {
    type Target = [Piece];

    fn deref(&self) -> &[Piece] {
        &self.0
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_on_the_device_are_one_piece() {
        let piece = |sector, offset, length| Piece { sector, offset, length };
        let mut pieces = Pieces::new();
        pieces.push(piece(100, 0, 1024));
        pieces.push(piece(102, 1024, 1024));
        assert_eq!(*pieces, [piece(100, 0, 2048)]);
        // The same place behind a hole, and another place.
        pieces.push(piece(104, 3072, 512));
        pieces.push(piece(200, 3584, 512));
        assert_eq!(pieces.len(), 3);
        assert!(!pieces.are_whole_page());
    }

    #[test]
    #[should_panic(expected = "bad piece")]
    fn a_piece_beyond_the_page_is_refused() {
        Pieces::new().push(Piece {
            sector: 0,
            offset: 3584,
            length: 1024,
        });
    }
}
