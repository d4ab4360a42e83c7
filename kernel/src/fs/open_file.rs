//! Open files.

use core::sync::atomic::{AtomicU32, Ordering};
use faultline_fallible::{Arc, try_future};

use linux_raw_sys::general as linux;
use spin::Mutex;

use super::console::Port;
use super::device::{DiskFile, Rule};
use super::epoll::Epoll;
use super::event::Event;
use super::file::{File, INPUT, OUTPUT};
use super::memory_file::MemoryFile;
use super::mount::{self, Body};
use super::pipe::{Pipe, ReadEnd, WriteEnd};
use super::proc::Text;
use super::process_file::ProcessFile;
use super::signal_file::SignalFile;
use super::timer::Timer;
use super::tree::{self, Content, Device, NodeKind};
use super::{RamdiskFile, changes};
use crate::block;
use crate::net::SocketEnd;
use crate::syscall::Errno;

/// A node of the tree, held.
type Node = Arc<tree::Node>;

/// What an open file reads and writes.
pub enum FileKind {
    /// The console.
    Console(Port),
    /// A device that is only a rule.
    Device(Rule),
    /// A disk as it is.
    Disk(DiskFile),
    /// Nothing: a file that was opened for its name only.
    Path,
    /// A file of the archive.
    Ramdisk(Arc<RamdiskFile>),
    /// A file in frames.
    Memory(Arc<MemoryFile>),
    /// A file of the mounted file system.
    Mounted(Arc<Body>),
    /// A file of `/proc`.
    Text(Text),
    /// A timer.
    Timer(Arc<Timer>),
    /// A counter.
    Event(Arc<Event>),
    /// Files that are waited for together.
    Epoll(Arc<Epoll>),
    /// A directory.
    Directory,
    /// The reading end of a pipe.
    PipeReader(ReadEnd),
    /// The writing end of a pipe.
    PipeWriter(WriteEnd),
    /// Both ends of a named pipe.
    Fifo(ReadEnd, WriteEnd),
    /// A socket.
    Socket(SocketEnd),
    /// Signals that are read.
    Signals(Arc<SignalFile>),
    /// A process.
    Process(ProcessFile),
}

impl FileKind {
    /// What `/proc` says that a descriptor of it leads to, if it has no path.
    #[must_use]
    pub const fn title(&self) -> &'static str {
        match self {
            Self::Console(_) => "/dev/console",
            Self::PipeReader(_) | Self::PipeWriter(_) => "pipe:[1]",
            Self::Fifo(..) => "pipe:[1]",
            Self::Socket(_) => "socket:[1]",
            Self::Signals(_) => "anon_inode:[signalfd]",
            Self::Process(_) => "anon_inode:[pidfd]",
            Self::Timer(_) => "anon_inode:[timerfd]",
            Self::Event(_) => "anon_inode:[eventfd]",
            Self::Epoll(_) => "anon_inode:[eventpoll]",
            Self::Memory(_) => "/memfd: (deleted)",
            _ => "anon_inode:[file]",
        }
    }

    /// What can be done with it; none for a directory, and for what was opened for its name only.
    #[must_use]
    pub fn as_file(&self) -> Option<&dyn File> {
        match self {
            Self::Console(port) => Some(port),
            Self::Device(rule) => Some(rule),
            Self::Disk(disk) => Some(disk),
            Self::Ramdisk(file) => Some(&**file),
            Self::Memory(file) => Some(&**file),
            Self::Mounted(body) => Some(&**body),
            Self::Timer(timer) => Some(&**timer),
            Self::Event(event) => Some(&**event),
            Self::Epoll(epoll) => Some(&**epoll),
            Self::PipeReader(end) => Some(end),
            Self::PipeWriter(end) => Some(end),
            Self::Fifo(reader, _) => Some(reader),
            Self::Socket(end) => Some(end),
            Self::Signals(signals) => Some(&**signals),
            Self::Process(process) => Some(process),
            _ => None,
        }
    }
}

/// An open file.
pub struct OpenFile {
    /// What it reads and writes.
    pub kind: FileKind,
    /// The node that was opened, if it was one.
    pub node: Option<Node>,
    /// Where the next read starts.
    pub offset: Mutex<u64>,
    /// `O_*` flags.
    flags: AtomicU32,
}

