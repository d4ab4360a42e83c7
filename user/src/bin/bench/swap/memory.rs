//! Memory that is to leave, and memory that is to stay.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use faultline_user::{Mapping, PAGE, PAGE_WORDS, fail, word};

/// The bit of an entry of `/proc/PID/pagemap` that says that the page is in memory.
const PRESENT: u64 = 1 << 63;

/// Keeps what the program has mapped so far in memory: only what is mapped from here on is paged out.
pub fn lock_own() {
    // SAFETY: the call touches no memory.
    let _ = unsafe { libc::mlockall(libc::MCL_CURRENT) };
}

/// Writes the first word of every page.
pub fn fill(memory: &Mapping, seed: u64) {
    for index in (0..memory.words()).step_by(PAGE_WORDS) {
        memory.write(index, word(seed, index));
    }
}

/// Checks the first word of a page, which is a read of the page.
pub fn check(memory: &Mapping, page: usize, seed: u64) {
    let index = page * PAGE_WORDS;
    if memory.read(index) != word(seed, index) {
        fail(format_args!("page {page} came back with other content"));
    }
}

/// Pages all of it out.
pub fn page_out(memory: &Mapping) {
    if let Err(error) = memory.try_advise(0..memory.pages(), libc::MADV_PAGEOUT) {
        fail(format_args!("MADV_PAGEOUT: {error}"));
    }
}

/// The share of the pages that the page table has in memory.
pub fn present(memory: &Mapping) -> f64 {
    let read = || {
        let mut entries = vec![0; memory.pages() * 8];
        let pages = File::open("/proc/self/pagemap")?;
        pages.read_exact_at(&mut entries, (memory.address(0) as usize / PAGE * 8) as u64)?;
        let (entries, _) = entries.as_chunks();
        Ok(entries
            .iter()
            .filter(|entry| u64::from_le_bytes(**entry) & PRESENT != 0)
            .count())
    };
    let present = read().unwrap_or_else(|error: io::Error| fail(format_args!("/proc/self/pagemap: {error}")));
    present as f64 / memory.pages() as f64
}

/// The share of the pages for which no device is needed.
pub fn resident(memory: &Mapping) -> f64 {
    let resident = memory
        .try_resident()
        .unwrap_or_else(|error| fail(format_args!("mincore: {error}")));
    resident as f64 / memory.pages() as f64
}

/// Has the kernel give up the copies that it keeps of pages that are on the device too. Linux keeps them until memory is
/// short, so that all that is free is taken, and as much of them as can be had without paging out much else.
pub fn drop_copies() {
    let copies = meminfo("SwapCached:");
    if copies > 0 {
        let hog = Mapping::private((meminfo("MemFree:") + copies / 100 * 85) * 1024 / PAGE * PAGE);
        fill(&hog, 1);
    }
}

/// A figure of `/proc/meminfo` in KiB; 0 if it isn't there.
pub fn meminfo(name: &str) -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// How many faults of the program waited for a device.
pub fn major_faults() -> u64 {
    // SAFETY: 1. all zeros is a valid `rusage`. 2. the call writes to it and to nothing else.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    usage.ru_majflt.unsigned_abs()
}
