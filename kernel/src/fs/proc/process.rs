//! Files about a process, or a thread of it.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use faultline_executor::yield_now;
use faultline_fallible::Vec;
use faultline_mm::{PageCounts, RegionFlags};
use linux_raw_sys::general as linux;

use super::machine::CpuList;
use super::{ProcFile, maps};
use crate::arch::smp;
use crate::fs::mount;
use crate::process::limits::{Limit, Resource};
use crate::process::thread::Name;
use crate::process::usage::Totals;
use crate::process::{Process, Thread, Tid, tree as processes};
use crate::syscall::Errno;
use crate::time::NANOSECONDS;

/// The pages that a process maps, counted piece by piece: others run in between.
pub async fn pages_of(process: &Process) -> PageCounts {
    Size::of(process).await.pages
}

/// Writes a file about the thread `tid` of a process.
///
/// # Errors
/// `ENOMEM`, `EINVAL`.
pub async fn write(
    file: ProcFile,
    process: &Process,
    tid: Tid,
    viewer: &Thread,
    to: &mut Vec<u8>,
) -> Result<(), Errno> {
    let size = match file {
        ProcFile::Status | ProcFile::Stat | ProcFile::MemoryStat => Size::of(process).await,
        _ => Size::default(),
    };
    let written = match file {
        ProcFile::Status => status(process, tid, viewer, &size, to),
        ProcFile::Stat => stat(process, tid, viewer, &size, to),
        ProcFile::MemoryStat => writeln!(
            to,
            "{} {} {} 0 0 0 0",
            size.bytes / PAGE,
            size.resident(),
            size.pages.shared + size.pages.borrowed
        ),
        ProcFile::VictimAdjustment => writeln!(to, "{}", process.victim_adjustment.load(Ordering::Relaxed)),
        ProcFile::Personality => {
            let personality =
                processes::find_thread(tid).map_or(0, |thread| thread.personality.load(Ordering::Relaxed));
            writeln!(to, "{personality:08x}")
        }
        ProcFile::Command => writeln!(to, "{}", text(&name_of(process, tid))),
        ProcFile::Limits => limits(process, to),
        ProcFile::Transfers => to.write_str(
            "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
        ),
        ProcFile::Mounts => {
            let memory = to.write_str("rootfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n");
            match mount::mounted() {
                Some(mount) => {
                    memory.and_then(|()| writeln!(to, "/dev/{} /mnt ext4 ro 0 0", mount.disk().device.name()))
                }
                None => memory,
            }
        }
        ProcFile::MountInfo => {
            let memory = to.write_str("1 1 0:1 / / rw - tmpfs rootfs rw\n2 1 0:2 / /proc rw - proc proc rw\n");
            match mount::mounted() {
                Some(mount) => {
                    let disk = mount.disk();
                    let (minor, name) = (16 * disk.index, disk.device.name());
                    memory.and_then(|()| writeln!(to, "3 1 254:{minor} / /mnt ro - ext4 /dev/{name} ro"))
                }
                None => memory,
            }
        }
        _ => return Err(Errno::EINVAL),
    };
    written.map_err(|_| Errno::ENOMEM)
}

const PAGE: u64 = 4096;

/// What a process has in memory.
#[derive(Default)]
struct Size {
    bytes: u64,
    locked: u64,
    stack: u64,
    heap: u64,
    pages: PageCounts,
}

impl Size {
    /// Counts region by region, and large ones piece by piece, letting others run in between.
    async fn of(process: &Process) -> Self {
        /// Regions, or large pieces of them, that are counted before others run.
        const TURN: usize = 32;
        let mut size = Self::default();
        let Some(space) = process.space() else { return size };
        let (mut next, mut steps, mut last_table) = (0, 0_usize, u64::MAX);
        while let Some(region) = maps::region_from(&space, next) {
            next = region.range.end();
            size.bytes += region.range.size();
            if region.flags.contains(RegionFlags::LOCKED) {
                size.locked += region.range.size();
            }
            if region.flags.contains(RegionFlags::STACK) {
                size.stack += region.range.size();
            } else {
                size.heap += region.range.size();
            }
            for piece in maps::pieces(region.range) {
                let counts = space.count_pages(piece);
                size.pages.add(counts);
                // Neighbouring regions can share their first or last table.
                let again = u64::from(last_table == piece.start() >> 21 && counts.tables > 0);
                size.pages.tables -= again;
                last_table = (piece.end() - 1) >> 21;
                steps += 1;
                if counts.tables > 0 || steps.is_multiple_of(TURN) {
                    yield_now().await;
                }
            }
        }
        size
    }

    const fn resident(&self) -> u64 {
        self.pages.own + self.pages.shared
    }
}

/// A name as text, up to its NUL.
fn text(name: &Name) -> &str {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    core::str::from_utf8(&name[..end]).unwrap_or("?")
}

fn name_of(process: &Process, tid: Tid) -> Name {
    let thread = process.find_thread(|thread| thread.tid() == tid);
    thread.map_or_else(|| process.name(), |thread| thread.name())
}

/// What a thread does, as Linux writes it.
fn state(process: &Process, tid: Tid, viewer: &Thread) -> &'static str {
    if tid == viewer.tid() {
        return "R (running)";
    }
    match process.find_thread(|thread| thread.tid() == tid) {
        None => "Z (zombie)",
        Some(_) if process.job.is_stopped() => "T (stopped)",
        Some(thread) if thread.is_waiting() => "S (sleeping)",
        Some(_) => "R (running)",
    }
}

