//! Calls that tell a program about the machine, its limits and itself.

use core::sync::atomic::{AtomicU64, Ordering};
use faultline_fallible::Arc;

use linux_raw_sys::general as linux;

use super::{Caller, Errno, memory, timers, user};
use crate::arch::UserContext;
use crate::process::limits::{Limit, LimitError, Resource};
use crate::process::{Process, Thread, tree};
use crate::{machine, time};

/// `ARCH_SET_GS` of `arch_prctl`.
pub const ARCH_SET_GS: u32 = 0x1001;
/// `ARCH_SET_FS` of `arch_prctl`.
pub const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
const ARCH_GET_CPUID: u64 = 0x1011;
const ARCH_SET_CPUID: u64 = 0x1012;

/// `ADDR_NO_RANDOMIZE` of `personality`: programs go where they go without chance.
pub const NO_RANDOMISATION: u32 = 0x0004_0000;
/// `UNAME26` of `personality`: the release has the form of a version 2.6.
const UNAME26: u32 = 0x0002_0000;

/// Size of the head of a robust list, which `set_robust_list` passes.
const ROBUST_HEAD: u64 = 24;

/// Most bytes of one `getrandom`; a larger call is cut short, as Linux does for large ones.
const MOST_RANDOM: u64 = 256;

/// The generator behind `getrandom`, `/dev/urandom` and `AT_RANDOM`: SplitMix64 from the configured seed, so that a run
/// can be repeated. It is no source of secrets.
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// Starts the generator from a seed.
pub fn seed_random(seed: u64) {
    RANDOM.store(seed, Ordering::Relaxed);
}

/// The output function of SplitMix64: neighbouring words become words that have nothing to do with each other.
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Fills `bytes` from the generator.
pub fn fill_random(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let word = mix(RANDOM.fetch_add(step, Ordering::Relaxed).wrapping_add(step));
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// `getrandom`.
pub async fn getrandom(caller: Caller, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(linux::GRND_NONBLOCK | linux::GRND_RANDOM | linux::GRND_INSECURE) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; MOST_RANDOM as usize];
    let bytes = &mut bytes[..length.min(MOST_RANDOM) as usize];
    fill_random(bytes);
    user::write(&caller.space, address, bytes).await?;
    Ok(bytes.len() as u64)
}

/// `uname`. The release is that of a Linux new enough for current C libraries; the version says who answers.
pub async fn uname(caller: Caller, address: u64) -> Result<u64, Errno> {
    const FIELD: usize = 65;
    let mut bytes = [0; FIELD * 6];
    let fields = [
        "Linux",
        "faultline",
        match caller.thread.personality.load(Ordering::Relaxed) & UNAME26 {
            0 => "6.12.0",
            // 60 and the second number, as Linux has it for a version 6.
            _ => "2.6.72",
        },
        concat!("Faultline ", env!("CARGO_PKG_VERSION")),
        "x86_64",
        "(none)",
    ];
    for (slot, field) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        slot[..field.len()].copy_from_slice(field.as_bytes());
    }
    user::write(&caller.space, address, &bytes).await?;
    Ok(0)
}

/// `personality`: bits that are kept; two of them mean something.
pub fn personality(thread: &Thread, wanted: u64) -> u64 {
    const ASK: u32 = u32::MAX;
    u64::from(match wanted as u32 {
        ASK => thread.personality.load(Ordering::Relaxed),
        wanted => thread.personality.swap(wanted, Ordering::Relaxed),
    })
}

/// `sysinfo`.
pub async fn sysinfo(caller: Caller, address: u64) -> Result<u64, Errno> {
    let (total, free) = machine::frame_totals();
    let processes = tree::process_count().min(0xffff);
    let swap = machine::memory().swap_stats();
    let [swap_total, swap_free] = [swap.slots, swap.slots - swap.used].map(|slots| u64::from(slots) * 4096);
    // uptime, 3 loads, total, free, shared, buffers, swap, free swap, processes, high, free high, unit
    let words = [
        time::now() / time::NANOSECONDS,
        0,
        0,
        0,
        total * 4096,
        free * 4096,
        0,
        0,
        swap_total,
        swap_free,
        processes,
        0,
        0,
        1,
    ];
    user::write_words(&caller.space, address, words).await?;
    Ok(0)
}

