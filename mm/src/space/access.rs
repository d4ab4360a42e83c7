//! The kernel's accesses to user memory.
//!
//! The kernel never dereferences a user address. A copy walks the page tables under the space's lock, a page at a time,
//! and copies through the platform's view of physical memory; where the entry does not allow the access it awaits the
//! same fault future that a user thread would. So a bad pointer is a typed error, a lazy one is resolved, and no lock is
//! held across an await.

use core::marker::PhantomData;

use super::{Inner, Space, VirtualAddressSpace};
use crate::address::{PAGE_SIZE, USER_END};
use crate::entry::Entry;
use crate::error::UserCopyError;
use crate::frame::{Pfn, TableLock};
use crate::platform::Platform;
use crate::protection::{Access, FaultInfo};
use crate::tables::{Leaf, index};

/// The result of a copy between the kernel and user memory.
pub type UserCopy = Result<(), UserCopyError>;

impl<P: Platform> VirtualAddressSpace<P> {
    /// Copies `to.len()` bytes from user memory at `from`.
    ///
    /// # Errors
    /// [`UserCopyError`] at the first byte that user mode could not read; what was copied before it stays.
    pub async fn read_user(&self, from: u64, to: &mut [u8]) -> UserCopy {
        let mut copied = 0;
        loop {
            copied += self.read_mapped(from.wrapping_add(copied as u64), &mut to[copied..]);
            if copied == to.len() {
                return Ok(());
            }
            self.resolve(from.wrapping_add(copied as u64), Access::Read, copied)
                .await?;
        }
    }

    /// As [`read_user`](Self::read_user), for a caller that must not wait: false, with any part of `to` written, if a page
    /// would have to be resolved first.
    #[must_use]
    pub fn try_read_user(&self, from: u64, to: &mut [u8]) -> bool {
        self.read_mapped(from, to) == to.len()
    }

    /// Copies `from` to user memory at `to`.
    ///
    /// # Errors
    /// [`UserCopyError`] at the first byte that user mode could not write; what was copied before it stays.
    pub async fn write_user(&self, to: u64, from: &[u8]) -> UserCopy {
        let mut copied = 0;
        loop {
            copied += self.write_mapped(to.wrapping_add(copied as u64), &from[copied..]);
            if copied == from.len() {
                return Ok(());
            }
            self.resolve(to.wrapping_add(copied as u64), Access::Write, copied)
                .await?;
        }
    }

    /// As [`write_user`](Self::write_user), for a caller that must not wait: false, with any front part of `from` written,
    /// if a page would have to be resolved first.
    #[must_use]
    pub fn try_write_user(&self, to: u64, from: &[u8]) -> bool {
        self.write_mapped(to, from) == from.len()
    }

    /// Copies a zero-terminated string from user memory to `to`, and returns the part without the zero. Without a zero in as
    /// many bytes as `to` has, returns `Ok(None)`.
    ///
    /// # Errors
    /// [`UserCopyError`] at the first byte that user mode could not read.
    pub async fn read_user_string<'b>(&self, from: u64, to: &'b mut [u8]) -> Result<Option<&'b [u8]>, UserCopyError> {
        let mut copied = 0;
        while copied < to.len() {
            let address = from.wrapping_add(copied as u64);
            let take = chunk(address, to.len() - copied).min(256);
            let part = &mut to[copied..copied + take];
            self.read_user(address, part).await.map_err(|error| UserCopyError {
                copied: copied + error.copied,
                ..error
            })?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                return Ok(Some(&to[..copied + end]));
            }
            copied += take;
        }
        Ok(None)
    }

    /// Calls `f` with `length` bytes of user memory from `address` on, which have to lie in one page, under the space's lock;
    /// `None` if they do not, or if `access` would have to be resolved first.
    pub fn with_user_bytes<R>(
        &self,
        address: u64,
        length: usize,
        access: Access,
        f: impl FnOnce(UserBytes<'_>) -> R,
    ) -> Option<R> {
        if length == 0 || chunk(address, length) != length {
            return None;
        }
        let inner = self.lock();
        let page = self.translate_locked(&inner, address, access)?;
        let start = self.pointer(&page);
        Some(f(UserBytes {
            start,
            length,
            is_writable: access == Access::Write,
            _lock: PhantomData,
        }))
    }

    async fn resolve(&self, address: u64, access: Access, copied: usize) -> UserCopy {
        let fault = self.handle_page_fault(FaultInfo {
            address,
            access,
            user: false,
        });
        match fault.await {
            Ok(_) => Ok(()),
            Err(cause) => Err(UserCopyError { copied, cause }),
        }
    }

    /// Changes one aligned 32-bit word of user memory under the space's lock, for futexes: `f` gets the word and may
    /// return a new one. Returns the old word and the address of its frame's word, which names shared memory in every
    /// space; `None` if a fault has to be resolved first.
    pub fn update_user_word(
        &self,
        address: u64,
        access: Access,
        f: impl FnOnce(u32) -> Option<u32>,
    ) -> Option<(u32, u64)> {
        if !address.is_multiple_of(4) {
            return None;
        }
        let inner = self.lock();
        let page = self.translate_locked(&inner, address, access)?;
        let word = self.pointer(&page);
        // SAFETY: 1. the frame is mapped, so it is RAM (or a device that user mode may touch); 2. the address is a
        // multiple of 4; 3. user mode may change the word at the same time, hence the atomic.
        let word = unsafe { core::sync::atomic::AtomicU32::from_ptr(word.cast()) };
        let old = word.load(core::sync::atomic::Ordering::SeqCst);
        if let Some(new) = f(old) {
            word.store(new, core::sync::atomic::Ordering::SeqCst);
        }
        Some((old, page.physical))
    }

    /// The physical address behind a user address, if user mode could make this access without a fault. It stays valid
    /// only as long as nothing unmaps it.
    #[must_use]
    pub fn translate(&self, address: u64, access: Access) -> Option<u64> {
        self.translate_locked(&self.lock(), address, access)
            .map(|page| page.physical)
    }
}

