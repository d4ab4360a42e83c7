//! Calls about another process: its memory, and whether it shares something with yet another.

use core::ptr;

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::transfer::Pace;
use super::{Caller, Errno, user};
use crate::exec::elf::USER_END;
use crate::machine::Space;
use crate::process::{Thread, tree};

/// Pieces of memory that one list names, at most.
const MOST_PIECES: u64 = linux::UIO_MAXIOV as u64;

/// Bytes of a piece in a list.
const PIECE: u64 = 16;

/// Bytes that one call moves, at most.
const MOST_BYTES: u64 = 0x7fff_f000;

/// Bytes that are moved at once.
const STEP: usize = 4096;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the other process.
    In,
    /// To the other process.
    Out,
}

/// A list of pieces of memory, read one after the other.
struct List<'a> {
    /// Where the list itself is.
    holder: &'a Space,
    next: u64,
    left: u64,
    /// The rest of the piece that was read last.
    address: u64,
    length: u64,
}

impl<'a> List<'a> {
    /// # Errors
    /// `EINVAL` for too many.
    fn new(holder: &'a Space, at: u64, count: u64) -> Result<Self, Errno> {
        if count > MOST_PIECES {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            holder,
            next: at,
            left: count,
            address: 0,
            length: 0,
        })
    }

    /// Sees to it that bytes of a piece are left; false at the end of the list.
    async fn fill(&mut self) -> Result<bool, Errno> {
        while self.length == 0 {
            if self.left == 0 {
                return Ok(false);
            }
            let [address, length] = user::read_words(self.holder, self.next).await?;
            if length > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            (self.address, self.length) = (address, length);
            self.next = self.next.wrapping_add(PIECE);
            self.left -= 1;
        }
        Ok(true)
    }

    fn advance(&mut self, bytes: u64) {
        self.address = self.address.wrapping_add(bytes);
        self.length -= bytes;
    }
}

/// The thread of that number, if the caller may look into it.
///
/// # Errors
/// `ESRCH`; `EPERM` for one that has asked not to be looked into.
fn subject(caller: &Caller, number: u64) -> Result<Arc<Thread>, Errno> {
    let thread = tree::find_thread(number as u32).ok_or(Errno::ESRCH)?;
    let process = &thread.process;
    let is_open = ptr::eq(&raw const **process, &raw const *caller.thread.process)
        || !process.is_undumpable.load(core::sync::atomic::Ordering::Relaxed)
        || caller.thread.capabilities.lock().may_look_into_others();
    if is_open { Ok(thread) } else { Err(Errno::EPERM) }
}

/// `process_vm_readv` and `process_vm_writev`. What was moved before something is not there counts; bytes move a page at most
/// at once.
pub async fn process_vm(
    caller: Caller,
    way: Way,
    number: u64,
    [own, own_count, other, other_count, flags]: [u64; 5],
) -> Result<u64, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut own = List::new(&caller.space, own, own_count)?;
    let mut other = List::new(&caller.space, other, other_count)?;
    if !own.fill().await? {
        return Ok(0);
    }
    let has_other = other.fill().await?;
    let thread = subject(&caller, number)?;
    let space = thread.process.space().ok_or(Errno::ESRCH)?;
    if !has_other {
        return Ok(0);
    }
    let mut buffer = user::buffer(STEP)?;
    let (mut moved, mut pace) = (0, Pace::default());
    let failed = loop {
        match (own.fill().await, other.fill().await) {
            (Ok(true), Ok(true)) if moved < MOST_BYTES => {}
            (Ok(_), Ok(_)) => break None,
            (Err(errno), _) | (_, Err(errno)) => break Some(errno),
        }
        // Up to the end of a page on both sides: what is there is moved to its last byte.
        let in_page = |address: u64| STEP as u64 - address % STEP as u64;
        let length = own.length.min(other.length).min(MOST_BYTES - moved);
        let length = length.min(in_page(own.address)).min(in_page(other.address));
        let bytes = &mut buffer[..length as usize];
        if own.address >= USER_END || other.address >= USER_END {
            break Some(Errno::EFAULT);
        }
        let step = match way {
            Way::In => match user::read(&space, other.address, bytes).await {
                Ok(()) => user::write(&caller.space, own.address, bytes).await,
                Err(errno) => Err(errno),
            },
            Way::Out => match user::read(&caller.space, own.address, bytes).await {
                Ok(()) => user::write(&space, other.address, bytes).await,
                Err(errno) => Err(errno),
            },
        };
        if let Err(errno) = step {
            break Some(errno);
        }
        moved += length;
        own.advance(length);
        other.advance(length);
        pace.step(length as usize).await;
    };
    match failed {
        Some(errno) if moved == 0 => Err(errno),
        _ => Ok(moved),
    }
}

/// Two things are not the same, and neither is the first.
const DIFFERENT: u64 = 3;

/// `kcmp`: whether two processes share something. Where they do not, no order is given, so that no address is given away.
pub fn kcmp(caller: &Caller, [one, other, kind, first, second]: [u64; 5]) -> Result<u64, Errno> {
    let (one, other) = (subject(caller, one)?, subject(caller, other)?);
    let (one, other) = (&one.process, &other.process);
    let is_same_process = ptr::eq(&raw const **one, &raw const **other);
    let same = match kind as u32 {
        // KCMP_FILE
        0 => {
            let [first, second] = [(one, first), (other, second)].map(|(of, number)| of.files().lock().get(number));
            Arc::ptr_eq(&first?, &second?)
        }
        // KCMP_VM
        1 => match (one.space(), other.space()) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            _ => is_same_process,
        },
        // KCMP_FILES
        2 => Arc::ptr_eq(&one.files(), &other.files()),
        // KCMP_FS
        3 => Arc::ptr_eq(&one.directory, &other.directory),
        // KCMP_SIGHAND
        4 => Arc::ptr_eq(&one.actions, &other.actions),
        // KCMP_IO: nobody has a context of transfers of their own.
        5 => true,
        // KCMP_SYSVSEM: undo lists belong to processes.
        6 => is_same_process,
        _ => return Err(Errno::EINVAL),
    };
    Ok(if same { 0 } else { DIFFERENT })
}
