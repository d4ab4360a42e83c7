//! An inode: what there is to know about a file but its name.

use crate::bytes::Fields;
use crate::error::{Error, Structure, Unsupported, corrupt};
use crate::superblock::Superblock;

/// The number of the root directory.
pub const ROOT: u32 = 2;

/// Bytes of an inode that say where the file is, or are the target of a short link.
pub(crate) const MAP_SIZE: usize = 60;

const EXTENTS: u32 = 0x8_0000;
const INDEX: u32 = 0x1000;
const HUGE: u32 = 0x4_0000;
/// Compressed, encrypted, in the inode itself.
const UNREADABLE: u32 = 0x4 | 0x800 | 0x1000_0000;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device for characters.
    CharacterDevice,
    /// A device for blocks.
    BlockDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

/// What the volume says about a file.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: InodeKind,
    /// Permission bits, with set-user-id, set-group-id and the sticky bit.
    pub permissions: u16,
    /// How many names it has.
    pub links: u16,
    /// Length in bytes.
    pub size: u64,
    /// Units of 512 bytes that it takes on the device.
    pub sectors: u64,
    /// Its owner and its group.
    pub owner: [u32; 2],
    /// Time of the last change of its bytes, in seconds since 1970.
    pub modified: i64,
    pub(crate) flags: u32,
    pub(crate) map: [u8; MAP_SIZE],
}

impl Inode {
    /// Reads and checks the inode with this number.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Corrupt`].
    pub(crate) fn parse<E>(superblock: &Superblock, number: u32, bytes: &[u8]) -> Result<Self, Error<E>> {
        let fields = Fields(bytes);
        let bad = || corrupt(Structure::Inode, u64::from(number));
        let mode = fields.u16(0x0);
        let kind = match mode >> 12 {
            0o01 => InodeKind::Pipe,
            0o02 => InodeKind::CharacterDevice,
            0o04 => InodeKind::Directory,
            0o06 => InodeKind::BlockDevice,
            0o10 => InodeKind::File,
            0o12 => InodeKind::Link,
            0o14 => InodeKind::Socket,
            _ => return Err(bad()),
        };
        let flags = fields.u32(0x20);
        if flags & UNREADABLE != 0 {
            return Err(Error::Unsupported(Unsupported::InodeFlags(flags & UNREADABLE)));
        }
        let links = fields.u16(0x1a);
        if links == 0 {
            return Err(bad());
        }
        let low_size = u64::from(fields.u32(0x4));
        let size = match kind {
            InodeKind::File | InodeKind::Directory => low_size | u64::from(fields.u32(0x6c)) << 32,
            _ => low_size,
        };
        if size > Superblock::MAX_FILE_BLOCKS << superblock.block_bits {
            return Err(bad());
        }
        let mut sectors = u64::from(fields.u32(0x1c));
        if superblock.has_huge_files {
            sectors |= u64::from(fields.u16(0x74)) << 32;
            if flags & HUGE != 0 {
                sectors <<= superblock.block_bits - 9;
            }
        }
        let id = |low, high| u32::from(fields.u16(low)) | u32::from(fields.u16(high)) << 16;
        // Two bits beyond the 32 of the first word, if the inode is large enough to have them.
        let has_more = bytes.len() > 128 && fields.u16(0x80) >= 0x8c - 0x80;
        let epoch = if has_more {
            i64::from(fields.u32(0x88) & 3) << 32
        } else {
            0
        };
        Ok(Self {
            number,
            kind,
            permissions: mode & 0o7777,
            links,
            size,
            sectors,
            owner: [id(0x2, 0x78), id(0x18, 0x7a)],
            modified: i64::from(fields.u32(0x10) as i32) + epoch,
            flags,
            map: fields.array(0x28),
        })
    }

    /// Whether it is mapped by an extent tree, and not by a block map.
    pub(crate) const fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// Whether it is a directory with an index.
    pub(crate) const fn has_index(&self) -> bool {
        self.flags & INDEX != 0
    }

    /// The target of a link that is kept in the inode.
    pub(crate) fn short_target(&self) -> Option<&[u8]> {
        // A longer target takes a block. What else could take one, attributes, leaves the target where it is.
        let is_short = self.kind == InodeKind::Link && !self.has_extents() && self.size < MAP_SIZE as u64;
        if is_short {
            self.map.get(..self.size as usize)
        } else {
            None
        }
    }

    /// How many blocks it has up to its end.
    pub(crate) const fn block_count(&self, block_bits: u32) -> u64 {
        self.size.div_ceil(1 << block_bits)
    }
}
