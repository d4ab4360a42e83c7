//! `/proc`: text that is made when the file is opened.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use faultline_mm::{Backing, Protection, RegionFlags, SpaceStats};

use super::tree::{self, Node, NodeKind};
use crate::machine;
use crate::machine::Space;
use crate::process::thread::Name;
use crate::process::{Pid, Process, tree as processes};
use crate::statistics;
use crate::syscall::{Caller, Errno};

/// The files of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    /// `/proc/PID/maps`.
    Maps,
    /// `/proc/PID/status`.
    Status,
    /// `/proc/PID/stat`.
    Stat,
    /// `/proc/PID/statm`.
    MemoryStat,
    /// `/proc/PID/cmdline`.
    CommandLine,
    /// `/proc/PID/comm`.
    Command,
    /// `/proc/PID/exe`: names the running program.
    Executable,
    /// `/proc/meminfo`.
    MemoryInfo,
    /// `/proc/uptime`.
    Uptime,
    /// `/proc/loadavg`.
    Load,
    /// `/proc/sys/vm/overcommit_memory`.
    Overcommit,
    /// `/proc/faultline/counters`: what happened since the start, one `name count` a line. Not in Linux.
    Counters,
    /// `/proc/faultline/waits`: which task waits for what since when, and the cycles. Not in Linux.
    Waits,
}

impl ProcFile {
    /// Those in the directory of each process.
    pub const OF_PROCESS: &'static [Self] = &[
        Self::Maps,
        Self::Status,
        Self::Stat,
        Self::MemoryStat,
        Self::CommandLine,
        Self::Command,
        Self::Executable,
    ];

    /// Those of the machine.
    pub const OF_MACHINE: &'static [Self] = &[
        Self::MemoryInfo,
        Self::Uptime,
        Self::Load,
        Self::Overcommit,
        Self::Counters,
        Self::Waits,
    ];

    /// Its name in the directory of a process, or its path in `/proc`.
    #[must_use]
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Maps => b"maps",
            Self::Status => b"status",
            Self::Stat => b"stat",
            Self::MemoryStat => b"statm",
            Self::CommandLine => b"cmdline",
            Self::Command => b"comm",
            Self::Executable => b"exe",
            Self::MemoryInfo => b"meminfo",
            Self::Uptime => b"uptime",
            Self::Load => b"loadavg",
            Self::Overcommit => b"sys/vm/overcommit_memory",
            Self::Counters => b"faultline/counters",
            Self::Waits => b"faultline/waits",
        }
    }
}

/// `/proc` itself, as long as there is a tree.
pub fn directory() -> Option<Arc<Node>> {
    tree::root().child(b"proc").ok()
}

/// The directory of the process whose number is written as `name`.
pub fn process_directory(name: &[u8]) -> Option<Arc<Node>> {
    let pid: Pid = core::str::from_utf8(name).ok()?.parse().ok()?;
    processes::find_process(pid)?;
    Node::numbered(NodeKind::Process(pid), 0o555, PROCESS_INODES + u64::from(pid) * 16).ok()
}

/// A file in the directory of a process.
pub fn file_of_process(pid: Pid, name: &[u8]) -> Option<Arc<Node>> {
    let index = ProcFile::OF_PROCESS.iter().position(|file| file.name() == name)?;
    let inode = PROCESS_INODES + u64::from(pid) * 16 + 1 + index as u64;
    let kind = NodeKind::Proc(ProcFile::OF_PROCESS[index], Some(pid));
    Node::numbered(kind, 0o444, inode).ok()
}

/// The number of the first node of the first process; those of the tree are below.
const PROCESS_INODES: u64 = 1 << 40;