/// What the thread has used; for the first one, what the process has.
fn used(process: &Process, tid: Tid) -> Totals {
    let other = || process.find_thread(|thread| thread.tid() == tid);
    match tid {
        _ if tid == process.pid => process.totals(),
        _ => other().map(|thread| thread.totals()).unwrap_or_default(),
    }
}

fn status(process: &Process, tid: Tid, viewer: &Thread, size: &Size, to: &mut Vec<u8>) -> fmt::Result {
    let descriptors = process.files().lock().room();
    write!(
        to,
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t{descriptors}\nGroups:\t\n",
        text(&name_of(process, tid)),
        process.umask.load(Ordering::Relaxed),
        state(process, tid, viewer),
        process.pid,
        processes::parent_of(process.pid),
    )?;
    for (name, kib) in [
        ("VmPeak:", size.bytes / 1024),
        ("VmSize:", size.bytes / 1024),
        ("VmLck:", size.locked / 1024),
        ("VmPin:", 0),
        ("VmHWM:", size.resident() * 4),
        ("VmRSS:", size.resident() * 4),
        ("RssAnon:", size.pages.own * 4),
        ("RssFile:", size.pages.borrowed * 4),
        ("RssShmem:", size.pages.shared * 4),
        ("VmData:", size.heap / 1024),
        ("VmStk:", size.stack / 1024),
        ("VmPTE:", size.pages.tables * 4),
        ("VmSwap:", size.pages.swapped * 4),
    ] {
        writeln!(to, "{name}\t{kib:>8} kB")?;
    }
    writeln!(to, "Threads:\t{}", process.thread_count())?;
    if let Some(thread) = processes::find_thread(tid) {
        let own = *thread.capabilities.lock();
        for (name, set) in [
            ("CapInh:", own.inheritable),
            ("CapPrm:", own.permitted),
            ("CapEff:", own.effective),
            ("CapBnd:", own.bounding),
            ("CapAmb:", own.ambient),
        ] {
            writeln!(to, "{name}\t{set:016x}")?;
        }
        let gave_up = thread.no_new_privileges.load(Ordering::Relaxed);
        writeln!(to, "NoNewPrivs:\t{}", u8::from(gave_up))?;
    }
    let used = used(process, tid);
    let allowed = processes::find_thread(tid).map_or(u64::MAX, |thread| thread.affinity()) & smp::all();
    write!(
        to,
        "Cpus_allowed:\t{allowed:x}\nCpus_allowed_list:\t{}\nvoluntary_ctxt_switches:\t{}\n\
         nonvoluntary_ctxt_switches:\t{}\n",
        CpuList(allowed),
        used.waits,
        used.preemptions
    )
}

fn stat(process: &Process, tid: Tid, viewer: &Thread, size: &Size, to: &mut Vec<u8>) -> fmt::Result {
    const HUNDREDTH: u64 = NANOSECONDS / 100;
    let (used, of_children) = (used(process, tid), process.child_totals());
    writeln!(
        to,
        "{tid} ({}) {} {} {} {} 0 -1 0 {} {} {} {} {} {} {} {} 20 0 {} 0 0 {} {} 18446744073709551615 0 0 0 0 0 0 0 0 \
         0 0 0 0 17 {} 0 0 0 0 0",
        text(&name_of(process, tid)),
        &state(process, tid, viewer)[..1],
        processes::parent_of(process.pid),
        process.group(),
        process.session(),
        used.minor_faults,
        of_children.minor_faults,
        used.major_faults,
        of_children.major_faults,
        used.user / HUNDREDTH,
        used.system / HUNDREDTH,
        of_children.user / HUNDREDTH,
        of_children.system / HUNDREDTH,
        process.thread_count(),
        size.bytes,
        size.resident(),
        processes::find_thread(tid).map_or(0, |thread| thread.cpu()),
    )
}

fn limits(process: &Process, to: &mut Vec<u8>) -> fmt::Result {
    const NAMES: [(u32, &str, &str); 16] = [
        (linux::RLIMIT_CPU, "Max cpu time", "seconds"),
        (linux::RLIMIT_FSIZE, "Max file size", "bytes"),
        (linux::RLIMIT_DATA, "Max data size", "bytes"),
        (linux::RLIMIT_STACK, "Max stack size", "bytes"),
        (linux::RLIMIT_CORE, "Max core file size", "bytes"),
        (linux::RLIMIT_RSS, "Max resident set", "bytes"),
        (linux::RLIMIT_NPROC, "Max processes", "processes"),
        (linux::RLIMIT_NOFILE, "Max open files", "files"),
        (linux::RLIMIT_MEMLOCK, "Max locked memory", "bytes"),
        (linux::RLIMIT_AS, "Max address space", "bytes"),
        (linux::RLIMIT_LOCKS, "Max file locks", "locks"),
        (linux::RLIMIT_SIGPENDING, "Max pending signals", "signals"),
        (linux::RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"),
        (linux::RLIMIT_NICE, "Max nice priority", ""),
        (linux::RLIMIT_RTPRIO, "Max realtime priority", ""),
        (linux::RLIMIT_RTTIME, "Max realtime timeout", "us"),
    ];
    writeln!(
        to,
        "{:<25} {:<20} {:<20} {:<10}",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    )?;
    for (number, name, unit) in NAMES {
        let Some(resource) = Resource::new(number.into()) else {
            continue;
        };
        let Limit { current, most } = process.limits.get(resource);
        write!(to, "{name:<25} ")?;
        for value in [current, most] {
            if value == Limit::INFINITY {
                write!(to, "{:<20} ", "unlimited")?;
            } else {
                write!(to, "{value:<20} ")?;
            }
        }
        writeln!(to, "{unit:<10}")?;
    }
    Ok(())
}
