//! Users and groups. There is one user and one group, whose number is 0, as in a user namespace of Linux that has no other:
//! to become that is granted, and any other number is `EINVAL`, because nobody has it.

use super::{Caller, Errno, user};

/// "Leave it as it is."
const KEEP: u32 = u32::MAX;

/// Most groups of a process, as on Linux.
const MOST_GROUPS: u64 = 65_536;

/// `setuid`, `setgid`.
///
/// # Errors
/// `EINVAL` for a number that nobody has.
pub fn set(number: u64) -> Result<u64, Errno> {
    match number as u32 {
        0 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `setreuid`, `setresuid` and those of groups: real, effective and saved number.
///
/// # Errors
/// `EINVAL` for a number that nobody has.
pub fn set_several(numbers: &[u64]) -> Result<u64, Errno> {
    match numbers.iter().all(|&number| matches!(number as u32, 0 | KEEP)) {
        true => Ok(0),
        false => Err(Errno::EINVAL),
    }
}

/// `getresuid`, `getresgid`.
///
/// # Errors
/// `EFAULT`.
pub async fn get_several(caller: Caller, places: [u64; 3]) -> Result<u64, Errno> {
    for place in places {
        user::write_u32(&caller.space, place, 0).await?;
    }
    Ok(0)
}

/// `getgroups`: none beside the own.
///
/// # Errors
/// `EINVAL` for a negative size.
pub fn getgroups(size: u64) -> Result<u64, Errno> {
    if (size as i32) < 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `setgroups`. That the own group is named, too, changes nothing.
///
/// # Errors
/// `EINVAL` for too many, and for a number that no group has; `EFAULT`.
pub async fn setgroups(caller: Caller, count: u64, list: u64) -> Result<u64, Errno> {
    let count = u64::from(count as u32);
    if count > MOST_GROUPS {
        return Err(Errno::EINVAL);
    }
    for index in 0..count {
        if user::read_u32(&caller.space, list.wrapping_add(index * 4)).await? != 0 {
            return Err(Errno::EINVAL);
        }
    }
    Ok(0)
}
