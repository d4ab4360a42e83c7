//! The user memory of a transfer: one buffer, or the list of `readv` and `writev`.

use faultline_fallible::Vec;
use faultline_mm::Access;
use linux_raw_sys::general as linux;

use super::{Caller, Errno, user};
use crate::machine::Space;

/// Most bytes of one transfer, as on Linux.
const MOST: u64 = 0x7fff_f000;

/// Most pieces of one `readv` or `writev`.
const MOST_PIECES: u64 = linux::UIO_MAXIOV as u64;

/// Pieces of a list that are read at a time.
const AT_ONCE: usize = 32;

/// Where bytes that are written come from.
pub enum Source<'a> {
    /// User memory.
    User(&'a mut Pieces),
    /// The kernel.
    Kernel(&'a [u8]),
}

impl Source<'_> {
    /// Bytes that are left.
    pub fn left(&self) -> usize {
        match self {
            Self::User(pieces) => usize::try_from(pieces.left()).unwrap_or(usize::MAX),
            Self::Kernel(bytes) => bytes.len(),
        }
    }

    /// As [`Pieces::read`].
    ///
    /// # Errors
    /// The address at which a fault has to be resolved first; nothing was taken then.
    pub fn read(&mut self, space: &Space, to: &mut [u8]) -> Result<(), u64> {
        match self {
            Self::User(pieces) => pieces.read(space, to),
            Self::Kernel(bytes) => {
                let (now, later) = bytes.split_at(to.len());
                to.copy_from_slice(now);
                *bytes = later;
                Ok(())
            }
        }
    }

    /// As [`Pieces::peek`].
    ///
    /// # Errors
    /// The address at which a fault has to be resolved first.
    pub fn peek(&mut self, space: &Space, to: &mut [u8]) -> Result<usize, u64> {
        match self {
            Self::User(pieces) => pieces.peek(space, to),
            Self::Kernel(bytes) => {
                let length = bytes.len().min(to.len());
                to[..length].copy_from_slice(&bytes[..length]);
                Ok(length)
            }
        }
    }

    /// The next `count` bytes, which were peeked at, are done.
    pub fn advance(&mut self, count: usize) {
        match self {
            Self::User(pieces) => pieces.advance(count),
            Self::Kernel(bytes) => *bytes = &bytes[count..],
        }
    }
}

/// A buffer in user memory.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    address: u64,
    length: u64,
}

/// What is left of the user memory of a transfer.
#[derive(Debug)]
pub struct Pieces {
    /// Of the piece that is next.
    current: Piece,
    /// The whole list; empty if there is one piece.
    list: Vec<Piece>,
    /// Where `current` is in the list.
    index: usize,
    /// Bytes in all.
    left: u64,
}

impl Pieces {
    /// One buffer.
    ///
    /// # Errors
    /// `EFAULT` for addresses that user mode can't have.
    pub fn one(address: u64, length: u64) -> Result<Self, Errno> {
        user::check_range(address, length)?;
        let length = length.min(MOST);
        Ok(Self {
            current: Piece { address, length },
            list: Vec::new(),
            index: 0,
            left: length,
        })
    }

    /// The list of `count` pieces at `address`. What is beyond the most that one transfer moves is left out.
    ///
    /// # Errors
    /// `EINVAL` for too many pieces or a negative length, `EFAULT`, `ENOMEM`.
    pub async fn list(caller: &Caller, address: u64, count: u64) -> Result<Self, Errno> {
        if count > MOST_PIECES {
            return Err(Errno::EINVAL);
        }
        let mut list = Vec::try_with_capacity(count as usize)?;
        let mut left = 0;
        while list.len() < count as usize {
            let part = (count as usize - list.len()).min(AT_ONCE);
            let mut words = [[0; 16]; AT_ONCE];
            let at = address.wrapping_add(list.len() as u64 * 16);
            user::read(&caller.space, at, words[..part].as_flattened_mut()).await?;
            for word in &words[..part] {
                let [address, length] = *word.as_chunks::<8>().0 else {
                    return Err(Errno::EINVAL);
                };
                let [address, length] = [address, length].map(u64::from_le_bytes);
                if length > i64::MAX as u64 {
                    return Err(Errno::EINVAL);
                }
                user::check_range(address, length)?;
                let length = length.min(MOST - left);
                left += length;
                list.try_push(Piece { address, length })?;
            }
        }
        Ok(Self {
            current: list.first().copied().unwrap_or_default(),
            list,
            index: 0,
            left,
        })
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Leaves out what is beyond the next `most` bytes.
    pub fn limit(&mut self, most: u64) {
        self.left = self.left.min(most);
        self.current.length = self.current.length.min(self.left);
    }

    /// What is left of the next piece that is not empty: its address and its length.
    pub fn next(&mut self) -> Option<(u64, usize)> {
        if self.left == 0 {
            return None;
        }
        while self.current.length == 0 {
            self.index += 1;
            self.current = *self.list.get(self.index)?;
        }
        Some((self.current.address, self.current.length as usize))
    }

    /// The next `count` bytes, which are in the next piece, are done.
    pub fn advance(&mut self, count: usize) {
        self.current.address += count as u64;
        self.current.length -= count as u64;
        self.left -= count as u64;
    }

    /// Moves `length` bytes by `copy`, which gets the address and the part of them that goes there, and returns how much it
    /// could do without waiting.
    ///
    /// # Errors
    /// The address where it could do no more; then nothing is done.
    fn exactly(&mut self, length: usize, mut copy: impl FnMut(u64, usize, usize) -> usize) -> Result<(), u64> {
        let before = (self.current, self.index, self.left);
        let mut done = 0;
        while done < length {
            let Some((address, room)) = self.next() else { break };
            let part = room.min(length - done);
            let copied = copy(address, done, part);
            if copied < part {
                (self.current, self.index, self.left) = before;
                return Err(address + copied as u64);
            }
            self.advance(part);
            done += part;
        }
        Ok(())
    }

    /// Copies what is next to `to`, without waiting and without counting it as done: as much as fits and is in one piece.
    /// Returns how much.
    ///
    /// # Errors
    /// The address at which a fault has to be resolved first.
    pub fn peek(&mut self, space: &Space, to: &mut [u8]) -> Result<usize, u64> {
        let Some((address, length)) = self.next() else {
            return Ok(0);
        };
        let length = length.min(to.len());
        match space.read_mapped(address, &mut to[..length]) {
            0 if length > 0 => Err(address),
            copied => Ok(copied),
        }
    }

    /// Copies `from` to user memory, resolving faults.
    ///
    /// # Errors
    /// `EFAULT`.
    pub async fn give(&mut self, space: &Space, from: &[u8]) -> Result<(), Errno> {
        while let Err(address) = self.write(space, from) {
            user::resolve(space, address, Access::Write).await?;
        }
        Ok(())
    }

    /// Fills `to` from user memory without waiting.
    ///
    /// # Errors
    /// The address at which a fault has to be resolved first; nothing was taken then.
    pub fn read(&mut self, space: &Space, to: &mut [u8]) -> Result<(), u64> {
        self.exactly(to.len(), |address, done, part| {
            space.read_mapped(address, &mut to[done..done + part])
        })
    }

    /// Copies `from` to user memory without waiting.
    ///
    /// # Errors
    /// The address at which a fault has to be resolved first; nothing counts as copied then.
    pub fn write(&mut self, space: &Space, from: &[u8]) -> Result<(), u64> {
        self.exactly(from.len(), |address, done, part| {
            space.write_mapped(address, &from[done..done + part])
        })
    }
}