/// Some bytes of one page of user memory, which stays where it is while the space's lock is held. User mode may be changing
/// them, so they are only ever copied.
pub struct UserBytes<'a> {
    start: *mut u8,
    length: usize,
    is_writable: bool,
    _lock: PhantomData<&'a mut [u8]>,
}

impl UserBytes<'_> {
    /// Some of them, so that what is known of the length is known to the compiler.
    ///
    /// # Panics
    /// If they are not all there.
    #[inline(always)]
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> UserBytes<'_> {
        self.check(offset, length);
        UserBytes {
            // SAFETY: `check` has seen that the offset is within the bytes that `start` is valid for.
            start: unsafe { self.start.add(offset) },
            length,
            is_writable: self.is_writable,
            _lock: PhantomData,
        }
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If they are not all there.
    #[inline(always)]
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.check(offset, to.len());
        // SAFETY: 1. `check` has seen that the bytes are among those that `start` is valid for; 2. `to` is the caller's.
        unsafe { self.start.add(offset).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) }
    }

    /// Copies words out.
    ///
    /// # Panics
    /// If they are not all there.
    #[inline(always)]
    #[must_use]
    pub fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        self.check(offset, N * 8);
        // SAFETY: `check` has seen that the bytes are among those that `start` is valid for; any bytes are a word.
        core::array::from_fn(|index| unsafe { self.start.add(offset + index * 8).cast::<u64>().read_unaligned() })
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If there is no room for them, or the access was not for writing.
    #[inline(always)]
    pub fn write(&mut self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        assert!(self.is_writable, "user memory that was asked for to read it");
        // SAFETY: 1. `check` has seen that the bytes are among those that `start` is valid for; 2. the entry allows writes and
        // its frame is the space's own or shared memory.
        unsafe {
            self.start
                .add(offset)
                .copy_from_nonoverlapping(from.as_ptr(), from.len())
        }
    }

    /// Copies words in.
    ///
    /// # Panics
    /// If there is no room for them, or the access was not for writing.
    #[inline(always)]
    pub fn set_words<const N: usize>(&mut self, offset: usize, words: [u64; N]) {
        self.check(offset, N * 8);
        assert!(self.is_writable, "user memory that was asked for to read it");
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: as in `write`.
            unsafe { self.start.add(offset + index * 8).cast::<u64>().write_unaligned(word) }
        }
    }

    /// Where some of them are, for instructions that copy by themselves. Valid for as long as the space's lock is held.
    ///
    /// # Panics
    /// If they are not all there.
    #[inline(always)]
    #[must_use]
    pub fn as_ptr(&self, offset: usize, length: usize) -> *const u8 {
        self.check(offset, length);
        // SAFETY: `check` has seen that the offset is within the bytes that `start` is valid for.
        unsafe { self.start.add(offset) }
    }

    /// As [`as_ptr`](Self::as_ptr), for writing.
    ///
    /// # Panics
    /// If they are not all there, or the access was not for writing.
    #[inline(always)]
    #[must_use]
    pub fn as_mut_ptr(&mut self, offset: usize, length: usize) -> *mut u8 {
        self.check(offset, length);
        assert!(self.is_writable, "user memory that was asked for to read it");
        // SAFETY: as in `as_ptr`.
        unsafe { self.start.add(offset) }
    }

    #[inline(always)]
    fn check(&self, offset: usize, length: usize) {
        assert!(
            offset <= self.length && length <= self.length - offset,
            "beyond the bytes of user memory that were asked for"
        );
    }
}

