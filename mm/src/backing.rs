//! Where the pages of a region come from.

use core::fmt;
use faultline_fallible::Arc;

use thiserror::Error;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::object::MemoryObject;

/// A file whose bytes lie in memory for ever: one of the ramdisk.
pub trait PageSource: Send + Sync {
    /// Length in bytes. An access to a page that starts at or beyond it is [`FaultError::BeyondEnd`].
    ///
    /// [`FaultError::BeyondEnd`]: crate::FaultError::BeyondEnd
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame that holds page `index` (in units of 4 KiB), if it is in memory as a whole frame that may be mapped
    /// read-only as it is. The frame must stay what it is for as long as the object lives.
    fn resident(&self, index: u64) -> Option<PhysFrame>;

    /// Writes page `index` to `page`, with zeros beyond the end of the file.
    ///
    /// # Errors
    /// [`FillError`] if the page can't be had; every waiter gets it.
    fn fill(&self, index: u64, page: &mut [u8; 4096]) -> Result<(), FillError>;
}

/// A page can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("page {index} could not be read")]
pub struct FillError {
    /// Index of the page in its object.
    pub index: u64,
}

/// How device memory is cached (Intel SDM volume 3, table 11-10, with the PAT as it is after reset).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Write-back, as RAM.
    WriteBack,
    /// Write-through (PWT).
    WriteThrough,
    /// Uncached (PCD and PWT).
    Uncached,
}

/// Where the pages of a region come from.
#[derive(Clone)]
pub enum Backing {
    /// Private zeroed memory.
    Anonymous,
    /// Memory that every space which maps the object sees. The offset is in bytes, a multiple of 4096.
    Shared {
        /// The object.
        object: Arc<MemoryObject>,
        /// Where the region starts in it, in bytes.
        offset: u64,
    },
    /// Memory of an object, private: pages are the object's until they are written, and copied then. The offset is in bytes,
    /// a multiple of 4096.
    Private {
        /// The object.
        object: Arc<MemoryObject>,
        /// Where the region starts in it, in bytes.
        offset: u64,
    },
    /// Pages that lie in memory for ever, private: written pages are copied first. The offset is in bytes, a multiple of 4096.
    File {
        /// The file.
        file: Arc<dyn PageSource>,
        /// Where the region starts in it, in bytes.
        offset: u64,
    },
    /// Device memory: never freed as RAM, never copied by fork, never executable.
    Physical {
        /// Physical address of the first byte, a multiple of 4096.
        base: PhysAddr,
        /// How it is cached.
        cache: CachePolicy,
    },
}

impl Backing {
    /// The backing of the part that starts `delta` bytes further on.
    pub(crate) fn advanced(&self, delta: u64) -> Backing {
        let mut backing = self.clone();
        match &mut backing {
            Backing::Anonymous => {}
            Backing::Shared { offset, .. } | Backing::Private { offset, .. } | Backing::File { offset, .. } => {
                *offset += delta;
            }
            Backing::Physical { base, .. } => *base += delta,
        }
        backing
    }

    /// Whether `next` goes on where this one, `size` bytes long, ends.
    pub(crate) fn continues(&self, size: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (Backing::Shared { object: a, offset: x }, Backing::Shared { object: b, offset: y })
            | (Backing::Private { object: a, offset: x }, Backing::Private { object: b, offset: y }) => {
                Arc::ptr_eq(a, b) && x + size == *y
            }
            (Backing::File { file: a, offset: x }, Backing::File { file: b, offset: y }) => {
                Arc::ptr_eq(a, b) && x + size == *y
            }
            (Backing::Physical { base: a, cache: c }, Backing::Physical { base: b, cache: d }) => {
                a.as_u64() + size == b.as_u64() && c == d
            }
            _ => false,
        }
    }

    /// Whether every space that maps it sees what one of them writes.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self, Backing::Shared { .. } | Backing::Physical { .. })
    }

    /// The kind, for diagnostics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Backing::Anonymous => "anonymous",
            Backing::Shared { .. } => "shared",
            Backing::Private { .. } | Backing::File { .. } => "file",
            Backing::Physical { .. } => "physical",
        }
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::Anonymous => f.write_str("anonymous"),
            Backing::Shared { offset, .. } => write!(f, "shared+{offset:#x}"),
            Backing::Private { offset, .. } => write!(f, "private+{offset:#x}"),
            Backing::File { offset, .. } => write!(f, "file+{offset:#x}"),
            Backing::Physical { base, .. } => write!(f, "physical {base:#x}"),
        }
    }
}
