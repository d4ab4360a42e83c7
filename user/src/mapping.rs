//! A mapping of memory: the one place in the sample tasks that knows raw addresses.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};

use crate::{PAGE, fail, word};

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
    /// Reading and executing.
    ReadExecute,
}

impl Access {
    fn flags(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        }
    }
}

/// Pages from mmap, addressed by words. They go back when the value is dropped.
///
/// Reads and writes are volatile: each is one access by the processor, so that each first one is one fault. What the
/// pages allow is the caller's business: an access that they refuse ends in a signal, not in undefined behaviour of a
/// reference, because no reference to them is ever made.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u64>,
    bytes: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and every access is a volatile access to a raw address.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; threads that share a mapping agree on who writes which word, as the callers document.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private anonymous memory.
    #[must_use]
    pub fn private(bytes: usize) -> Self {
        Self::new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// Anonymous memory that stays shared across a fork.
    #[must_use]
    pub fn shared(bytes: usize) -> Self {
        Self::new(bytes, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    /// The first bytes of a file, which becomes as long as that; what is written is written to the file.
    #[must_use]
    pub fn of_file(file: &File, bytes: usize) -> Self {
        let mapped = file
            .set_len(bytes as u64)
            .and_then(|()| Self::try_map(bytes, libc::MAP_SHARED, file.as_raw_fd()));
        mapped.unwrap_or_else(|error| fail(format_args!("mmap of {bytes} bytes of a file: {error}")))
    }

    /// Private anonymous memory, if the kernel gives it.
    ///
    /// # Errors
    /// What mmap reported.
    pub fn try_private(bytes: usize) -> io::Result<Self> {
        Self::try_new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// Anonymous memory that stays shared across a fork, if the kernel gives it.
    ///
    /// # Errors
    /// What mmap reported.
    pub fn try_shared(bytes: usize) -> io::Result<Self> {
        Self::try_new(bytes, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    fn new(bytes: usize, flags: libc::c_int) -> Self {
        Self::try_new(bytes, flags).unwrap_or_else(|error| fail(format_args!("mmap of {bytes} bytes: {error}")))
    }

    fn try_new(bytes: usize, flags: libc::c_int) -> io::Result<Self> {
        Self::try_map(bytes, flags, -1)
    }

    fn try_map(bytes: usize, flags: libc::c_int, file: RawFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, Access::ReadWrite.flags(), flags, file, 0) };
        let base = (base != libc::MAP_FAILED)
            .then_some(base)
            .and_then(|base| NonNull::new(base.cast()));
        base.map(|base| Self { base, bytes })
            .ok_or_else(io::Error::last_os_error)
    }

    /// How many words there are.
    #[must_use]
    pub fn words(&self) -> usize {
        self.bytes / 8
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.bytes / PAGE
    }

    /// The address of a word.
    #[must_use]
    pub fn address(&self, index: usize) -> *mut u64 {
        assert!(index <= self.words(), "word {index} is outside the mapping");
        self.base.as_ptr().wrapping_add(index)
    }

    /// Reads a word.
    #[must_use]
    pub fn read(&self, index: usize) -> u64 {
        assert!(index < self.words(), "word {index} is outside the mapping");
        // SAFETY: 1. the word lies in pages that this value mapped and still owns, by the assertion above. 2. it is
        // aligned, because the base is that of a page. 3. no reference to it exists.
        unsafe { self.address(index).read_volatile() }
    }

    /// Writes a word.
    pub fn write(&self, index: usize, value: u64) {
        assert!(index < self.words(), "word {index} is outside the mapping");
        // SAFETY: as in `read`.
        unsafe { self.address(index).write_volatile(value) }
    }

    /// Writes the words of a range as [`word`] says.
    pub fn fill(&self, words: Range<usize>, seed: u64) {
        for index in words {
            self.write(index, word(seed, index));
        }
    }

    /// Checks that the words of a range are as [`Mapping::fill`] wrote them.
    pub fn check(&self, words: Range<usize>, seed: u64, what: &str) {
        for index in words {
            let (found, expected) = (self.read(index), word(seed, index));
            if found != expected {
                fail(format_args!(
                    "{what}: word {index} is {found:#018x}, not {expected:#018x}"
                ));
            }
        }
    }

    /// Checks that the words of a range are zero.
    pub fn check_zero(&self, words: Range<usize>, what: &str) {
        for index in words {
            let found = self.read(index);
            if found != 0 {
                fail(format_args!("{what}: word {index} is {found:#018x}, not zero"));
            }
        }
    }

    /// Changes what a range of pages allows.
    pub fn protect(&self, pages: Range<usize>, access: Access) {
        succeed("mprotect", self.try_protect(pages, access));
    }

    /// As [`Mapping::protect`], if the kernel does it.
    ///
    /// # Errors
    /// What mprotect reported.
    pub fn try_protect(&self, pages: Range<usize>, access: Access) -> io::Result<()> {
        let (address, bytes) = self.range(pages);
        // SAFETY: the pages are this value's own; nothing else of the program lies in them.
        done(unsafe { libc::mprotect(address, bytes, access.flags()) })
    }

    /// Takes a range of pages out of the mapping. The caller touches them only to see the signal.
    pub fn punch(&self, pages: Range<usize>) {
        succeed("munmap", self.try_punch(pages));
    }

    /// As [`Mapping::punch`], if the kernel does it.
    ///
    /// # Errors
    /// What munmap reported.
    pub fn try_punch(&self, pages: Range<usize>) -> io::Result<()> {
        let (address, bytes) = self.range(pages);
        // SAFETY: as in `try_protect`.
        done(unsafe { libc::munmap(address, bytes) })
    }

    /// Maps new private memory over a range of pages.
    pub fn patch(&self, pages: Range<usize>) {
        succeed("mmap with MAP_FIXED", self.try_patch(pages));
    }

    /// As [`Mapping::patch`], if the kernel does it.
    ///
    /// # Errors
    /// What mmap reported.
    pub fn try_patch(&self, pages: Range<usize>) -> io::Result<()> {
        let (address, bytes) = self.range(pages);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the range lies in this value's own pages, so that MAP_FIXED replaces nothing else.
        let result = unsafe { libc::mmap(address, bytes, Access::ReadWrite.flags(), flags, -1, 0) };
        done(if result == address { 0 } else { -1 })
    }

    /// Says that the content of a range of pages isn't needed any more.
    pub fn discard(&self, pages: Range<usize>) {
        succeed("madvise", self.try_discard(pages));
    }

    /// As [`Mapping::discard`], if the kernel does it.
    ///
    /// # Errors
    /// What madvise reported.
    pub fn try_discard(&self, pages: Range<usize>) -> io::Result<()> {
        self.try_advise(pages, libc::MADV_DONTNEED)
    }

    /// Gives the kernel an advice, such as [`libc::MADV_PAGEOUT`], for a range of pages.
    ///
    /// # Errors
    /// What madvise reported.
    pub fn try_advise(&self, pages: Range<usize>, advice: libc::c_int) -> io::Result<()> {
        let (address, bytes) = self.range(pages);
        // SAFETY: as in `try_protect`.
        done(unsafe { libc::madvise(address, bytes, advice) })
    }

    /// How many of the pages are in memory.
    ///
    /// # Errors
    /// What mincore reported.
    pub fn try_resident(&self) -> io::Result<usize> {
        let mut flags = vec![0u8; self.pages()];
        let (address, bytes) = self.range(0..self.pages());
        // SAFETY: 1. the call reads no memory of the program. 2. it writes one byte for each page, for which there is room.
        done(unsafe { libc::mincore(address, bytes, flags.as_mut_ptr()) })?;
        Ok(flags.iter().filter(|flag| **flag & 1 == 1).count())
    }

    /// Changes the size, at another place if need be.
    pub fn resize(&mut self, bytes: usize) {
        // SAFETY: the pages are this value's own, and no reference to them exists that a move would break.
        let base = unsafe { libc::mremap(self.base.as_ptr().cast(), self.bytes, bytes, libc::MREMAP_MAYMOVE) };
        let base = (base != libc::MAP_FAILED)
            .then_some(base)
            .and_then(|base| NonNull::new(base.cast()));
        self.base = base.unwrap_or_else(|| fail(format_args!("mremap: {}", io::Error::last_os_error())));
        self.bytes = bytes;
    }

    /// Moves a range of pages of one region to begin at page `to` of the same mapping, over what is there. The range is a
    /// hole afterwards.
    ///
    /// # Errors
    /// What mremap reported; the target may be a hole then.
    pub fn shift(&self, pages: Range<usize>, to: usize) -> io::Result<()> {
        let (target, _) = self.range(to..to + pages.len());
        let (address, bytes) = self.range(pages);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are this value's own pages, and no reference to them exists that a move would break.
        let moved = unsafe { libc::mremap(address, bytes, bytes, flags, target) };
        if moved == target {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn range(&self, pages: Range<usize>) -> (*mut libc::c_void, usize) {
        assert!(
            pages.start <= pages.end && pages.end <= self.pages(),
            "pages {pages:?} are outside the mapping"
        );
        (
            self.base.as_ptr().wrapping_byte_add(pages.start * PAGE).cast(),
            pages.len() * PAGE,
        )
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own, and nobody can reach them any more.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        succeed("munmap", done(result));
    }
}

/// The result of a call by its return value and `errno`.
fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn succeed(call: &str, result: io::Result<()>) {
    result.unwrap_or_else(|error| fail(format_args!("{call}: {error}")));
}
