//! `capget`, `capset`, and what `prctl` says of capabilities.

use faultline_fallible::Arc;
use linux_raw_sys::prctl as linux;

use super::{Caller, Errno, user};
use crate::process::capabilities::{Capabilities, KEEP, KEEP_LOCKED, LAST, NotPermitted};
use crate::process::{Thread, tree};

/// The versions of the interface, the last of which is the current one: the first has 32 capabilities.
const VERSIONS: [u32; 3] = [0x1998_0330, 0x2007_1026, 0x2008_0522];

impl From<NotPermitted> for Errno {
    fn from(_: NotPermitted) -> Self {
        Self::EPERM
    }
}

/// The number of 32-bit parts of each set, and the number of a thread, from the header of a call.
async fn read_header(caller: &Caller, header: u64) -> Result<(usize, i32), Errno> {
    let version = user::read_u32(&caller.space, header).await?;
    let parts = match VERSIONS.iter().position(|&known| known == version) {
        Some(0) => 1,
        Some(_) => 2,
        None => {
            user::write_u32(&caller.space, header, VERSIONS[2]).await?;
            return Err(Errno::EINVAL);
        }
    };
    let number = user::read_u32(&caller.space, header.wrapping_add(4)).await?;
    Ok((parts, number as i32))
}

/// `capget`.
pub async fn capget(caller: Caller, header: u64, to: u64) -> Result<u64, Errno> {
    let (parts, number) = match read_header(&caller, header).await {
        // Who only asks for the version has it now.
        Err(Errno::EINVAL) if to == 0 => return Ok(0),
        read => read?,
    };
    if to == 0 {
        return Ok(0);
    }
    let thread: Arc<Thread> = match u32::try_from(number) {
        Err(_) => return Err(Errno::EINVAL),
        Ok(0) => caller.thread.clone(),
        Ok(number) => tree::find_thread(number).ok_or(Errno::ESRCH)?,
    };
    let of = *thread.capabilities.lock();
    let mut bytes = [0; 24];
    for (part, bytes) in bytes.chunks_exact_mut(12).enumerate() {
        for (set, bytes) in [of.effective, of.permitted, of.inheritable]
            .iter()
            .zip(bytes.chunks_exact_mut(4))
        {
            bytes.copy_from_slice(&((set >> (32 * part)) as u32).to_le_bytes());
        }
    }
    user::write(&caller.space, to, &bytes[..12 * parts]).await?;
    Ok(0)
}

/// `capset`, of the calling thread.
pub async fn capset(caller: Caller, header: u64, from: u64) -> Result<u64, Errno> {
    let (parts, number) = read_header(&caller, header).await?;
    if number != 0 && number as u32 != caller.thread.tid() {
        return Err(Errno::EPERM);
    }
    let mut bytes = [0; 24];
    user::read(&caller.space, from, &mut bytes[..12 * parts]).await?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let set = |set: usize| u64::from(word(4 * set)) | u64::from(word(12 + 4 * set)) << 32;
    caller.thread.capabilities.lock().set(set(0), set(1), set(2))?;
    Ok(0)
}

/// The options of `prctl` that are about capabilities; none for another option.
pub fn prctl(thread: &Thread, option: u32, [argument, second, ..]: [u64; 4]) -> Option<Result<u64, Errno>> {
    let mut own = thread.capabilities.lock();
    let known = |number: u64| u32::try_from(number).ok().filter(|&number| number <= LAST);
    let result = match option {
        linux::PR_CAPBSET_READ => match known(argument) {
            Some(number) => Ok(own.bounding >> number & 1),
            None => Err(Errno::EINVAL),
        },
        linux::PR_CAPBSET_DROP => match known(argument) {
            Some(number) => own.drop_from_bounding(number).map(|()| 0).map_err(Errno::from),
            None => Err(Errno::EINVAL),
        },
        linux::PR_CAP_AMBIENT => ambient(&mut own, argument, second),
        linux::PR_GET_SECUREBITS => Ok(own.security.into()),
        linux::PR_SET_SECUREBITS => match u32::try_from(argument) {
            Ok(bits) => own.set_security(bits).map(|()| 0).map_err(Errno::from),
            Err(_) => Err(Errno::EPERM),
        },
        linux::PR_GET_KEEPCAPS => Ok(u64::from(own.security & KEEP != 0)),
        linux::PR_SET_KEEPCAPS => match argument {
            _ if argument > 1 => Err(Errno::EINVAL),
            _ if own.security & KEEP_LOCKED != 0 => Err(Errno::EPERM),
            1 => {
                own.security |= KEEP;
                Ok(0)
            }
            _ => {
                own.security &= !KEEP;
                Ok(0)
            }
        },
        _ => return None,
    };
    Some(result)
}

/// `PR_CAP_AMBIENT`.
fn ambient(own: &mut Capabilities, action: u64, capability: u64) -> Result<u64, Errno> {
    if action == u64::from(linux::PR_CAP_AMBIENT_CLEAR_ALL) {
        if capability != 0 {
            return Err(Errno::EINVAL);
        }
        own.ambient = 0;
        return Ok(0);
    }
    let number = u32::try_from(capability).ok().filter(|&number| number <= LAST);
    let number = number.ok_or(Errno::EINVAL)?;
    match u32::try_from(action).unwrap_or(u32::MAX) {
        linux::PR_CAP_AMBIENT_IS_SET => Ok(own.ambient >> number & 1),
        linux::PR_CAP_AMBIENT_RAISE => own.raise_ambient(number).map(|()| 0).map_err(Errno::from),
        linux::PR_CAP_AMBIENT_LOWER => {
            own.ambient &= !(1 << number);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
