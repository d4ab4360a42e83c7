//! What was used: `getrusage` and `times`.

use super::{Caller, Errno, user};
use crate::fs::proc;
use crate::process::usage::Totals;
use crate::time::NANOSECONDS;

const RUSAGE_SELF: i32 = 0;
const RUSAGE_CHILDREN: i32 = -1;
const RUSAGE_THREAD: i32 = 1;

/// A `struct rusage`.
pub fn words(totals: Totals, resident_kib: u64) -> [u64; 18] {
    let time = |time: u64| [time / NANOSECONDS, time % NANOSECONDS / 1000];
    let ([user, user_rest], [system, system_rest]) = (time(totals.user), time(totals.system));
    let mut words = [0; 18];
    words[..5].copy_from_slice(&[user, user_rest, system, system_rest, resident_kib]);
    words[8] = totals.minor_faults;
    words[9] = totals.major_faults;
    words[16] = totals.waits;
    words[17] = totals.preemptions;
    words
}

/// `getrusage`.
pub async fn getrusage(caller: Caller, who: i32, address: u64) -> Result<u64, Errno> {
    let process = &caller.thread.process;
    let totals = match who {
        RUSAGE_SELF => process.totals(),
        RUSAGE_CHILDREN => process.child_totals(),
        RUSAGE_THREAD => caller.thread.totals(),
        _ => return Err(Errno::EINVAL),
    };
    let resident = if who == RUSAGE_CHILDREN {
        0
    } else {
        let pages = proc::pages_of(process).await;
        (pages.own + pages.shared) * 4
    };
    user::write_words(&caller.space, address, words(totals, resident)).await?;
    Ok(0)
}

/// `times`, in hundredths of a second.
pub async fn times(caller: Caller, address: u64) -> Result<u64, Errno> {
    const HUNDREDTH: u64 = NANOSECONDS / 100;
    let process = &caller.thread.process;
    if address != 0 {
        let (own, children) = (process.totals(), process.child_totals());
        let words = [own.user, own.system, children.user, children.system].map(|time| time / HUNDREDTH);
        user::write_words(&caller.space, address, words).await?;
    }
    Ok(crate::time::now() / HUNDREDTH)
}
