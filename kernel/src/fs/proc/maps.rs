//! The address space of a process: its regions, its pages, its bytes.

use core::fmt::Write;

use faultline_executor::yield_now;
use faultline_fallible::Vec;
use faultline_mm::{Backing, PageCounts, PageRange, Protection, RegionFlags, RegionView};
use x86_64::VirtAddr;

use super::subject;
use crate::fs::tree::InTree;
use crate::machine::{Space, memory};
use crate::process::{Pid, Process};
use crate::syscall::{Errno, user};

const PAGE: u64 = 4096;

/// How much of a region is counted at a time.
const COUNTED: u64 = 64 << 20;

/// The longest path that is shown.
const LONGEST_PATH: usize = 8 * 1024;

/// Where the name of a region stands in its line.
const NAME_COLUMN: usize = 73;

/// The first region that ends above an address.
pub fn region_from(space: &Space, address: u64) -> Option<RegionView> {
    loop {
        let range = space.first_region_above(VirtAddr::try_new(address).ok()?)?;
        // The region may be gone by now; then another is the first.
        if let Some(region) = space.find_mapping(VirtAddr::new_truncate(range.start())) {
            return Some(region);
        }
    }
}

/// The parts of a range that are counted one at a time.
pub fn pieces(range: PageRange) -> impl Iterator<Item = PageRange> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let end = ((at & !(COUNTED - 1)) + COUNTED).min(range.end());
        let start = core::mem::replace(&mut at, end);
        PageRange::aligned(VirtAddr::new_truncate(start), end.checked_sub(start)?).ok()
    })
}

/// The path of the program, and the number of its file.
pub struct Program {
    path: Vec<u8>,
    start: usize,
    inode: u64,
}

impl Program {
    /// Of a process.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn of(process: &Process) -> Result<Self, Errno> {
        let node = process.started.lock().node.clone();
        let Some(node) = node else {
            return Ok(Self {
                path: Vec::new(),
                start: 0,
                inode: 0,
            });
        };
        let mut path = Vec::try_of(0, 512)?;
        let start = loop {
            match node.path(&mut path) {
                Ok(start) => break start,
                Err(Errno::ENAMETOOLONG) if path.len() < LONGEST_PATH => path = Vec::try_of(0, path.len() * 4)?,
                Err(_) => break path.len(),
            }
        };
        Ok(Self {
            path,
            start,
            inode: node.inode,
        })
    }
}

/// Writes a line for each region from the address `from` on, as Linux writes them; says where the next piece begins.
///
/// # Errors
/// `ENOMEM`.
pub fn write_regions(
    process: &Process,
    program: &Program,
    from: u64,
    size: usize,
    to: &mut Vec<u8>,
) -> Result<Option<u64>, Errno> {
    let Some(space) = process.space() else { return Ok(None) };
    let mut next = from;
    while to.len() < size {
        let Some(region) = region_from(&space, next) else {
            return Ok(None);
        };
        next = region.range.end();
        write_region(&region, program, to)?;
    }
    Ok(Some(next))
}

fn write_region(region: &RegionView, program: &Program, to: &mut Vec<u8>) -> Result<(), Errno> {
    let letter = |flag, letter| if region.protection.contains(flag) { letter } else { '-' };
    let (name, inode): (&[u8], u64) = if region.flags.contains(RegionFlags::HEAP) {
        (b"[heap]", 0)
    } else if region.flags.contains(RegionFlags::STACK) {
        (b"[stack]", 0)
    } else if region.backing.name() == "file" {
        (&program.path[program.start..], program.inode)
    } else {
        (b"", 0)
    };
    let offset = match region.backing {
        Backing::Shared { offset, .. } | Backing::Private { offset, .. } | Backing::File { offset, .. } => offset,
        _ => 0,
    };
    let begin = to.len();
    write!(
        to,
        "{:08x}-{:08x} {}{}{}{} {offset:08x} 00:{:02x} {inode} ",
        region.range.start(),
        region.range.end(),
        letter(Protection::READ, 'r'),
        letter(Protection::WRITE, 'w'),
        letter(Protection::EXECUTE, 'x'),
        if region.backing.is_shared() { 's' } else { 'p' },
        u8::from(inode != 0),
    )
    .map_err(|_| Errno::ENOMEM)?;
    write_name(begin, name, to)
}

