//! `signalfd`.

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::pieces::Pieces;
use super::transfer::opened;
use super::{Caller, Errno, has_headroom, user};
use crate::fs::signal_file::{SIZE, SignalFile, to_bytes};
use crate::fs::{FileKind, OpenFile};
use crate::process::waiting::event;
use crate::signal::{SignalSet, pending};

/// `signalfd4`.
///
/// # Errors
/// `EINVAL` for flags that there are not, a set of another size, and a descriptor of something else; `EBADF`, `EFAULT`,
/// `EMFILE`, `ENOMEM`.
pub async fn signalfd4(caller: Caller, descriptor: u64, set: u64, size: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if size != 8 || flags & !(linux::O_CLOEXEC | linux::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let [word] = user::read_words(&caller.space, set).await?;
    let signals = SignalSet(word).without(SignalSet::UNBLOCKABLE);
    if descriptor as i32 != -1 {
        return match &opened(&caller, descriptor)?.kind {
            FileKind::Signals(file) => {
                file.set_signals(signals);
                Ok(descriptor)
            }
            _ => Err(Errno::EINVAL),
        };
    }
    has_headroom()?;
    let kind = FileKind::Signals(SignalFile::new(&caller.thread, signals)?);
    let mode = linux::O_RDWR | flags & linux::O_NONBLOCK;
    let file = Arc::try_new(OpenFile::new(kind, None, mode))?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags & linux::O_CLOEXEC != 0, 0)
}

/// Reads signals, at least one, which it waits for.
pub async fn read(caller: &Caller, file: &OpenFile, signals: &SignalFile, pieces: &mut Pieces) -> Result<u64, Errno> {
    let mut moved = 0;
    if pieces.left() < SIZE as u64 {
        return Err(Errno::EINVAL);
    }
    while pieces.left() >= SIZE as u64 {
        let look = || pending::take(&caller.thread, signals.signals());
        let info = match look() {
            Some(info) => info,
            None if moved > 0 => break,
            None if file.is_non_blocking() => return Err(Errno::EAGAIN),
            None => {
                let wait = signals.polls_of(&caller.thread).wait_until(look);
                let wait = caller.thread.interruptible(event("signal file"), wait);
                wait.await.map_err(|_| Errno::ERESTARTSYS)?
            }
        };
        pieces.give(&caller.space, &to_bytes(&info)).await?;
        moved += SIZE as u64;
    }
    Ok(moved)
}