/// The content of a file now.
///
/// # Errors
/// `ENOMEM` if the text does not fit into the kernel heap, `ESRCH` if the process is gone.
pub fn content(file: ProcFile, pid: Option<Pid>, caller: &Caller) -> Result<Box<[u8]>, Errno> {
    let process = match pid {
        None => caller.thread.process.clone(),
        Some(pid) => processes::find_process(pid).ok_or(Errno::ESRCH)?,
    };
    let arguments = process.started.lock().arguments.clone();
    let text = match file {
        ProcFile::Maps => process
            .space()
            .map_or(Ok(String::new()), |space| maps(&process, &space))?,
        ProcFile::Status => status(&process, caller),
        ProcFile::Stat => stat(&process, caller),
        ProcFile::MemoryStat => {
            let stats = stats(&process);
            format_args_to(format_args!(
                "{} {} {} 0 0 0 0\n",
                stats.virtual_bytes / 4096,
                stats.resident_pages,
                stats.shared_pages,
            ))
        }
        ProcFile::CommandLine => {
            let mut bytes = Vec::new();
            if let Some(arguments) = arguments {
                bytes.try_reserve(arguments.size())?;
                for argument in &arguments.arguments {
                    bytes.extend_from_slice(argument);
                    bytes.push(0);
                }
            }
            return Ok(bytes.into_boxed_slice());
        }
        ProcFile::Command => format_args_to(format_args!("{}\n", command(&process.name()))),
        ProcFile::Executable => return Err(Errno::EINVAL),
        ProcFile::MemoryInfo => memory_info(),
        ProcFile::Uptime => {
            let now = crate::time::now();
            let (seconds, rest) = (now / crate::time::NANOSECONDS, now % crate::time::NANOSECONDS);
            format_args_to(format_args!("{seconds}.{:02} 0.00\n", rest / 10_000_000))
        }
        ProcFile::Load => {
            let mut running = 0;
            processes::for_each_living(|process| running += u32::from(process.thread_count() > 0));
            format_args_to(format_args!(
                "0.00 0.00 0.00 1/{running} {}\n",
                caller.thread.process.pid
            ))
        }
        ProcFile::Overcommit => String::from("1\n"),
        ProcFile::Counters => counters(),
        ProcFile::Waits => format_args_to(format_args!("{}", crate::process::waiting::Waits)),
    };
    Ok(text.into_bytes().into_boxed_slice())
}

