//! `epoll_create`, `epoll_ctl` and `epoll_wait`.

use faultline_executor::yield_now;
use faultline_fallible::{Arc, Vec};
use linux_raw_sys::general as linux;

use super::polling::{deadline_in, with_mask};
use super::transfer::opened;
use super::{Caller, Errno, has_headroom, time as clocks, user};
use crate::fs::epoll::{Epoll, Found};
use crate::fs::{FileKind, OpenFile};
use crate::process::waiting::event;
use crate::time;

/// Size of `struct epoll_event` in bytes: it is packed.
const EVENT: usize = 12;

/// Most events of one call, as on Linux.
const MOST: i32 = i32::MAX / EVENT as i32;

/// Events that are kept in the kernel at once.
const AT_ONCE: usize = 256;

/// `epoll_create`.
pub async fn epoll_create(caller: Caller, size: u64) -> Result<u64, Errno> {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(caller, 0).await
}

/// `epoll_create1`.
pub async fn epoll_create1(caller: Caller, flags: u64) -> Result<u64, Errno> {
    if flags as u32 & !linux::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    has_headroom()?;
    let file = Arc::try_new(OpenFile::new(FileKind::Epoll(Epoll::new()?), None, linux::O_RDWR))?;
    let files = caller.thread.process.files();
    files.lock().add(file, flags as u32 & linux::EPOLL_CLOEXEC != 0, 0)
}

/// The set behind a descriptor.
fn set(caller: &Caller, descriptor: u64) -> Result<Arc<Epoll>, Errno> {
    match &opened(caller, descriptor)?.kind {
        FileKind::Epoll(epoll) => Ok(epoll.clone()),
        _ => Err(Errno::EINVAL),
    }
}

/// `epoll_ctl`.
pub async fn epoll_ctl(
    caller: Caller,
    descriptor: u64,
    operation: u64,
    target: u64,
    address: u64,
) -> Result<u64, Errno> {
    let operation = operation as u32;
    let (mut wanted, mut data) = (0, 0);
    if operation != linux::EPOLL_CTL_DEL {
        let mut bytes = [0; EVENT];
        user::read(&caller.space, address, &mut bytes).await?;
        let [a, b, c, d, rest @ ..] = bytes;
        (wanted, data) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(rest));
    }
    let (own, file) = (opened(&caller, descriptor)?, opened(&caller, target)?);
    if Arc::ptr_eq(&own, &file) {
        return Err(Errno::EINVAL);
    }
    let epoll = set(&caller, descriptor)?;
    match operation {
        linux::EPOLL_CTL_ADD => {
            has_headroom()?;
            Epoll::add(&epoll, target as i32, &file, wanted, data)?;
        }
        linux::EPOLL_CTL_MOD => epoll.change(target as i32, &file, wanted, data)?,
        linux::EPOLL_CTL_DEL => epoll.remove(target as i32, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `epoll_wait`.
pub async fn epoll_wait(caller: Caller, descriptor: u64, address: u64, most: u64, timeout: u64) -> Result<u64, Errno> {
    wait(&caller, descriptor, address, most as i32, deadline_in(timeout as i32)).await
}

/// `epoll_pwait`.
pub async fn epoll_pwait(
    caller: Caller,
    descriptor: u64,
    address: u64,
    most: u64,
    timeout: u64,
    mask: u64,
) -> Result<u64, Errno> {
    let wait = wait(&caller, descriptor, address, most as i32, deadline_in(timeout as i32));
    with_mask(&caller, mask, wait).await
}

/// `epoll_pwait2`: with a `timespec`, if there is one.
pub async fn epoll_pwait2(caller: Caller, [descriptor, address, most, timeout, mask]: [u64; 5]) -> Result<u64, Errno> {
    let deadline = match timeout {
        0 => None,
        pointer => {
            let duration = clocks::from_timespec(user::read_words(&caller.space, pointer).await?)?;
            Some(time::now().saturating_add(duration))
        }
    };
    let wait = wait(&caller, descriptor, address, most as i32, deadline);
    with_mask(&caller, mask, wait).await
}

async fn wait(caller: &Caller, descriptor: u64, address: u64, most: i32, deadline: Option<u64>) -> Result<u64, Errno> {
    if !(1..=MOST).contains(&most) {
        return Err(Errno::EINVAL);
    }
    user::check_range(address, most as u64 * EVENT as u64)?;
    let epoll = set(caller, descriptor)?;
    let most = (most as usize).min(AT_ONCE);
    let mut found = Vec::try_with_capacity(most)?;
    loop {
        while epoll.collect(most, &mut found) && found.len() < most {
            yield_now().await;
        }
        if !found.is_empty() {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= time::now()) {
            return Ok(0);
        }
        let (thread, ready) = (
            &caller.thread,
            epoll.waiters.wait_until(|| epoll.may_be_ready().then_some(())),
        );
        let woken = match deadline {
            None => thread.interruptible(event("epoll"), ready).await.map(Ok),
            Some(deadline) => {
                thread
                    .interruptible(event("epoll"), time::timeout(deadline, ready))
                    .await
            }
        };
        // Unlike a `poll`, the call is not made again.
        let _ = woken.map_err(|_| Errno::EINTR)?;
    }
    if epoll.may_be_ready() {
        // What is left is for the next who waits.
        epoll.waiters.wake_one();
    }
    let reported = report(caller, address, &found).await;
    if reported.is_err() {
        epoll.put_back(&found);
    }
    reported.map(|()| found.len() as u64)
}

/// Writes the events to user memory.
async fn report(caller: &Caller, address: u64, found: &[Found]) -> Result<(), Errno> {
    for (index, found) in found.iter().enumerate() {
        let mut bytes = [0; EVENT];
        bytes[..4].copy_from_slice(&found.events.to_le_bytes());
        bytes[4..].copy_from_slice(&found.data.to_le_bytes());
        user::write(&caller.space, address.wrapping_add((index * EVENT) as u64), &bytes).await?;
    }
    Ok(())
}
