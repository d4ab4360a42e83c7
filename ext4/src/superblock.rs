//! The superblock: what the volume is like.

use crate::bytes::Fields;
use crate::error::{Error, Structure, Unsupported, corrupt};
use crate::source::UNIT;

/// Where it is.
pub(crate) const AT: u64 = 1024;

/// Its size.
pub(crate) const SIZE: usize = 1024;

const MAGIC: u16 = 0xef53;

/// Features that change where things are, and that are read: types in directory entries, extents, 64-bit numbers,
/// protection against two mounts, flexible groups, attributes in inodes, a seed for checksums, large directories.
const READ: u32 = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000;

const RECOVERY: u32 = 0x4;

const FEATURE_64BIT: u32 = 0x80;

const FEATURE_FILE_TYPE: u32 = 0x2;

/// A feature that needs no support to be read: block counts of files in units of blocks.
const HUGE_FILE: u32 = 0x8;

/// What the superblock says, after it was checked.
#[derive(Clone, Copy, Debug)]
pub struct Superblock {
    /// The block size is 2 to the power of this.
    pub(crate) block_bits: u32,
    /// Blocks of the volume.
    pub blocks: u64,
    /// Blocks that nothing is in.
    pub free_blocks: u64,
    /// Of those, the ones that only the superuser may take.
    pub reserved_blocks: u64,
    /// Inodes of the volume.
    pub inodes: u32,
    /// Inodes that are no file.
    pub free_inodes: u32,
    /// The volume's identity.
    pub uuid: [u8; 16],
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: u32,
    pub(crate) descriptor_size: u32,
    /// The block that the group descriptors start in.
    pub(crate) descriptors: u64,
    pub(crate) first_inode: u32,
    pub(crate) has_wide_numbers: bool,
    pub(crate) has_types: bool,
    pub(crate) has_huge_files: bool,
    /// The seed of the hash of names.
    pub(crate) seed: [u32; 4],
    /// Whether the hash takes bytes of names as unsigned numbers.
    pub(crate) unsigned_hash: bool,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`Error::NotExt4`], [`Error::Unsupported`], [`Error::Corrupt`].
    pub(crate) fn parse<E>(bytes: &[u8]) -> Result<Self, Error<E>> {
        let fields = Fields(bytes);
        if fields.u16(0x38) != MAGIC {
            return Err(Error::NotExt4);
        }
        let is_old = fields.u32(0x4c) == 0;
        let features = if is_old { 0 } else { fields.u32(0x60) };
        if features & RECOVERY != 0 {
            return Err(Error::Unsupported(Unsupported::Recovery));
        }
        if features & !READ != 0 {
            return Err(Error::Unsupported(Unsupported::Features(features & !READ)));
        }
        let block_size = 1024_u64
            .checked_shl(fields.u32(0x18))
            .filter(|size| size.is_power_of_two() && size.trailing_zeros() <= 16)
            .ok_or(corrupt(Structure::Superblock, 0))?;
        if block_size > UNIT {
            return Err(Error::Unsupported(Unsupported::BlockSize(block_size)));
        }
        let has_wide_numbers = features & FEATURE_64BIT != 0;
        let wide = |low, high| {
            if has_wide_numbers {
                fields.wide(low, high)
            } else {
                u64::from(fields.u32(low))
            }
        };
        let first_data_block = u64::from(fields.u32(0x14));
        let superblock = Self {
            block_bits: block_size.trailing_zeros(),
            blocks: wide(0x4, 0x150),
            free_blocks: wide(0xc, 0x158),
            reserved_blocks: wide(0x8, 0x154),
            inodes: fields.u32(0x0),
            free_inodes: fields.u32(0x10),
            uuid: fields.array(0x68),
            inodes_per_group: fields.u32(0x28),
            inode_size: if is_old { 128 } else { u32::from(fields.u16(0x58)) },
            descriptor_size: if has_wide_numbers {
                u32::from(fields.u16(0xfe))
            } else {
                32
            },
            descriptors: first_data_block + 1,
            first_inode: if is_old { 11 } else { fields.u32(0x54) },
            has_wide_numbers,
            has_types: features & FEATURE_FILE_TYPE != 0,
            has_huge_files: !is_old && fields.u32(0x64) & HUGE_FILE != 0,
            seed: [0xec, 0xf0, 0xf4, 0xf8].map(|offset| fields.u32(offset)),
            unsigned_hash: fields.u32(0x160) & 2 != 0,
        };
        superblock
            .check(first_data_block)
            .ok_or(corrupt(Structure::Superblock, 0))?;
        Ok(superblock)
    }

    fn check(&self, first_data_block: u64) -> Option<()> {
        let block_size = self.block_size();
        let good = self.inodes_per_group > 0
            && self.inode_size.is_power_of_two()
            && (128..=block_size).contains(&u64::from(self.inode_size))
            && self.descriptor_size.is_power_of_two()
            && (32..=1024).contains(&self.descriptor_size)
            && (!self.has_wide_numbers || self.descriptor_size >= 64)
            && first_data_block == u64::from(block_size == 1024)
            && self.blocks > self.descriptors
            // Byte addresses must not overflow.
            && self.blocks <= u64::MAX >> (self.block_bits + 1);
        good.then_some(())
    }

    /// Bytes of a block: 1024, 2048 or 4096.
    #[must_use]
    pub const fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// Bytes of the volume.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.blocks << self.block_bits
    }

    /// Where a block is on the device, if it is one of the volume that can hold anything but the superblock.
    pub(crate) fn address(&self, block: u64) -> Option<u64> {
        (block >= self.descriptors && block < self.blocks).then(|| block << self.block_bits)
    }

    /// The most blocks that a file can have: their numbers have 32 bits, and the last means none.
    pub(crate) const MAX_FILE_BLOCKS: u64 = u32::MAX as u64;
}