impl<P: Platform> Space<P> {
    /// Copies from user memory up to the first page that user mode could not read without a fault, for a caller that must not
    /// wait; returns how many bytes.
    pub fn read_mapped(&self, from: u64, to: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < to.len() {
            let address = from.wrapping_add(copied as u64);
            let take = chunk(address, to.len() - copied);
            let done = self.copy_chunk(address, Access::Read, |page| {
                // SAFETY: 1. `page` is valid for `take` bytes; 2. user mode may be writing them: the bytes are read as
                // they are, and nothing is concluded from reading them twice; 3. `to` is the caller's.
                unsafe { page.copy_to_nonoverlapping(to[copied..].as_mut_ptr(), take) }
            });
            if !done {
                break;
            }
            copied += take;
        }
        copied
    }

    /// Copies to user memory up to the first page that user mode could not write without a fault, for a caller that must not
    /// wait; returns how many bytes.
    pub fn write_mapped(&self, to: u64, from: &[u8]) -> usize {
        let mut copied = 0;
        while copied < from.len() {
            let address = to.wrapping_add(copied as u64);
            let take = chunk(address, from.len() - copied);
            let done = self.copy_chunk(address, Access::Write, |page| {
                // SAFETY: as in `read_mapped`, in the other direction; the entry allows writes and its frame is the
                // space's own or shared memory.
                unsafe { page.copy_from_nonoverlapping(from[copied..].as_ptr(), take) }
            });
            if !done {
                break;
            }
            copied += take;
        }
        copied
    }

    /// Calls `copy` with where `address` is in the platform's view, under the lock, if the entry allows the access.
    fn copy_chunk(&self, address: u64, access: Access, copy: impl FnOnce(*mut u8)) -> bool {
        let inner = self.lock();
        let Some(page) = self.translate_locked(&inner, address, access) else {
            return false;
        };
        copy(self.pointer(&page));
        true
    }

    fn pointer(&self, page: &Translated<'_>) -> *mut u8 {
        self.memory
            .platform
            .phys_to_virt(x86_64::PhysAddr::new_truncate(page.physical))
    }

    pub(super) fn translate_locked(&self, inner: &Inner<P>, address: u64, access: Access) -> Option<Translated<'_>> {
        if address >= USER_END {
            return None;
        }
        let root = inner.root?;
        let (value, mask) = match self.memory.leaf(root, address) {
            Leaf::Own(entry, value) => {
                if access == Access::Write && value.allows(access) {
                    entry.or(Entry::DIRTY | Entry::ACCESSED);
                }
                (value, PAGE_SIZE - 1)
            }
            Leaf::Shared(_) if access != Access::Write => return self.translate_shared(root, address, access),
            Leaf::Huge(value) => (value, crate::address::HUGE_PAGE_SIZE - 1),
            Leaf::Shared(_) | Leaf::None => return None,
        };
        value.allows(access).then(|| Translated {
            physical: frame_address(value.frame()) | address & mask,
            _table: TableLock::NONE,
        })
    }

    /// As [`translate_locked`](Self::translate_locked), for a page in a shared table, which the reclaimer may come to through
    /// another space.
    #[cold]
    fn translate_shared(&self, root: Pfn, address: u64, access: Access) -> Option<Translated<'_>> {
        let table = self.memory.level2(root, address)?.get().frame();
        let lock = self.memory.frames.lock_table(table);
        let value = self.memory.entry(table, index(address, 1)).get();
        value.allows(access).then(|| Translated {
            physical: frame_address(value.frame()) | address & (PAGE_SIZE - 1),
            _table: lock,
        })
    }
}

/// Where a page is: for as long as the space's lock is held, and this kept.
pub(super) struct Translated<'a> {
    physical: u64,
    _table: TableLock<'a>,
}

fn frame_address(frame: Pfn) -> u64 {
    frame.address().as_u64()
}

/// Bytes from `address` to the end of its page, at most `left`.
fn chunk(address: u64, left: usize) -> usize {
    left.min((PAGE_SIZE - address % PAGE_SIZE) as usize)
}
