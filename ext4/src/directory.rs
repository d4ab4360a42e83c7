//! A block of a directory: entries one behind the other, each of which says how long it is.

use crate::bytes::Fields;
use crate::superblock::Superblock;

/// The longest name.
pub const NAME_MAX: usize = 255;

const HEADER: usize = 8;

/// What a directory says that a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The directory does not say.
    Unknown,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A device for characters.
    CharacterDevice,
    /// A device for blocks.
    BlockDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A symbolic link.
    Link,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name: not empty, without a slash and without NUL.
    pub name: &'a [u8],
    /// The number of what it names.
    pub inode: u32,
    /// What it names.
    pub kind: EntryKind,
    /// Where it is in the directory, in bytes. It does not change as long as the volume is not written.
    pub offset: u64,
}

/// The entries of one block that are in use, in order; `Err` once if the block is not made of entries.
pub(crate) struct Entries<'a> {
    block: &'a [u8],
    at: usize,
    /// Where the block is in the directory.
    start: u64,
    has_types: bool,
}

/// The block is not made of entries.
#[derive(Debug)]
pub(crate) struct BadBlock;

impl<'a> Entries<'a> {
    pub const fn new(superblock: &Superblock, block: &'a [u8], start: u64) -> Self {
        Self {
            block,
            at: 0,
            start,
            has_types: superblock.has_types,
        }
    }

    /// The entry in use that comes next.
    fn next_used(&mut self) -> Result<Option<Entry<'a>>, BadBlock> {
        loop {
            let rest = self.block.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            let fields = Fields(rest);
            let (inode, length) = (fields.u32(0), usize::from(fields.u16(4)));
            let (name_length, kind) = if self.has_types {
                (usize::from(fields.u8(6)), fields.u8(7))
            } else {
                (usize::from(fields.u16(6)), 0)
            };
            let fits = length >= HEADER && length.is_multiple_of(4) && length <= rest.len();
            if !fits || name_length > length - HEADER {
                return Err(BadBlock);
            }
            let offset = self.start + self.at as u64;
            self.at += length;
            if inode == 0 {
                continue;
            }
            let name = rest.get(HEADER..HEADER + name_length).ok_or(BadBlock)?;
            if name.is_empty() || name_length > NAME_MAX || name.iter().any(|&byte| byte == b'/' || byte == 0) {
                return Err(BadBlock);
            }
            return Ok(Some(Entry {
                name,
                inode,
                kind: kind_of(kind),
                offset,
            }));
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, BadBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_used();
        if next.is_err() {
            self.at = self.block.len();
        }
        next.transpose()
    }
}

const fn kind_of(number: u8) -> EntryKind {
    match number {
        1 => EntryKind::File,
        2 => EntryKind::Directory,
        3 => EntryKind::CharacterDevice,
        4 => EntryKind::BlockDevice,
        5 => EntryKind::Pipe,
        6 => EntryKind::Socket,
        7 => EntryKind::Link,
        _ => EntryKind::Unknown,
    }
}