/// `prlimit64`, of the caller's process or another.
pub async fn prlimit64(caller: Caller, pid: u64, resource: u64, new: u64, old: u64) -> Result<u64, Errno> {
    let resource = Resource::new(u64::from(resource as u32)).ok_or(Errno::EINVAL)?;
    let limit = match new {
        0 => None,
        address => {
            let [current, most] = user::read_words(&caller.space, address).await?;
            Some(Limit { current, most })
        }
    };
    let process = match pid as u32 {
        0 => caller.thread.process.clone(),
        pid => tree::find_thread(pid).ok_or(Errno::ESRCH)?.process.clone(),
    };
    let before = match limit {
        Some(limit) => set_limit(&caller.thread, &process, resource, limit)?,
        None => process.limits.get(resource),
    };
    if old != 0 {
        user::write_words(&caller.space, old, [before.current, before.most]).await?;
    }
    Ok(0)
}

fn set_limit(caller: &Thread, process: &Arc<Process>, resource: Resource, limit: Limit) -> Result<Limit, Errno> {
    let may_raise = caller.capabilities.lock().may_raise_limits();
    let before = process
        .limits
        .set(resource, limit, may_raise)
        .map_err(|error| match error {
            LimitError::Disordered => Errno::EINVAL,
            LimitError::Raised => Errno::EPERM,
        })?;
    if resource == Resource::NOFILE {
        process.files().lock().set_limit(limit.current);
    }
    if resource == Resource::STACK
        && let Some(space) = process.space()
    {
        memory::hold_stack(process, &space);
    }
    if resource == Resource::CPU {
        timers::hold_cpu_limit(process)?;
    }
    Ok(before)
}

/// `setrlimit`.
pub async fn setrlimit(caller: Caller, resource: u64, address: u64) -> Result<u64, Errno> {
    let resource = Resource::new(u64::from(resource as u32)).ok_or(Errno::EINVAL)?;
    let [current, most] = user::read_words(&caller.space, address).await?;
    set_limit(
        &caller.thread,
        &caller.thread.process,
        resource,
        Limit { current, most },
    )
    .map(|_| 0)
}

/// `getrlimit`.
pub async fn getrlimit(caller: Caller, resource: u64, address: u64) -> Result<u64, Errno> {
    let resource = Resource::new(u64::from(resource as u32)).ok_or(Errno::EINVAL)?;
    let limit = caller.thread.process.limits.get(resource);
    user::write_words(&caller.space, address, [limit.current, limit.most]).await?;
    Ok(0)
}

/// `getcpu`: there is one node.
pub async fn getcpu(caller: Caller, cpu: u64, node: u64) -> Result<u64, Errno> {
    let here = caller.thread.cpu() as u32;
    for (address, value) in [(cpu, here), (node, 0)] {
        if address != 0 {
            user::write_u32(&caller.space, address, value).await?;
        }
    }
    Ok(0)
}

/// `arch_prctl` that sets a segment base.
///
/// # Errors
/// `EPERM` for an address outside the user half.
pub fn arch_prctl_set(context: &mut UserContext, code: u32, base: u64) -> Result<u64, Errno> {
    let set = if code == ARCH_SET_FS {
        context.set_fs_base(base)
    } else {
        context.set_gs_base(base)
    };
    if set { Ok(0) } else { Err(Errno::EPERM) }
}

/// `arch_prctl` that reads a segment base.
pub async fn arch_prctl_get(caller: Caller, code: u64, address: u64, fs: u64, gs: u64) -> Result<u64, Errno> {
    let base = match code {
        ARCH_GET_FS => fs,
        ARCH_GET_GS => gs,
        // CPUID can be used, and no thread can be kept from it.
        ARCH_GET_CPUID => return Ok(1),
        ARCH_SET_CPUID => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    };
    user::write_words(&caller.space, address, [base]).await?;
    Ok(0)
}

/// `set_robust_list`.
///
/// # Errors
/// `EINVAL` for a head of another size.
pub fn set_robust_list(thread: &Thread, head: u64, size: u64) -> Result<u64, Errno> {
    if size != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    thread.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// `get_robust_list`, of the caller or another thread.
pub async fn get_robust_list(caller: Caller, tid: u64, to: u64, size: u64) -> Result<u64, Errno> {
    let head = match tid as u32 {
        0 => caller.thread.robust_list.load(Ordering::Relaxed),
        tid => {
            let thread = tree::find_thread(tid).ok_or(Errno::ESRCH)?;
            thread.robust_list.load(Ordering::Relaxed)
        }
    };
    user::write_words(&caller.space, size, [ROBUST_HEAD]).await?;
    user::write_words(&caller.space, to, [head]).await?;
    Ok(0)
}
