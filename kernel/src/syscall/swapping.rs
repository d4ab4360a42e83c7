//! The swap area: `swapon` and `swapoff`. There is one area at a time, and it is a whole disk; what stands on the disk is
//! not looked at.

use super::paths::{AT_CWD, find};
use super::{Caller, Errno, user};
use crate::block::{self, Disk};
use crate::fs::path::LastLink;
use crate::fs::tree::{Device, NodeKind};
use crate::swap;

/// The flags of `swapon`: priorities and discarding mean nothing where there is one area.
const FLAGS: u64 = PRIORITIES | DISCARDS;

/// `SWAP_FLAG_PREFER` and a priority.
const PRIORITIES: u64 = 0xffff;

/// `SWAP_FLAG_DISCARD` and how.
const DISCARDS: u64 = 0x7_0000;

/// The disk that a path names.
async fn disk(caller: &Caller, path: u64) -> Result<&'static Disk, Errno> {
    let path = user::read_path(&caller.space, path).await?;
    let node = find(caller, AT_CWD, &path, LastLink::Follow).await?;
    match &node.kind {
        NodeKind::Device(Device::Disk(index)) => block::all().get(*index).ok_or(Errno::ENXIO),
        _ => Err(Errno::EINVAL),
    }
}

/// `swapon`.
pub async fn swapon(caller: Caller, path: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let disk = disk(&caller, path).await?;
    if swap::is_on(disk) {
        return Err(Errno::EBUSY);
    }
    swap::on(disk)?;
    log::info!("swap on {}", disk.device.name());
    Ok(0)
}

/// `swapoff`: brings back what is swapped out, or leaves everything as it is.
pub async fn swapoff(caller: Caller, path: u64) -> Result<u64, Errno> {
    let disk = disk(&caller, path).await?;
    if !swap::is_on(disk) {
        return Err(Errno::EINVAL);
    }
    swap::off().await?;
    log::info!("no swap on {} any more", disk.device.name());
    Ok(0)
}
