//! Why something could not be read.

use core::fmt;

use faultline_fallible::AllocError;

/// What a file system is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// The superblock.
    Superblock,
    /// A group descriptor.
    Group,
    /// An inode.
    Inode,
    /// A node of an extent tree.
    ExtentTree,
    /// A block map of ext2.
    BlockMap,
    /// A block of a directory.
    Directory,
    /// A symbolic link.
    Link,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::Group => "group descriptor",
            Self::Inode => "inode",
            Self::ExtentTree => "extent tree",
            Self::BlockMap => "block map",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
        })
    }
}

/// What a volume has that this crate does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Blocks of so many bytes.
    BlockSize(u64),
    /// The journal has to be replayed first: it was not unmounted.
    Recovery,
    /// Incompatible features, by their bits in the superblock.
    Features(u32),
    /// A file whose bytes are in its inode, encrypted or compressed, by the flags of the inode.
    InodeFlags(u32),
    /// A file of more extents than [`MAX_EXTENTS`](crate::MAX_EXTENTS).
    Extents,
}

/// Why something could not be read; `E` is the source's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The source could not deliver the bytes.
    #[error("the device could not be read: {0}")]
    Read(E),
    /// There is no ext2, ext3 or ext4 file system.
    #[error("not an ext4 file system")]
    NotExt4,
    /// The volume, or the file, needs something that this crate does not have.
    #[error("not supported: {0}")]
    Unsupported(Unsupported),
    /// The volume contradicts itself.
    #[error("the {structure} is corrupt (number {number})")]
    Corrupt {
        /// What is wrong.
        structure: Structure,
        /// Which: the number of the inode, of the group, or of the block.
        number: u64,
    },
    /// There is no such name.
    #[error("there is no such name")]
    NotFound,
    /// It is not a directory, or not a symbolic link.
    #[error("not of the kind that was asked for")]
    WrongKind,
    /// There is no memory.
    #[error("no memory")]
    NoMemory,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize(size) => write!(f, "blocks of {size} bytes"),
            Self::Recovery => f.write_str("its journal has to be replayed first (mount it once, or e2fsck)"),
            Self::Features(bits) => write!(f, "incompatible features {bits:#x}"),
            Self::InodeFlags(bits) => write!(f, "a file with the flags {bits:#x}"),
            Self::Extents => f.write_str("a file of too many pieces"),
        }
    }
}

impl<E> From<AllocError> for Error<E> {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

/// An error about one structure of a volume.
pub(crate) const fn corrupt<E>(structure: Structure, number: u64) -> Error<E> {
    Error::Corrupt { structure, number }
}
