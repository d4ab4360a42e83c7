//! Files about the machine.

use core::arch::x86_64::__cpuid;
use core::fmt::{self, Write};

use faultline_fallible::Vec;

use super::ProcFile;
use crate::arch::{alarm, clock, features, smp};
use crate::process::{Thread, tree as processes};
use crate::syscall::information;
use crate::{machine, statistics, swap, time};

/// Writes a file.
///
/// # Errors
/// When there is no memory for the text.
pub fn write(file: ProcFile, viewer: &Thread, to: &mut Vec<u8>) -> fmt::Result {
    match file {
        ProcFile::MemoryInfo => memory_info(to),
        ProcFile::Uptime => {
            let now = time::now();
            let (seconds, rest) = (now / time::NANOSECONDS, now % time::NANOSECONDS);
            writeln!(to, "{seconds}.{:02} 0.00", rest / 10_000_000)
        }
        ProcFile::Load => {
            let running = processes::process_count();
            writeln!(to, "0.00 0.00 0.00 1/{running} {}", viewer.process.pid)
        }
        ProcFile::Processor => processors(to),
        ProcFile::Cpus => writeln!(to, "{}", CpuList(smp::all())),
        ProcFile::Machine => totals(to),
        ProcFile::Events => events(to),
        ProcFile::Swaps => swaps(to),
        ProcFile::Version => writeln!(
            to,
            concat!("Linux version 6.12.0 (Faultline ", env!("CARGO_PKG_VERSION"), ")")
        ),
        ProcFile::MostThreads => writeln!(to, "{}", processes::MAX_THREADS),
        ProcFile::Random => {
            let mut bytes = [0; 16];
            information::fill_random(&mut bytes);
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            for (index, byte) in bytes.iter().enumerate() {
                let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(to, "{dash}{byte:02x}")?;
            }
            writeln!(to)
        }
        ProcFile::Constant(text) | ProcFile::Setting(text) => to.write_str(text),
        ProcFile::Counters => counters(to),
        ProcFile::Waits => write!(to, "{}", crate::process::waiting::Waits),
        _ => Ok(()),
    }
}

/// The account of frames, in the words of Linux.
fn memory_info(to: &mut Vec<u8>) -> fmt::Result {
    let account = machine::memory().account();
    let free = account.free + account.cached + account.zeroed;
    let (objects, from_disk) = machine::memory().object_pages();
    let swap = machine::memory().swap_stats();
    for (name, frames) in [
        ("MemTotal:", account.total),
        ("MemFree:", free),
        ("MemAvailable:", free + from_disk),
        ("Buffers:", 0),
        ("Cached:", objects),
        ("SwapCached:", swap.cached.into()),
        ("SwapTotal:", swap.slots.into()),
        ("SwapFree:", (swap.slots - swap.used).into()),
        ("Mapped:", account.mapped),
        ("Shmem:", objects - from_disk.min(objects)),
        ("PageTables:", account.page_tables),
    ] {
        writeln!(to, "{name:<16}{:>8} kB", frames * 4)?;
    }
    for name in [
        "HugePages_Total:",
        "HugePages_Free:",
        "HugePages_Rsvd:",
        "HugePages_Surp:",
    ] {
        writeln!(to, "{name:<16}{:>8}", 0)?;
    }
    writeln!(to, "{:<16}{:>8} kB", "Hugepagesize:", 2048)
}

/// The swap area, as Linux lists them.
fn swaps(to: &mut Vec<u8>) -> fmt::Result {
    writeln!(to, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")?;
    if let Some(disk) = swap::area() {
        let stats = machine::memory().swap_stats();
        let [size, used] = [stats.slots, stats.used].map(|slots| u64::from(slots) * 4);
        let name = disk.device.name();
        writeln!(to, "/dev/{name:<34} partition\t{size}\t\t{used}\t\t-2")?;
    }
    Ok(())
}

/// Names of the features in `edx` and `ecx` of CPUID leaf 1, as Linux writes them, by bit.
const FLAGS: [[&str; 32]; 2] = [
    [
        "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "", "sep", "mtrr", "pge", "mca", "cmov",
        "pat", "pse36", "pn", "clflush", "", "dts", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht", "tm", "ia64",
        "pbe",
    ],
    [
        "pni",
        "pclmulqdq",
        "dtes64",
        "monitor",
        "ds_cpl",
        "vmx",
        "smx",
        "est",
        "tm2",
        "ssse3",
        "cid",
        "sdbg",
        "fma",
        "cx16",
        "xtpr",
        "pdcm",
        "",
        "pcid",
        "dca",
        "sse4_1",
        "sse4_2",
        "x2apic",
        "movbe",
        "popcnt",
        "tsc_deadline_timer",
        "aes",
        "xsave",
        "",
        "avx",
        "f16c",
        "rdrand",
        "hypervisor",
    ],
];

fn processors(to: &mut Vec<u8>) -> fmt::Result {
    (0..smp::count()).try_for_each(|index| processor(to, index))
}

/// A set of CPUs as Linux writes it: ranges of their numbers, separated by commas.
pub struct CpuList(pub u64);

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut before) = (self.0, "");
        while rest != 0 {
            let first = rest.trailing_zeros();
            let length = (rest >> first).trailing_ones();
            write!(f, "{before}{first}")?;
            if length > 1 {
                write!(f, "-{}", first + length - 1)?;
            }
            // The bits of this range and all below it.
            rest &= u64::MAX.checked_shl(first + length).unwrap_or(0);
            before = ",";
        }
        Ok(())
    }
}

