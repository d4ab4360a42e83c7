//! A file of the mounted file system, whatever its names: its inode, where its bytes are, and its pages.
//!
//! There is one [`Body`] for an inode at a time, so that all processes that read, map or execute a file share its pages and
//! each is read from the disk once. The extents are read when the file is opened first, or the directory searched first;
//! from then on neither a fault nor a read needs metadata.

use core::task::{Context, Poll};

use faultline_ext4::{Entry, EntryKind, Extents, Inode, InodeKind};
use faultline_fallible::{Arc, unsize};
use faultline_mm::{
    BlockDevice, DiskFile, LocateError, MemoryObject, PAGE_SIZE, PageError, Piece, Pieces, SECTOR_SIZE,
};
use spin::Once;

use super::{Mount, errno};
use crate::fs::directory::NAME_MAX;
use crate::fs::file::{File, Transfer, Written};
use crate::fs::memory_file::Part;
use crate::fs::stat::Sort;
use crate::fs::tree::Listed;
use crate::machine::memory;
use crate::syscall::Errno;

/// Places in a listing that are for `.` and `..`; an entry's place is its offset in the directory beyond them.
const FIRST: u64 = 8;

/// A file, whatever its names.
pub struct Body {
    mount: &'static Mount,
    /// What the file system says about it.
    pub inode: Inode,
    stored: Once<Arc<Stored>>,
    object: Once<Arc<MemoryObject>>,
}

/// Where the bytes of a file are.
pub(super) struct Stored {
    device: &'static dyn BlockDevice,
    size: u64,
    extents: Extents,
}

impl Body {
    pub(super) const fn new(mount: &'static Mount, inode: Inode) -> Self {
        Self {
            mount,
            inode,
            stored: Once::new(),
            object: Once::new(),
        }
    }

    /// The file system that it is in.
    pub const fn mount(&self) -> &'static Mount {
        self.mount
    }

    /// Where its bytes are.
    pub(super) async fn stored(&self) -> Result<&Arc<Stored>, Errno> {
        if let Some(stored) = self.stored.get() {
            return Ok(stored);
        }
        let extents = self.mount.volume.extents(&self.inode).await.map_err(errno)?;
        let stored = Arc::try_new(Stored {
            device: self.mount.disk().device,
            size: self.inode.size,
            extents,
        })?;
        // Another may have been faster.
        Ok(self.stored.call_once(|| stored))
    }

    /// The number of what `name` names in this directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EIO`, `ENOMEM`.
    pub async fn find(&self, name: &[u8]) -> Result<u32, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let stored = self.stored().await?;
        let found = self.mount.volume.find(&self.inode, &stored.extents, name);
        found.await.map_err(errno)
    }

    /// Calls `each` with the entries of this directory behind the place `after`, but for `.` and `..`, until it returns false.
    ///
    /// # Errors
    /// `ENOTDIR`, `EIO`, `ENOMEM`.
    pub async fn list(&self, after: u64, mut each: impl FnMut(Listed<'_>) -> bool + Send) -> Result<(), Errno> {
        let stored = self.stored().await?;
        let mut next = Some((after + 1).saturating_sub(FIRST));
        while let Some(from) = next {
            let show = |entry: Entry<'_>| {
                if matches!(entry.name, b"." | b"..") {
                    return true;
                }
                let listed = Listed {
                    name: entry.name,
                    place: entry.offset + FIRST,
                    inode: entry.inode.into(),
                    sort: sort(entry.kind),
                };
                each(listed)
            };
            let listed = self.mount.volume.list(&self.inode, &stored.extents, from, show);
            next = listed.await.map_err(errno)?;
        }
        Ok(())
    }

    /// The pages of this regular file.
    ///
    /// # Errors
    /// `EIO` if the file system does not know where they are, `ENOMEM`.
    pub async fn open(&self) -> Result<&Arc<MemoryObject>, Errno> {
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let stored = self.stored().await?.clone();
        let object = MemoryObject::of_file(memory(), unsize!(stored => dyn DiskFile))?;
        Ok(self.object.call_once(|| object))
    }

    /// The pages, of a file that is open.
    pub fn opened(&self) -> Option<&Arc<MemoryObject>> {
        self.object.get()
    }

    /// Copies bytes of an open file from `offset` on, at most up to the end of a page; says how many, 0 at the end.
    ///
    /// # Errors
    /// [`PageError::NotResident`]: the page has to be [brought in](faultline_mm::Memory::page_in) first.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, PageError> {
        let left = self.inode.size.saturating_sub(offset).min(to.len() as u64);
        match self.object.get() {
            Some(object) if left > 0 => object.read(memory(), offset, &mut to[..left as usize]),
            _ => Ok(0),
        }
    }

    /// As [`read`](Self::read), waiting for the page.
    ///
    /// # Errors
    /// `EIO` if it could not be read.
    pub async fn read_waiting(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match (self.read(offset, to), self.object.get()) {
                (Ok(read), _) => return Ok(read),
                (Err(PageError::NotResident { page }), Some(object)) => memory().page_in(object, page).await?,
                (Err(error), _) => return Err(error.into()),
            }
        }
    }

    /// Begins to read the pages of a part of an open file, as many as a few reads have.
    pub fn will_need(&self, start: u64, end: u64) {
        /// Reads that one call begins at most.
        const READS: usize = 8;
        let (mut next, end) = (Some(start / PAGE_SIZE), end.div_ceil(PAGE_SIZE));
        for _ in 0..READS {
            let (Some(object), Some(first)) = (self.object.get(), next) else {
                return;
            };
            next = memory().will_need(object, first, end);
        }
    }

    /// Drops pages that are wholly in a part of an open file, if nothing maps them; looks at a few. Says where to go on, if
    /// that is not all.
    pub fn drop_pages(&self, start: u64, end: u64) -> Option<u64> {
        let end = match end < self.inode.size {
            true => end / PAGE_SIZE,
            false => self.inode.size.div_ceil(PAGE_SIZE),
        };
        let next = memory().drop_clean_pages(self.object.get()?, start.div_ceil(PAGE_SIZE)..end)?;
        Some(next * PAGE_SIZE)
    }

    /// Whether what is kept of it when nobody uses it is small.
    pub(super) fn is_worth_keeping(&self) -> bool {
        const MOST_EXTENTS: usize = 4096;
        self.stored
            .get()
            .is_some_and(|stored| stored.extents.len() <= MOST_EXTENTS)
    }

    /// Where the next data, or the next hole, is from `start` on.
    pub fn next(&self, start: u64, part: Part) -> Option<u64> {
        let size = self.inode.size;
        let stored = self.stored.get().filter(|_| start < size)?;
        match part {
            Part::Data => stored.extents.next_data(start).filter(|&at| at < size),
            Part::Hole => Some(stored.extents.next_hole(start).min(size)),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.mount.forget(self.inode.number);
    }
}