impl OpenFile {
    /// An open file at offset 0.
    #[must_use]
    pub const fn new(kind: FileKind, node: Option<Node>, flags: u32) -> Self {
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
    /// `EISDIR`, `ENOTDIR`, `ELOOP`, `EACCES` as `open` reports them; `ENOSPC` without frames for a file of the archive
    /// that is to be written.
    pub async fn open(node: Node, flags: u32) -> Result<Self, Errno> {
        let cut = flags & linux::O_TRUNC != 0;
        let writes = flags & linux::O_ACCMODE != linux::O_RDONLY || cut;
        if flags & linux::O_DIRECTORY != 0 && !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if flags & linux::O_PATH != 0 {
            // Nothing else is asked of it.
            let kept = linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW | linux::O_CLOEXEC;
            return Ok(Self::new(FileKind::Path, Some(node), flags & kept));
        }
        let kind = match &node.kind {
            _ if node.is_directory() && writes => return Err(Errno::EISDIR),
            _ if node.is_directory() => FileKind::Directory,
            _ if node.is_link() => return Err(Errno::ELOOP),
            NodeKind::Mounted(mounted) => FileKind::Mounted(try_future(mount::open(mounted, writes))?.await?),
            NodeKind::File(content) if writes => FileKind::Memory(changes::writable(content, cut).await?),
            NodeKind::File(content) => match &*content.lock() {
                Content::Archive(bytes) => FileKind::Ramdisk(Arc::try_new(RamdiskFile::new(bytes))?),
                Content::Memory(file) => FileKind::Memory(file.clone()),
            },
            NodeKind::Proc(proc) if writes && !Text::is_writable(*proc) => return Err(Errno::EACCES),
            NodeKind::Proc(proc) => FileKind::Text(Text::new(*proc)),
            NodeKind::Device(Device::Rule(rule)) => FileKind::Device(*rule),
            NodeKind::Device(Device::Disk(_)) if writes => return Err(Errno::EACCES),
            NodeKind::Device(Device::Disk(index)) => {
                FileKind::Disk(DiskFile(block::all().get(*index).ok_or(Errno::ENXIO)?))
            }
            NodeKind::Device(Device::Console) => FileKind::Console(Port::Output),
            // A named pipe is opened by `Fifo::open`, which can wait.
            NodeKind::Socket(_) | NodeKind::Fifo(_) => return Err(Errno::ENXIO),
            NodeKind::Link(_) | NodeKind::Directory(_) => return Err(Errno::ELOOP),
        };
        Ok(Self::new(kind, Some(node), flags))
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

    /// Sets or clears one of them.
    pub fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
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
        self.kind.as_file().is_none_or(File::has_offsets)
    }

    /// The bits of `poll` that hold now.
    pub fn events(&self) -> u32 {
        match &self.kind {
            FileKind::Path => linux::POLLNVAL,
            FileKind::Fifo(reader, writer) => reader.events() | writer.events(),
            kind => kind.as_file().map_or(INPUT | OUTPUT, File::events),
        }
    }

    /// The pipe of which it is an end.
    pub fn pipe(&self) -> Option<&Arc<Pipe>> {
        match &self.kind {
            FileKind::PipeReader(end) | FileKind::Fifo(end, _) => Some(&end.pipe),
            FileKind::PipeWriter(end) => Some(&end.0),
            _ => None,
        }
    }

    /// Its length, if it has one.
    pub fn length(&self) -> u64 {
        self.kind.as_file().map_or(0, File::length)
    }

    /// The part of the pages of what it reads and writes that each of its descriptors answers for; `descriptors` is their
    /// number.
    pub fn held_pages(&self, descriptors: usize) -> u64 {
        // Other open files hold the same, and so does its node, which stays as long as this.
        let holders = match &self.kind {
            FileKind::Memory(file) => Arc::strong_count(file) - usize::from(self.node.is_some()),
            _ => 1,
        };
        let pages = self.kind.as_file().map_or(0, File::held_pages);
        pages / (holders.max(1) * descriptors.max(1)) as u64
    }

    /// Its bytes, if it is made of bytes in memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            FileKind::Ramdisk(file) => Some(file.bytes()),
            _ => None,
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        super::locks::release_of_file(self);
    }
}