fn processor(to: &mut Vec<u8>, index: usize) -> fmt::Result {
    let count = smp::count();
    let (zero, one) = (__cpuid(0), __cpuid(1));
    let mut vendor = [0; 12];
    for (bytes, word) in vendor.chunks_exact_mut(4).zip([zero.ebx, zero.edx, zero.ecx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let part = |shift: u32, bits: u32| one.eax >> shift & ((1 << bits) - 1);
    let family = part(8, 4) + if part(8, 4) == 15 { part(20, 8) } else { 0 };
    let model = part(4, 4)
        | if matches!(part(8, 4), 6 | 15) {
            part(16, 4) << 4
        } else {
            0
        };
    let khz = clock::counter_hz() / 1000;
    write!(
        to,
        "processor\t: {index}\nvendor_id\t: {}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {}\n\
         stepping\t: {}\ncpu MHz\t\t: {}.{:03}\nphysical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {index}\ncpu cores\t: {count}\n\
         fpu\t\t: yes\nfpu_exception\t: yes\nwp\t\t: yes\nflags\t\t:",
        core::str::from_utf8(&vendor).unwrap_or("?"),
        features::brand(),
        part(0, 4),
        khz / 1000,
        khz % 1000,
    )?;
    for (register, names) in [one.edx, one.ecx].into_iter().zip(FLAGS) {
        for (bit, name) in names.into_iter().enumerate() {
            if register & 1 << bit != 0 && !name.is_empty() {
                write!(to, " {name}")?;
            }
        }
    }
    let (physical, linear) = match __cpuid(0x8000_0000).eax {
        0x8000_0008.. => {
            let sizes = __cpuid(0x8000_0008).eax;
            (sizes & 0xff, sizes >> 8 & 0xff)
        }
        _ => (36, 48),
    };
    writeln!(
        to,
        "\nbogomips\t: {}.{:02}\nclflush size\t: 64\ncache_alignment\t: 64\n\
         address sizes\t: {physical} bits physical, {linear} bits virtual\n",
        2 * khz / 1000,
        2 * khz % 1000 / 10
    )
}

fn totals(to: &mut Vec<u8>) -> fmt::Result {
    let counted = statistics::read();
    writeln!(to, "cpu  {} 0 0 0 0 0 0 0 0 0", counted.ticks / 10)?;
    for cpu in 0..smp::count() {
        writeln!(to, "cpu{cpu} {} 0 0 0 0 0 0 0 0 0", statistics::ticks_of(cpu) / 10)?;
    }
    let (started, _) = processes::started();
    let boot = (clock::wall_clock() - time::now()) / time::NANOSECONDS;
    writeln!(
        to,
        "ctxt {}\nbtime {boot}\nprocesses {started}\nprocs_running 1\nprocs_blocked 0",
        counted.switches
    )
}

fn events(to: &mut Vec<u8>) -> fmt::Result {
    let account = machine::memory().account();
    let (stats, swap) = (machine::memory().stats(), machine::memory().swap_stats());
    let (objects, from_disk) = machine::memory().object_pages();
    for (name, value) in [
        ("nr_free_pages", account.free + account.cached + account.zeroed),
        ("nr_mapped", account.mapped),
        ("nr_file_pages", objects),
        ("nr_shmem", objects - from_disk.min(objects)),
        ("nr_page_table_pages", account.page_tables),
        ("pgfault", stats.total_served()),
        ("pgmajfault", stats.device_waits),
        ("pgscan_kswapd", stats.pages_scanned),
        ("pgsteal_kswapd", stats.pages_reclaimed),
        ("pswpin", swap.reads),
        ("pswpout", swap.writes),
        ("swap_ra", swap.read_ahead),
    ] {
        writeln!(to, "{name} {value}")?;
    }
    Ok(())
}

/// What happened since the start, over the whole machine.
fn counters(to: &mut Vec<u8>) -> fmt::Result {
    let (stats, counted) = (machine::memory().stats(), statistics::read());
    for (name, value) in [
        ("faults", stats.total_served()),
        ("pool_hits", stats.pool_hits),
        ("ahead", stats.ahead),
        ("cache_hits", stats.object_hits),
        ("cache_misses", stats.object_misses),
        ("cache_read_ahead", stats.read_ahead),
        ("cache_drops", stats.object_drops),
        ("cr3_loads", stats.root_loads),
        ("invlpg", stats.tlb_pages),
        ("port_accesses", faultline_drivers::port_accesses()),
        ("syscalls", counted.syscalls),
        ("switches", counted.switches),
        ("ticks", alarm::interrupts()),
    ] {
        writeln!(to, "{name} {value}")?;
    }
    Ok(())
}
