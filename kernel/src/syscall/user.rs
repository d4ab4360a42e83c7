//! Reading and writing user memory on behalf of a call.
//!
//! Everything here resolves faults as user mode would and returns `EFAULT` for a bad address. The memory may change, or
//! go, between two of these calls: what was read once is not read again.

use core::iter;
use core::ops::Range;

use faultline_fallible::Vec;
use faultline_mm::{Access, FaultInfo, PAGE_SIZE};

use super::Errno;
use crate::exec::elf::USER_END;
use crate::heap;
use crate::machine::Space;

/// Longest path, its NUL included.
pub const PATH_MAX: usize = 4096;

/// Reads `bytes.len()` bytes.
///
/// # Errors
/// `EFAULT`.
pub async fn read(space: &Space, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    Ok(space.read_user(address, bytes).await?)
}

/// Writes `bytes`.
///
/// # Errors
/// `EFAULT`.
pub async fn write(space: &Space, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    Ok(space.write_user(address, bytes).await?)
}

/// As [`read`], as far as there is memory; says how many bytes were read, 1 at least.
///
/// # Errors
/// `EFAULT`.
pub async fn read_part(space: &Space, address: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
    if read(space, address, bytes).await.is_ok() {
        return Ok(bytes.len());
    }
    for (at, part) in parts(address, bytes.len()) {
        let done = part.start;
        match read(space, at, &mut bytes[part]).await {
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
            Ok(()) => {}
        }
    }
    Ok(bytes.len())
}

/// As [`write()`], as far as there is memory; says how many bytes were written, 1 at least.
///
/// # Errors
/// `EFAULT`.
pub async fn write_part(space: &Space, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
    if write(space, address, bytes).await.is_ok() {
        return Ok(bytes.len());
    }
    for (at, part) in parts(address, bytes.len()) {
        let done = part.start;
        match write(space, at, &bytes[part]).await {
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
            Ok(()) => {}
        }
    }
    Ok(bytes.len())
}

/// So many bytes from an address on, cut where pages end: the address of each part, and which of the bytes it has.
fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    iter::from_fn(move || {
        let at = address.wrapping_add(done as u64);
        let part = done..length.min(done + (PAGE_SIZE - at % PAGE_SIZE) as usize);
        done = part.end;
        (!part.is_empty()).then_some((at, part))
    })
}

/// Writes `bytes` if that can be done without waiting; `None` if it can't.
#[must_use]
pub fn write_now(space: &Space, address: u64, bytes: &[u8]) -> Option<()> {
    space.try_write_user(address, bytes).then_some(())
}

/// Resolves the fault that user mode would take at `address`.
///
/// # Errors
/// `EFAULT`.
pub async fn resolve(space: &Space, address: u64, access: Access) -> Result<(), Errno> {
    let fault = FaultInfo {
        address,
        access,
        user: false,
    };
    let resolved = space.handle_page_fault(fault).await;
    resolved.map(drop).map_err(|_| Errno::EFAULT)
}

/// Checks that a range of addresses is one that user mode can have.
///
/// # Errors
/// `EFAULT`.
pub fn check_range(address: u64, length: u64) -> Result<(), Errno> {
    let end = address.checked_add(length);
    if end.is_some_and(|end| end <= USER_END) {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Reads `N` words of 64 bits.
///
/// # Errors
/// `EFAULT`.
pub async fn read_words<const N: usize>(space: &Space, address: u64) -> Result<[u64; N], Errno> {
    let mut words = [[0; 8]; N];
    read(space, address, words.as_flattened_mut()).await?;
    Ok(words.map(u64::from_le_bytes))
}

/// Writes words of 64 bits.
///
/// # Errors
/// `EFAULT`.
pub async fn write_words<const N: usize>(space: &Space, address: u64, words: [u64; N]) -> Result<(), Errno> {
    write(space, address, words.map(u64::to_le_bytes).as_flattened()).await
}

/// Reads a word of 32 bits.
///
/// # Errors
/// `EFAULT`.
pub async fn read_u32(space: &Space, address: u64) -> Result<u32, Errno> {
    let mut bytes = [0; 4];
    read(space, address, &mut bytes).await?;
    Ok(u32::from_le_bytes(bytes))
}

/// Writes a word of 32 bits.
///
/// # Errors
/// `EFAULT`.
pub async fn write_u32(space: &Space, address: u64, value: u32) -> Result<(), Errno> {
    write(space, address, &value.to_le_bytes()).await
}

/// Changes a word of 32 bits in one step, as `change` says; returns the old word.
///
/// # Errors
/// `EINVAL` unless the address is a multiple of 4; `EFAULT`.
pub async fn update_u32(space: &Space, address: u64, change: impl Fn(u32) -> Option<u32>) -> Result<u32, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    loop {
        if let Some((old, _)) = space.update_user_word(address, Access::Write, &change) {
            return Ok(old);
        }
        resolve(space, address, Access::Write).await?;
    }
}

/// Reads a string up to its NUL, which is not part of the result.
///
/// # Errors
/// `EFAULT`; `long` if there is no NUL within `limit` bytes; `ENOMEM`.
pub async fn read_string(space: &Space, address: u64, limit: usize, long: Errno) -> Result<Vec<u8>, Errno> {
    let mut string = Vec::new();
    let mut chunk = [0; 128];
    loop {
        // A read that stops at the end of its page touches no page that the string may not reach.
        let at = address.wrapping_add(string.len() as u64);
        let length = chunk.len().min(4096 - (at % 4096) as usize);
        let chunk = &mut chunk[..length];
        read(space, at, chunk).await?;
        let end = chunk.iter().position(|&byte| byte == 0);
        let part = &chunk[..end.unwrap_or(length)];
        if string.len() + part.len() >= limit {
            return Err(long);
        }
        string.try_extend_from_slice(part)?;
        if end.is_some() {
            return Ok(string);
        }
    }
}

/// Reads a string up to its NUL, or up to `limit` bytes.
///
/// # Errors
/// `EFAULT`, `ENOMEM`.
pub async fn read_prefix(space: &Space, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut string = Vec::try_with_capacity(limit)?;
    while string.len() < limit {
        let mut byte = [0];
        read(space, address.wrapping_add(string.len() as u64), &mut byte).await?;
        if byte[0] == 0 {
            break;
        }
        string.try_push(byte[0])?;
    }
    Ok(string)
}

/// Reads a path.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`, `ENOMEM`.
pub async fn read_path(space: &Space, address: u64) -> Result<Vec<u8>, Errno> {
    read_string(space, address, PATH_MAX, Errno::ENAMETOOLONG).await
}

/// The largest buffer that a process which holds its share of the heap still gets.
const MOST_FOR_A_WHILE: usize = 32 * 1024;

/// A zeroed buffer on the kernel heap.
///
/// # Errors
/// `ENOMEM`.
pub fn buffer(size: usize) -> Result<Vec<u8>, Errno> {
    // A small one is given back soon.
    let bytes = if size <= MOST_FOR_A_WHILE {
        heap::for_a_while(|| Vec::try_of(0, size))
    } else {
        Vec::try_of(0, size)
    };
    Ok(bytes?)
}
