//! The block map of ext2 and ext3: twelve blocks of the file, then one, two and three levels of blocks full of numbers.

use crate::bytes::Fields;
use crate::inode::MAP_SIZE;

/// Numbers in the inode.
pub(crate) const PLACES: usize = MAP_SIZE / 4;

/// Of those, the numbers of blocks of the file itself.
pub(crate) const DIRECT: usize = 12;

/// The levels of a place in the inode: none for the first twelve, then one to three.
pub(crate) const fn levels(place: usize) -> u32 {
    (place + 1).saturating_sub(DIRECT) as u32
}

/// The numbers from `index` on that are alike: following each other, or all 0. Says the first and how many.
pub(crate) fn alike(map: &[u8], index: usize) -> Option<(u32, u32)> {
    let number = |index: usize| (index < map.len() / 4).then(|| Fields(map).u32(index * 4));
    let first = number(index)?;
    let mut count: u32 = 1;
    while let Some(next) = number(index + count as usize) {
        let follows = match first {
            0 => next == 0,
            _ => first.checked_add(count) == Some(next),
        };
        if !follows {
            break;
        }
        count += 1;
    }
    Some((first, count))
}
