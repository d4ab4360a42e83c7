//! The index of a directory: which of its blocks has the names of a hash.
//!
//! The index is a tree in blocks of the directory itself. To a reader that does not know it these are blocks with one unused
//! entry, so a directory can always be read from its start to its end; the index is only a shorter way.

use crate::bytes::Fields;

/// Hash versions whose bytes of names are half-MD4's: signed or by the superblock, and unsigned.
const HALF_MD4: u8 = 1;
const HALF_MD4_UNSIGNED: u8 = 4;

/// Where the description of the index is in the first block of the directory, behind `.` and `..`.
const ROOT: usize = 24;

/// Where the entries are in the other blocks of the index.
const NODE: usize = 8;

const ENTRY: usize = 8;

/// The most levels below the root, as on Linux.
const MAX_LEVELS: u8 = 3;

/// The head of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether bytes of names are unsigned, whatever the superblock says.
    pub unsigned: bool,
    /// Levels between the root and the blocks with names.
    pub levels: u8,
}

/// The step from a block of an index to the block below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The block of the directory.
    pub block: u32,
    /// The hash at which the next block begins, if there is one.
    pub next: Option<u32>,
}

/// What the first block of a directory says about its index; none if names have to be looked for without it.
pub(crate) fn head(block: &[u8]) -> Option<Head> {
    let fields = Fields(block).from(ROOT);
    let version = fields.u8(4);
    let levels = fields.u8(6);
    let is_known = version == HALF_MD4 || version == HALF_MD4_UNSIGNED;
    (is_known && fields.u8(5) == 8 && levels <= MAX_LEVELS).then_some(Head {
        unsigned: version == HALF_MD4_UNSIGNED,
        levels,
    })
}

/// The block below in which a hash has to be, from the root or from another block of the index.
pub(crate) fn step(block: &[u8], is_root: bool, hash: u32) -> Option<Step> {
    let entries = Fields(block).from(if is_root { ROOT + 8 } else { NODE });
    // The first entry has no hash: in its place are the room and the number of entries.
    let (limit, count) = (usize::from(entries.u16(0)), usize::from(entries.u16(2)));
    if count == 0 || count > limit || count * ENTRY > entries.0.len() {
        return None;
    }
    let (mut low, mut high) = (1, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if entries.u32(middle * ENTRY) > hash {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(Step {
        block: entries.u32((low - 1) * ENTRY + 4) & 0x0fff_ffff,
        next: (low < count).then(|| entries.u32(low * ENTRY)),
    })
}