/// What a listing says about an entry.
const fn sort(kind: EntryKind) -> Sort {
    match kind {
        EntryKind::Directory => Sort::Directory,
        EntryKind::File => Sort::File,
        EntryKind::Link => Sort::Link,
        EntryKind::CharacterDevice => Sort::Device,
        EntryKind::BlockDevice => Sort::Disk,
        EntryKind::Pipe => Sort::Pipe,
        EntryKind::Socket => Sort::Socket,
        EntryKind::Unknown => Sort::Unknown,
    }
}

/// What `stat` says about an inode.
pub const fn sort_of(kind: InodeKind) -> Sort {
    match kind {
        InodeKind::Directory => Sort::Directory,
        InodeKind::File => Sort::File,
        InodeKind::Link => Sort::Link,
        InodeKind::CharacterDevice => Sort::Device,
        InodeKind::BlockDevice => Sort::Disk,
        InodeKind::Pipe => Sort::Pipe,
        InodeKind::Socket => Sort::Socket,
    }
}

impl File for Body {
    fn poll_read(&self, transfer: Transfer<'_>, to: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        match self.read(transfer.offset.unwrap_or(0), to) {
            Err(PageError::NotResident { .. }) => Poll::Pending,
            read => Poll::Ready(read.map_err(Errno::from)),
        }
    }

    fn object(&self) -> Option<&Arc<MemoryObject>> {
        self.object.get()
    }

    /// It is never opened for writing.
    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EBADF))
    }

    fn length(&self) -> u64 {
        self.inode.size
    }
}

impl DiskFile for Stored {
    fn len(&self) -> u64 {
        self.size
    }

    fn device(&self) -> &dyn BlockDevice {
        self.device
    }

    fn locate(&self, page: u64, pieces: &mut Pieces) -> Result<(), LocateError> {
        let start = page.checked_mul(PAGE_SIZE).ok_or(LocateError { page })?;
        let mut offset = 0;
        while offset < PAGE_SIZE {
            let piece = self.extents.piece(start + offset);
            // Blocks are 1 KiB at least and begin at multiples of their size, so every length is of whole sectors.
            let length = piece.length.min(PAGE_SIZE - offset);
            if length == 0 {
                return Err(LocateError { page });
            }
            if let Some(at) = piece.at {
                pieces.push(Piece {
                    sector: at / SECTOR_SIZE,
                    offset: offset as u16,
                    length: length as u16,
                });
            }
            offset += length;
        }
        Ok(())
    }
}
