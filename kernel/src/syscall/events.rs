//! `eventfd`.

use faultline_fallible::Arc;
use linux_raw_sys::general as linux;

use super::pieces::{Pieces, Source};
use super::{Caller, Errno, has_headroom, user};
use crate::fs::event::Event;
use crate::fs::{FileKind, OpenFile};
use crate::process::waiting::event;
use faultline_mm::Access;

/// What the wait-for graph calls it.
const KIND: &str = "event";

/// `eventfd2`.
///
/// # Errors
/// `EINVAL` for flags that there are not, `EMFILE`, `ENOMEM`.
pub async fn eventfd2(caller: Caller, count: u64, flags: u64) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !(linux::EFD_SEMAPHORE | linux::EFD_CLOEXEC | linux::EFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let kind = FileKind::Event(Event::new(count as u32, flags & linux::EFD_SEMAPHORE != 0)?);
    let mode = linux::O_RDWR | flags & linux::O_NONBLOCK;
    let file = Arc::try_new(OpenFile::new(kind, None, mode))?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags & linux::EFD_CLOEXEC != 0, 0)
}

/// Reads the count, waiting for one.
pub async fn read(caller: &Caller, file: &OpenFile, counter: &Event, pieces: &mut Pieces) -> Result<u64, Errno> {
    if pieces.left() < 8 {
        return Err(Errno::EINVAL);
    }
    let count = match counter.take() {
        Some(count) => count,
        None if file.is_non_blocking() => return Err(Errno::EAGAIN),
        None => {
            let wait = counter.readers.wait_until(|| counter.take());
            let wait = caller.thread.interruptible(event(KIND), wait);
            wait.await.map_err(|_| Errno::ERESTARTSYS)?
        }
    };
    pieces.give(&caller.space, &count.to_le_bytes()).await?;
    Ok(8)
}

/// Adds to the count, waiting for room.
pub async fn write(caller: &Caller, file: &OpenFile, counter: &Event, mut source: Source<'_>) -> Result<u64, Errno> {
    if source.left() < 8 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 8];
    while let Err(address) = source.read(&caller.space, &mut bytes) {
        user::resolve(&caller.space, address, Access::Read).await?;
    }
    let value = u64::from_le_bytes(bytes);
    if counter.add(value)?.is_none() {
        if file.is_non_blocking() {
            return Err(Errno::EAGAIN);
        }
        // That the value fits at some time was checked.
        let wait = counter.writers.wait_until(|| counter.add(value).unwrap_or(None));
        let wait = caller.thread.interruptible(event(KIND), wait);
        wait.await.map_err(|_| Errno::ERESTARTSYS)?;
    }
    Ok(8)
}
