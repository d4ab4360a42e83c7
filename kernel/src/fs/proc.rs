//! `/proc`: text that is made when the file is opened.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use faultline_mm::{Backing, Protection, RegionFlags};

use super::tree;
use crate::machine;
use crate::process::tree as processes;
use crate::statistics;
use crate::syscall::{Caller, Errno};

/// The files of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    /// `/proc/self/maps`.
    Maps,
    /// `/proc/self/status`.
    Status,
    /// `/proc/self/stat`.
    Stat,
    /// `/proc/self/statm`.
    MemoryStat,
    /// `/proc/self/cmdline`.
    CommandLine,
    /// `/proc/self/comm`.
    Command,
    /// `/proc/self/exe`: names the running program.
    Executable,
    /// `/proc/meminfo`.
    MemoryInfo,
    /// `/proc/uptime`.
    Uptime,
    /// `/proc/sys/vm/overcommit_memory`.
    Overcommit,
    /// `/proc/faultline/counters`: what this kernel counts, `name value` lines.
    Counters,
}

impl ProcFile {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Maps,
        Self::Status,
        Self::Stat,
        Self::MemoryStat,
        Self::CommandLine,
        Self::Command,
        Self::Executable,
        Self::MemoryInfo,
        Self::Uptime,
        Self::Overcommit,
        Self::Counters,
    ];

    /// Its path, from the root.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Maps => "proc/self/maps",
            Self::Status => "proc/self/status",
            Self::Stat => "proc/self/stat",
            Self::MemoryStat => "proc/self/statm",
            Self::CommandLine => "proc/self/cmdline",
            Self::Command => "proc/self/comm",
            Self::Executable => "proc/self/exe",
            Self::MemoryInfo => "proc/meminfo",
            Self::Uptime => "proc/uptime",
            Self::Overcommit => "proc/sys/vm/overcommit_memory",
            Self::Counters => "proc/faultline/counters",
        }
    }
}

/// The content of a file, as the caller sees it now.
///
/// # Errors
/// `ENOMEM` if the text does not fit into the kernel heap.
pub fn content(file: ProcFile, caller: &Caller) -> Result<Box<[u8]>, Errno> {
    let arguments = caller.thread.process.started.lock().arguments.clone();
    let text = match file {
        ProcFile::Maps => maps(caller)?,
        ProcFile::Status => status(caller),
        ProcFile::Stat => stat(caller),
        ProcFile::MemoryStat => {
            let stats = caller.space.get_stats();
            format_args_to(format_args!(
                "{} {} 0 0 0 0 0\n",
                stats.virtual_bytes / 4096,
                stats.resident_pages
            ))
        }
        ProcFile::CommandLine => {
            let mut bytes = Vec::new();
            for argument in &arguments.arguments {
                bytes.extend_from_slice(argument);
                bytes.push(0);
            }
            return Ok(bytes.into_boxed_slice());
        }
        ProcFile::Command => format_args_to(format_args!("{}\n", command(&arguments.path))),
        ProcFile::Executable => return Err(Errno::EINVAL),
        ProcFile::MemoryInfo => {
            let (total, free) = machine::frame_totals();
            let kib = |pages: u64| pages * 4;
            format_args_to(format_args!(
                "MemTotal:       {:>8} kB\nMemFree:        {:>8} kB\nMemAvailable:   {:>8} kB\n",
                kib(total),
                kib(free),
                kib(free)
            ))
        }
        ProcFile::Uptime => {
            let now = crate::time::now();
            let (seconds, rest) = (now / crate::time::NANOSECONDS, now % crate::time::NANOSECONDS);
            format_args_to(format_args!("{seconds}.{:02} 0.00\n", rest / 10_000_000))
        }
        ProcFile::Overcommit => String::from("1\n"),
        ProcFile::Counters => counters(),
    };
    Ok(text.into_bytes().into_boxed_slice())
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

/// The last part of a path, cut to the 15 characters that Linux keeps.
fn command(path: &[u8]) -> &str {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
    core::str::from_utf8(&base[..base.len().min(15)]).unwrap_or("?")
}

/// One line per region, as Linux writes them. The text of a very fragmented space can be large; it is refused before it
/// could fill the kernel heap.
fn maps(caller: &Caller) -> Result<String, Errno> {
    const LINE: usize = 128;
    let mut text = String::new();
    let stats = caller.space.get_stats();
    text.try_reserve(stats.regions * LINE)?;
    let node = caller.thread.process.started.lock().node;
    let program = node.map(|node| (node, tree::tree().path(node)));
    let program_name = program
        .as_ref()
        .and_then(|(_, path)| core::str::from_utf8(path).ok())
        .unwrap_or("");
    caller.space.mappings_ref(|region| {
        let protection = region.protection;
        let letter = |flag, letter| if protection.contains(flag) { letter } else { '-' };
        let (name, inode) = if region.flags.contains(RegionFlags::HEAP) {
            ("[heap]", 0)
        } else if region.flags.contains(RegionFlags::STACK) {
            ("[stack]", 0)
        } else if region.backing.name() == "file" {
            (program_name, program.as_ref().map_or(0, |(node, _)| node + 1))
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

fn status(caller: &Caller) -> String {
    let process = &caller.thread.process;
    let stats = caller.space.get_stats();
    let arguments = process.started.lock().arguments.clone();
    format_args_to(format_args!(
        "Name:\t{}\nState:\tR (running)\nTgid:\t{}\nPid:\t{}\nPPid:\t{}\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n\
         VmSize:\t{:>8} kB\nVmRSS:\t{:>8} kB\nThreads:\t{}\n",
        command(&arguments.path),
        process.pid,
        caller.thread.tid,
        processes::parent_of(process.pid),
        stats.virtual_bytes / 1024,
        stats.resident_pages * 4,
        process.thread_count(),
    ))
}

fn stat(caller: &Caller) -> String {
    let process = &caller.thread.process;
    let stats = caller.space.get_stats();
    let arguments = process.started.lock().arguments.clone();
    let minor = process.usage.minor_faults.load(Ordering::Relaxed);
    let major = process.usage.major_faults.load(Ordering::Relaxed);
    format_args_to(format_args!(
        "{} ({}) R {} {} {} 0 -1 0 {minor} 0 {major} 0 {} 0 0 0 20 0 {} 0 0 {} {} 18446744073709551615 0 0 0 0 0 0 0 0 \
         0 0 0 0 17 0 0 0 0 0 0\n",
        process.pid,
        command(&arguments.path),
        processes::parent_of(process.pid),
        process.group(),
        process.session.load(Ordering::Relaxed),
        process.usage.ticks.load(Ordering::Relaxed) / 10,
        process.thread_count(),
        stats.virtual_bytes,
        stats.resident_pages,
    ))
}
