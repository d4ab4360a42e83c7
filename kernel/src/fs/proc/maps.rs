//! The address space of a process: its regions, its pages, its bytes.

use core::fmt::Write;

use faultline_executor::yield_now;
use faultline_fallible::Vec;
use faultline_mm::{Backing, PageCounts, PageRange, Protection, RegionFlags, RegionView};
use x86_64::VirtAddr;

use super::subject;
use crate::fs::tree::InTree;
use crate::machine::Space;
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
    if !name.is_empty() {
        while to.len() - begin < NAME_COLUMN {
            to.try_push(b' ')?;
        }
        to.try_extend_from_slice(name)?;
    }
    to.try_push(b'\n')?;
    Ok(())
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
    let mut counts = PageCounts::default();
    for (number, piece) in pieces(region.range).enumerate() {
        let part = space.count_pages(piece);
        counts.own += part.own;
        counts.shared += part.shared;
        counts.borrowed += part.borrowed;
        if part.tables > 0 || number % 32 == 31 {
            yield_now().await;
        }
    }
    let shared = counts.shared + counts.borrowed;
    let anonymous = if matches!(region.backing, Backing::Private { .. } | Backing::File { .. }) {
        0
    } else {
        counts.own
    };
    let locked = region.flags.contains(RegionFlags::LOCKED);
    let resident = counts.own + shared;
    for (name, kib) in [
        ("Size:", region.range.size() / 1024),
        ("KernelPageSize:", 4),
        ("MMUPageSize:", 4),
        ("Rss:", resident * 4),
        ("Pss:", (counts.own + shared / 2) * 4),
        ("Shared_Clean:", counts.borrowed * 4),
        ("Shared_Dirty:", counts.shared * 4),
        ("Private_Clean:", 0),
        ("Private_Dirty:", counts.own * 4),
        ("Referenced:", resident * 4),
        ("Anonymous:", anonymous * 4),
        ("LazyFree:", 0),
        ("AnonHugePages:", 0),
        ("ShmemPmdMapped:", 0),
        ("FilePmdMapped:", 0),
        ("Shared_Hugetlb:", 0),
        ("Private_Hugetlb:", 0),
        ("Swap:", 0),
        ("SwapPss:", 0),
        ("Locked:", if locked { resident * 4 } else { 0 }),
    ] {
        writeln!(to, "{name:<15} {kib:>8} kB").map_err(|_| Errno::ENOMEM)?;
    }
    let flag = |has: bool, name: &'static str| if has { name } else { "" };
    writeln!(
        to,
        "THPeligible:           0\nVmFlags: {}{}{}mr mw me {}{}",
        flag(region.protection.contains(Protection::READ), "rd "),
        flag(region.protection.contains(Protection::WRITE), "wr "),
        flag(region.protection.contains(Protection::EXECUTE), "ex "),
        flag(region.flags.contains(RegionFlags::STACK), "gd "),
        flag(locked, "lo "),
    )
    .map_err(|_| Errno::ENOMEM)?;
    Ok(Some(region.range.end()))
}

/// The words of `pagemap` from `offset` on: whether a page is there, whether others have it, and its frame.
///
/// # Errors
/// `EINVAL` unless whole words are asked for; `ESRCH`.
pub fn read_page_map(pid: Pid, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    const PRESENT: u64 = 1 << 63;
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
        let value = match space.frame_of(address) {
            Some((frame, shared)) => {
                let mark = if shared { SHARED } else { EXCLUSIVE };
                PRESENT | mark | u64::from(frame.number())
            }
            None => 0,
        };
        word.copy_from_slice(&value.to_le_bytes());
        read += 8;
    }
    Ok(read)
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
