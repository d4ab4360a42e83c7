//! What a sequence knows about its arena: which pages belong to one piece of one mapping.
//!
//! The model serves only to leave out what Linux itself answers differently from version to version, or by the history
//! of its internal objects: `mremap` over pages that are not one piece.

use super::random::mix;

/// Pages of the arena in which calls are made.
pub const PAGES: u64 = 64;

/// Pages behind them into which a mapping may grow.
pub const SPILL: u64 = 64;

/// All pages that are looked at.
pub const ALL: u64 = PAGES + SPILL;

/// The pieces of the arena.
#[derive(Clone, Debug)]
pub struct Model {
    /// The piece of each page; 0 where nothing is mapped.
    pieces: [u64; ALL as usize],
    next: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            pieces: [0; ALL as usize],
            next: 0,
        }
    }
}

impl Model {
    fn set(&mut self, first: u64, count: u64, piece: u64) {
        for page in first..(first + count).min(ALL) {
            self.pieces[page as usize] = piece;
        }
    }

    /// These pages are a piece of their own now.
    pub fn map(&mut self, first: u64, count: u64) {
        self.next += 1;
        self.set(first, count, self.next);
    }

    /// Nothing is mapped there now.
    pub fn unmap(&mut self, first: u64, count: u64) {
        self.set(first, count, 0);
    }

    /// The mapped pages of this range have changed: they are pieces of their own now.
    pub fn split(&mut self, first: u64, count: u64) {
        self.next += 1;
        for page in first..(first + count).min(ALL) {
            if self.pieces[page as usize] != 0 {
                // Pages of different pieces stay so.
                self.pieces[page as usize] = mix(self.pieces[page as usize] << 32 ^ self.next) | 1;
            }
        }
    }

    /// Whether these pages are mapped and of one piece.
    #[must_use]
    pub fn is_one_piece(&self, first: u64, count: u64) -> bool {
        let piece = self.pieces[first as usize];
        piece != 0 && first + count <= ALL && (first..first + count).all(|page| self.pieces[page as usize] == piece)
    }

    /// Whether nothing is mapped there.
    #[must_use]
    pub fn is_free(&self, first: u64, count: u64) -> bool {
        (first..first + count).all(|page| self.pieces.get(page as usize) == Some(&0))
    }

    /// The mapped page at or after `start`, cyclically, and how many pages from there on are of its piece.
    #[must_use]
    pub fn piece_from(&self, start: u64) -> Option<(u64, u64)> {
        let first = (0..PAGES)
            .map(|step| (start + step) % PAGES)
            .find(|&page| self.pieces[page as usize] != 0)?;
        let piece = self.pieces[first as usize];
        let count = (first..ALL)
            .take_while(|&page| self.pieces[page as usize] == piece)
            .count();
        Some((first, count as u64))
    }
}
