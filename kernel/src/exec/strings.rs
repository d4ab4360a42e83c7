//! The strings that a program is started with, while nobody has a stack for them yet.
//!
//! Programs choose how many there are and how long. So they are in frames and not in the kernel heap, one after the
//! other with their NULs, as they will stand on the stack.

use faultline_fallible::{AllocError, Arc};
use faultline_mm::MemoryObject;

use crate::machine::memory;
use crate::syscall::Errno;

/// Strings one after the other, each with its NUL.
pub struct Strings {
    pages: Arc<MemoryObject>,
    length: u64,
    count: u64,
}

impl Strings {
    /// No strings.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> Result<Self, AllocError> {
        Ok(Self {
            pages: MemoryObject::of_kernel(memory().frames())?,
            length: 0,
            count: 0,
        })
    }

    /// Bytes of all strings.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// How many strings there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Adds bytes to the string at the end.
    ///
    /// # Errors
    /// `ENOMEM`: part of them may have been added.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        self.pages.resize(self.length + bytes.len() as u64);
        while !bytes.is_empty() {
            let written = self
                .pages
                .write(memory(), self.length, bytes)
                .map_err(|_| Errno::ENOMEM)?;
            self.length += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Ends the string at the end.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn end(&mut self) -> Result<(), Errno> {
        self.append(b"\0")?;
        self.count += 1;
        Ok(())
    }

    /// Adds a string.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        self.append(string)?;
        self.end()
    }

    /// Copies bytes from `offset` on, at most up to the end of a page; says how many, 0 at the end.
    #[must_use]
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let left = self.length.saturating_sub(offset).min(to.len() as u64) as usize;
        if left == 0 {
            return 0;
        }
        let read = self.pages.read(memory(), offset, &mut to[..left]);
        read.expect("these pages never leave memory")
    }

    /// Where the string after the first begins.
    #[must_use]
    pub fn second(&self) -> u64 {
        let mut piece = [0; 128];
        let mut at = 0;
        loop {
            match self.read(at, &mut piece) {
                0 => return at,
                read => match piece[..read].iter().position(|&byte| byte == 0) {
                    Some(end) => return at + end as u64 + 1,
                    None => at += read as u64,
                },
            }
        }
    }
}
