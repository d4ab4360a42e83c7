//! Open files.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general as linux;
use spin::Mutex;

use super::console::Port;
use super::pipe::Pipe;
use super::tree::{self, Device, NodeId, NodeKind};
use super::{RamdiskFile, proc};
use crate::syscall::{Caller, Errno};

/// What an open file reads and writes.
pub enum FileKind {
    /// The console.
    Console(Port),
    /// Nothing: reads end at once, writes vanish.
    Null,
    /// Zeros for ever.
    Zero,
    /// Pseudo-random bytes.
    Random,
    /// A file of the archive.
    Ramdisk(Arc<RamdiskFile>),
    /// Text that was made when the file was opened.
    Text(Box<[u8]>),
    /// A directory.
    Directory,
    /// The reading end of a pipe.
    PipeReader(Arc<Pipe>),
    /// The writing end of a pipe.
    PipeWriter(Arc<Pipe>),
}

/// An open file.
pub struct OpenFile {
    /// What it reads and writes.
    pub kind: FileKind,
    /// The node that was opened, if it was one.
    pub node: Option<NodeId>,
    /// Where the next read starts.
    pub offset: Mutex<u64>,
    /// `O_*` flags.
    flags: AtomicU32,
}

impl OpenFile {
    /// An open file at offset 0.
    #[must_use]
    pub const fn new(kind: FileKind, node: Option<NodeId>, flags: u32) -> Self {
        Self {
            kind,
            node,
            offset: Mutex::new(0),
            flags: AtomicU32::new(flags),
        }
    }

    /// Opens a node of the tree.
    ///
    /// # Errors
    /// `EROFS` for writing to the archive, `EISDIR`, `ENOTDIR`, `ELOOP` as `open` reports them.
    pub fn open(caller: &Caller, id: NodeId, flags: u32) -> Result<Self, Errno> {
        let writes = flags & linux::O_ACCMODE != linux::O_RDONLY || flags & linux::O_TRUNC != 0;
        let node = tree::tree().node(id);
        if flags & linux::O_DIRECTORY != 0 && !matches!(node.kind, NodeKind::Directory(_)) {
            return Err(Errno::ENOTDIR);
        }
        let kind = match &node.kind {
            NodeKind::Directory(_) if writes => return Err(Errno::EISDIR),
            NodeKind::Directory(_) => FileKind::Directory,
            NodeKind::File(_) | NodeKind::Proc(_) if writes => return Err(Errno::EROFS),
            NodeKind::File(file) => FileKind::Ramdisk(file.clone()),
            NodeKind::Proc(file) => FileKind::Text(proc::content(*file, caller)?),
            NodeKind::Link(_) => return Err(Errno::ELOOP),
            NodeKind::Device(Device::Null) => FileKind::Null,
            NodeKind::Device(Device::Zero) => FileKind::Zero,
            NodeKind::Device(Device::Random) => FileKind::Random,
            NodeKind::Device(Device::Console) => FileKind::Console(Port::Output),
        };
        Ok(Self::new(kind, Some(id), flags))
    }

    /// Its `O_*` flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Sets the flags that `F_SETFL` may set.
    pub fn set_flags(&self, flags: u32) {
        let settable = linux::O_APPEND | linux::O_NONBLOCK | linux::O_DIRECT | linux::O_NOATIME;
        self.flags
            .store(self.flags() & !settable | flags & settable, Ordering::Relaxed);
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        self.flags() & linux::O_ACCMODE != linux::O_WRONLY && self.flags() & linux::O_PATH == 0
    }

    /// Whether it was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.flags() & linux::O_ACCMODE != linux::O_RDONLY && self.flags() & linux::O_PATH == 0
    }

    /// Whether a call on it must not wait.
    pub fn is_non_blocking(&self) -> bool {
        self.flags() & linux::O_NONBLOCK != 0
    }

    /// Whether it has an offset that can be set.
    pub fn is_seekable(&self) -> bool {
        !matches!(
            self.kind,
            FileKind::Console(_) | FileKind::PipeReader(_) | FileKind::PipeWriter(_)
        )
    }

    /// Its bytes, if it is made of bytes in memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            FileKind::Ramdisk(file) => Some(file.bytes()),
            FileKind::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        match &self.kind {
            FileKind::PipeReader(pipe) => pipe.close_reader(),
            FileKind::PipeWriter(pipe) => pipe.close_writer(),
            _ => {}
        }
    }
}
