//! What `stat` and `statx` say about files.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::device::Rule;
use super::mount;
use super::tree::{Content, Device, Node, NodeKind};
use super::{FileKind, OpenFile};

/// Size of `struct stat` in bytes.
pub const SIZE: usize = 144;

/// Size of `struct statx` in bytes.
pub const STATX_SIZE: usize = 256;

/// What a directory says about its entries: the `d_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A device of characters.
    Device,
    /// A disk.
    Disk,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// The directory does not say.
    Unknown,
}

impl Sort {
    /// Of a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        match &node.kind {
            NodeKind::Mounted(mounted) => mount::sort_of(mounted.kind()),
            _ if node.is_directory() => Self::Directory,
            _ if node.is_link() => Self::Link,
            NodeKind::Device(Device::Disk(_)) => Self::Disk,
            NodeKind::Device(_) => Self::Device,
            NodeKind::Socket(_) => Self::Socket,
            NodeKind::Fifo(_) => Self::Pipe,
            _ => Self::File,
        }
    }

    /// The `d_type`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Directory => linux::DT_DIR as u8,
            Self::File => linux::DT_REG as u8,
            Self::Link => linux::DT_LNK as u8,
            Self::Device => linux::DT_CHR as u8,
            Self::Disk => linux::DT_BLK as u8,
            Self::Pipe => linux::DT_FIFO as u8,
            Self::Socket => linux::DT_SOCK as u8,
            Self::Unknown => linux::DT_UNKNOWN as u8,
        }
    }

    /// The part of the mode that says it.
    const fn mode(self) -> u32 {
        (self.number() as u32) << 12
    }
}

/// The device number of the file system in memory.
const MEMORY: u64 = 1;

/// What there is to say about a file.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    file_system: u64,
    inode: u64,
    mode: u32,
    links: u64,
    device: u64,
    size: u64,
    blocks: u64,
    modified: u64,
}

impl Status {
    /// About a node.
    #[must_use]
    pub fn of_node(node: &Node) -> Self {
        let mut modified = node.modified.load(Ordering::Relaxed);
        let mut blocks = None;
        let (kind, size, device) = match &node.kind {
            NodeKind::Mounted(mounted) => {
                blocks = Some(mounted.body.inode.sectors);
                (mount::sort_of(mounted.kind()).mode(), mounted.body.inode.size, 0)
            }
            NodeKind::Directory(entries) => (linux::S_IFDIR, entries.len() as u64 * 32, 0),
            NodeKind::File(content) => {
                let size = match &*content.lock() {
                    Content::Archive(bytes) => {
                        blocks = Some((bytes.len() as u64).div_ceil(4096) * 8);
                        bytes.len() as u64
                    }
                    Content::Memory(file) => {
                        modified = file.modified();
                        blocks = Some(file.allocated() / 512);
                        file.length()
                    }
                };
                (linux::S_IFREG, size, 0)
            }
            NodeKind::Link(target) => (linux::S_IFLNK, target.len() as u64, 0),
            NodeKind::Proc(proc) if proc.is_directory() => (linux::S_IFDIR, 0, 0),
            NodeKind::Proc(proc) if proc.is_link() => (linux::S_IFLNK, 0, 0),
            NodeKind::Proc(_) => (linux::S_IFREG, 0, 0),
            NodeKind::Device(disk @ Device::Disk(_)) => (linux::S_IFBLK, 0, number_of(*disk)),
            NodeKind::Device(device) => (linux::S_IFCHR, 0, number_of(*device)),
            NodeKind::Socket(_) => (linux::S_IFSOCK, 0, 0),
            NodeKind::Fifo(_) => (linux::S_IFIFO, 0, 0),
        };
        Self {
            inode: node.inode,
            mode: kind | node.permissions.load(Ordering::Relaxed),
            file_system: match node.mounted() {
                Some(mounted) => number_of(Device::Disk(mounted.body.mount().disk().index)),
                None => MEMORY,
            },
            links: if kind == linux::S_IFDIR && node.mounted().is_none() {
                2
            } else {
                u64::from(node.links.load(Ordering::Relaxed))
            },
            device,
            size,
            blocks: blocks.unwrap_or(0),
            modified,
        }
    }

    /// About an open file.
    #[must_use]
    pub fn of_file(file: &OpenFile) -> Self {
        if let Some(node) = &file.node {
            return Self::of_node(node);
        }
        let (mode, device) = match &file.kind {
            FileKind::PipeReader(_) | FileKind::PipeWriter(_) | FileKind::Fifo(..) => (linux::S_IFIFO | 0o600, 0),
            FileKind::Socket(_) => (linux::S_IFSOCK | 0o777, 0),
            FileKind::Console(_) => (linux::S_IFCHR | 0o620, number_of(Device::Console)),
            FileKind::Memory(_) => (linux::S_IFREG | 0o777, 0),
            _ => (linux::S_IFCHR | 0o666, 0),
        };
        Self {
            file_system: MEMORY,
            inode: 1,
            mode,
            links: 1,
            device,
            size: file.length(),
            blocks: match &file.kind {
                FileKind::Memory(memory) => memory.allocated() / 512,
                _ => 0,
            },
            modified: match &file.kind {
                FileKind::Memory(memory) => memory.modified(),
                _ => 0,
            },
        }
    }

    /// `struct stat`.
    #[must_use]
    pub fn to_stat(self) -> [u8; SIZE] {
        let words = [
            self.file_system,
            self.inode,
            self.links,
            u64::from(self.mode),
            0,
            self.device,
            self.size,
            4096,
            self.blocks,
            self.modified,
            0,
            self.modified,
            0,
            self.modified,
        ];
        let mut bytes = [0; SIZE];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `struct statx`.
    #[must_use]
    pub fn to_statx(self) -> [u8; STATX_SIZE] {
        let mut bytes = [0; STATX_SIZE];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &linux::STATX_BASIC_STATS.to_le_bytes());
        put(4, &4096_u32.to_le_bytes());
        put(16, &(self.links as u32).to_le_bytes());
        put(28, &(self.mode as u16).to_le_bytes());
        put(32, &self.inode.to_le_bytes());
        put(40, &self.size.to_le_bytes());
        put(48, &self.blocks.to_le_bytes());
        for offset in [64, 80, 96, 112] {
            put(offset, &self.modified.to_le_bytes());
        }
        put(128, &((self.device >> 8) as u32).to_le_bytes());
        put(132, &((self.device & 0xff) as u32).to_le_bytes());
        put(136, &((self.file_system >> 8) as u32).to_le_bytes());
        put(140, &((self.file_system & 0xff) as u32).to_le_bytes());
        bytes
    }
}

/// The device number, as Linux assigns it.
const fn number_of(device: Device) -> u64 {
    match device {
        Device::Rule(Rule::Null) => 0x103,
        Device::Rule(Rule::Zero) => 0x105,
        Device::Rule(Rule::Full) => 0x107,
        Device::Rule(Rule::Random) => 0x109,
        Device::Console => 0x501,
        // Sixteen numbers for each, as there could be partitions.
        Device::Disk(index) => 0xfe00 + 16 * index as u64,
    }
}