/// Ends the line that begins at `begin` with a name, in its column.
fn write_name(begin: usize, name: &[u8], to: &mut Vec<u8>) -> Result<(), Errno> {
    if !name.is_empty() {
        while to.len() - begin < NAME_COLUMN {
            to.try_push(b' ')?;
        }
        to.try_extend_from_slice(name)?;
    }
    to.try_push(b'\n')?;
    Ok(())
}

/// What the pages of some regions are, in pages.
#[derive(Clone, Copy, Debug, Default)]
struct Smaps {
    counts: PageCounts,
    anonymous: u64,
    locked: u64,
}

impl Smaps {
    /// Counts the pages of a region, letting others run in between.
    async fn add(&mut self, space: &Space, region: &RegionView) {
        let mut counts = PageCounts::default();
        for (number, piece) in pieces(region.range).enumerate() {
            let part = space.count_pages(piece);
            counts.add(part);
            if part.tables > 0 || number % 32 == 31 {
                yield_now().await;
            }
        }
        self.counts.add(counts);
        if !matches!(region.backing, Backing::File { .. }) {
            self.anonymous += counts.own;
        }
        if region.flags.contains(RegionFlags::LOCKED) {
            self.locked += counts.resident();
        }
    }

    /// The lines that `smaps` and `smaps_rollup` have in common.
    fn write(&self, to: &mut Vec<u8>) -> Result<(), Errno> {
        let counts = &self.counts;
        let shared = counts.shared + counts.borrowed;
        for (name, pages) in [
            ("Rss:", counts.resident()),
            ("Pss:", counts.own + shared / 2),
            ("Shared_Clean:", counts.borrowed),
            ("Shared_Dirty:", counts.shared),
            ("Private_Clean:", 0),
            ("Private_Dirty:", counts.own),
            ("Referenced:", counts.referenced),
            ("Anonymous:", self.anonymous),
            ("LazyFree:", counts.lazy),
            ("AnonHugePages:", 0),
            ("ShmemPmdMapped:", 0),
            ("FilePmdMapped:", 0),
            ("Shared_Hugetlb:", 0),
            ("Private_Hugetlb:", 0),
            ("Swap:", counts.swapped),
            ("SwapPss:", counts.swapped),
            ("Locked:", self.locked),
        ] {
            writeln!(to, "{name:<15} {:>8} kB", pages * 4).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }
}

/// Writes what `smaps` says about the region at `from`; says where the next one begins.
///
/// # Errors
/// `ENOMEM`.
pub async fn write_pages(
    process: &Process,
    program: &Program,
    from: u64,
    to: &mut Vec<u8>,
) -> Result<Option<u64>, Errno> {
    let Some(space) = process.space() else { return Ok(None) };
    let Some(region) = region_from(&space, from) else {
        return Ok(None);
    };
    write_region(&region, program, to)?;
    let mut pages = Smaps::default();
    pages.add(&space, &region).await;
    let size = region.range.size() / 1024;
    for (name, kib) in [("Size:", size), ("KernelPageSize:", 4), ("MMUPageSize:", 4)] {
        writeln!(to, "{name:<15} {kib:>8} kB").map_err(|_| Errno::ENOMEM)?;
    }
    pages.write(to)?;
    let flag = |has: bool, name: &'static str| if has { name } else { "" };
    writeln!(
        to,
        "THPeligible:           0\nVmFlags: {}{}{}mr mw me {}{}",
        flag(region.protection.contains(Protection::READ), "rd "),
        flag(region.protection.contains(Protection::WRITE), "wr "),
        flag(region.protection.contains(Protection::EXECUTE), "ex "),
        flag(region.flags.contains(RegionFlags::STACK), "gd "),
        flag(region.flags.contains(RegionFlags::LOCKED), "lo "),
    )
    .map_err(|_| Errno::ENOMEM)?;
    Ok(Some(region.range.end()))
}

/// Writes the sums of `smaps` over all regions.
///
/// # Errors
/// `ENOMEM`.
pub async fn write_sums(process: &Process, to: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = process.space() else { return Ok(()) };
    let (mut pages, mut range) = (Smaps::default(), None);
    let mut next = 0;
    while let Some(region) = region_from(&space, next) {
        next = region.range.end();
        range = Some((range.map_or(region.range.start(), |(start, _)| start), next));
        pages.add(&space, &region).await;
    }
    let (start, end) = range.unwrap_or_default();
    let begin = to.len();
    write!(to, "{start:08x}-{end:08x} ---p 00000000 00:00 0 ").map_err(|_| Errno::ENOMEM)?;
    write_name(begin, b"[rollup]", to)?;
    pages.write(to)
}

/// The words of `pagemap` from `offset` on: whether a page is there, whether others have it, and its frame; or its swap slot.
///
/// # Errors
/// `EINVAL` unless whole words are asked for; `ESRCH`.
pub fn read_page_map(pid: Pid, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const SHARED: u64 = 1 << 61;
    const EXCLUSIVE: u64 = 1 << 56;
    if !offset.is_multiple_of(8) || !to.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let Some(space) = subject(pid)?.space() else {
        return Ok(0);
    };
    let mut read = 0;
    for (word, page) in to.chunks_exact_mut(8).zip(offset / 8..).take(512) {
        let address = page.saturating_mul(PAGE);
        if address >= faultline_mm::USER_END {
            break;
        }
        let value = match (space.frame_of(address), space.swap_slot_of(address)) {
            (Some((frame, shared)), _) => {
                let mark = if shared { SHARED } else { EXCLUSIVE };
                PRESENT | mark | u64::from(frame.number())
            }
            // The number of the area, 0, stands in the five lowest bits.
            (None, Some(slot)) => SWAPPED | u64::from(slot.number()) << 5,
            (None, None) => 0,
        };
        word.copy_from_slice(&value.to_le_bytes());
        read += 8;
    }
    Ok(read)
}

/// Forgets which pages of a process were accessed lately, as `clear_refs` is told: of all regions (1), of memory without a
/// file (2), or of files (3). What else it takes, soft-dirty bits (4) and the most that was in memory (5), is not kept.
///
/// # Errors
/// `EINVAL` for anything else; `ESRCH`.
pub async fn clear_references(pid: Pid, text: &[u8]) -> Result<(), Errno> {
    let (anonymous, files) = match text.trim_ascii() {
        b"1" => (true, true),
        b"2" => (true, false),
        b"3" => (false, true),
        b"4" | b"5" => return Ok(()),
        _ => return Err(Errno::EINVAL),
    };
    let Some(space) = subject(pid)?.space() else {
        return Ok(());
    };
    let mut next = 0;
    while let Some(RegionView { range, backing, .. }) = region_from(&space, next) {
        next = range.end();
        let is_file = matches!(backing, Backing::File { .. } | Backing::Private { .. });
        drop(backing);
        if if is_file { files } else { anonymous } {
            // What is unmapped meanwhile has no pages to forget.
            let _ = space.cold(range).await;
        }
        yield_now().await;
    }
    // An access by a translation that a CPU has cached would leave no mark.
    let flush = memory().flush_everywhere();
    memory().flushed_everywhere(flush).await;
    Ok(())
}

/// Reads the memory of a process.
///
/// # Errors
/// `EIO` at an address that can't be read, `ESRCH`.
pub async fn read_memory(pid: Pid, address: u64, to: &mut [u8]) -> Result<usize, Errno> {
    let Some(space) = subject(pid)?.space() else {
        return Ok(0);
    };
    let length = to.len().min((PAGE - address % PAGE) as usize);
    user::read(&space, address, &mut to[..length])
        .await
        .map_err(|_| Errno::EIO)?;
    Ok(length)
}

/// Writes the memory of a process, as the process itself could.
///
/// # Errors
/// `EIO` at an address that can't be written, `ESRCH`.
pub async fn write_memory(pid: Pid, address: u64, from: &[u8]) -> Result<usize, Errno> {
    let Some(space) = subject(pid)?.space() else {
        return Ok(0);
    };
    let length = from.len().min((PAGE - address % PAGE) as usize);
    user::write(&space, address, &from[..length])
        .await
        .map_err(|_| Errno::EIO)?;
    Ok(length)
}