/// The account of frames, in the words of Linux.
fn memory_info() -> String {
    let account = machine::memory().account();
    let free = account.free + account.cached + account.zeroed;
    let kib = |frames: u64| frames * 4;
    let mut text = String::new();
    for (name, frames) in [
        ("MemTotal", account.total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Mapped", account.mapped),
        ("PageTables", account.page_tables),
    ] {
        let _ = writeln!(text, "{:<16}{:>8} kB", alloc::format!("{name}:"), kib(frames));
    }
    text
}

fn stats(process: &Process) -> SpaceStats {
    process
        .space()
        .map_or_else(SpaceStats::default, |space| space.get_stats())
}

/// What happened since the start, over the whole machine.
fn counters() -> String {
    let (stats, counted) = (machine::memory().stats(), statistics::read());
    let mut text = String::new();
    for (name, value) in [
        ("faults", stats.total_served()),
        ("pool_hits", stats.pool_hits),
        ("cr3_loads", stats.root_loads),
        ("invlpg", stats.tlb_pages),
        ("port_accesses", faultline_drivers::port_accesses()),
        ("syscalls", counted.syscalls),
        ("switches", counted.switches),
        ("ticks", crate::arch::clock::ticks()),
    ] {
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// Formatting into a string fails only where a `Display` does; none of those here does.
fn format_args_to(text: core::fmt::Arguments<'_>) -> String {
    let mut line = String::new();
    let _ = line.write_fmt(text);
    line
}

/// A name as text, up to its NUL.
fn command(name: &Name) -> &str {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    core::str::from_utf8(&name[..end]).unwrap_or("?")
}

/// One line per region, as Linux writes them. The text of a very fragmented space can be large; it is refused before it
/// could fill the kernel heap.
fn maps(process: &Process, space: &Space) -> Result<String, Errno> {
    const LINE: usize = 128;
    let mut text = String::new();
    text.try_reserve(space.get_stats().regions * LINE)?;
    let node = process.started.lock().node.clone();
    let path = node.as_ref().and_then(Node::path).unwrap_or_default();
    let program_name = core::str::from_utf8(&path).unwrap_or("");
    let program_inode = node.map_or(0, |node| node.inode);
    space.mappings_ref(|region| {
        let protection = region.protection;
        let letter = |flag, letter| if protection.contains(flag) { letter } else { '-' };
        let (name, inode) = if region.flags.contains(RegionFlags::HEAP) {
            ("[heap]", 0)
        } else if region.flags.contains(RegionFlags::STACK) {
            ("[stack]", 0)
        } else if region.backing.name() == "file" {
            (program_name, program_inode)
        } else {
            ("", 0)
        };
        let offset = match region.backing {
            Backing::Shared { offset, .. } | Backing::File { offset, .. } => offset,
            _ => 0,
        };
        let _ = write!(
            text,
            "{:08x}-{:08x} {}{}{}{} {:08x} 00:{:02x} {inode:<10}",
            region.range.start(),
            region.range.end(),
            letter(Protection::READ, 'r'),
            letter(Protection::WRITE, 'w'),
            letter(Protection::EXECUTE, 'x'),
            if region.backing.is_shared() { 's' } else { 'p' },
            offset,
            u8::from(inode != 0),
        );
        let _ = writeln!(text, "{}{name}", if name.is_empty() { "" } else { "                " });
    });
    Ok(text)
}

/// The letter for what a process does, as Linux writes it.
fn state(process: &Process, caller: &Caller) -> &'static str {
    if process.pid == caller.thread.process.pid {
        "R (running)"
    } else if process.thread_count() == 0 {
        "Z (zombie)"
    } else if process.job.is_stopped() {
        "T (stopped)"
    } else {
        "S (sleeping)"
    }
}

/// Bytes that `mlock` and its like have locked.
fn locked_bytes(process: &Process) -> u64 {
    let mut bytes = 0;
    if let Some(space) = process.space() {
        space.mappings_ref(|region| {
            if region.flags.contains(RegionFlags::LOCKED) {
                bytes += region.range.size();
            }
        });
    }
    bytes
}

fn status(process: &Process, caller: &Caller) -> String {
    let stats = stats(process);
    format_args_to(format_args!(
        "Name:\t{}\nState:\t{}\nTgid:\t{}\nPid:\t{}\nPPid:\t{}\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n\
         VmSize:\t{:>8} kB\nVmLck:\t{:>8} kB\nVmRSS:\t{:>8} kB\nVmPTE:\t{:>8} kB\nThreads:\t{}\n",
        command(&process.name()),
        state(process, caller),
        process.pid,
        process.pid,
        processes::parent_of(process.pid),
        stats.virtual_bytes / 1024,
        locked_bytes(process) / 1024,
        stats.resident_pages * 4,
        stats.table_pages * 4,
        process.thread_count(),
    ))
}

fn stat(process: &Process, caller: &Caller) -> String {
    let stats = stats(process);
    let minor = process.usage.minor_faults.load(Ordering::Relaxed);
    let major = process.usage.major_faults.load(Ordering::Relaxed);
    format_args_to(format_args!(
        "{} ({}) {} {} {} {} 0 -1 0 {minor} 0 {major} 0 {} 0 0 0 20 0 {} 0 0 {} {} 18446744073709551615 0 0 0 0 0 0 0 0 \
         0 0 0 0 17 0 0 0 0 0 0\n",
        process.pid,
        command(&process.name()),
        &state(process, caller)[..1],
        processes::parent_of(process.pid),
        process.group(),
        process.session(),
        process.usage.ticks.load(Ordering::Relaxed) / 10,
        process.thread_count(),
        stats.virtual_bytes,
        stats.resident_pages,
    ))
}
