//! What a PVH loader leaves in memory (`hvm_start_info`, version 1 or later), copied before anything is written.

use core::mem::size_of;

use crate::error::Error;
use crate::memory::{MAX_RANGES, Range};

const MAGIC: u32 = 0x336e_c578;
/// E820 type of usable memory.
const RAM: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// One entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MapEntry {
    start: u64,
    size: u64,
    /// E820 type.
    pub kind: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<Module>() == 32 && size_of::<MapEntry>() == 24);

impl MapEntry {
    /// The entry's addresses.
    pub fn range(&self) -> Range {
        Range::new(self.start, self.start.saturating_add(self.size))
    }

    /// Whether this is usable memory.
    pub fn is_ram(&self) -> bool {
        self.kind == RAM
    }
}

/// A copy of everything of interest.
pub struct Machine {
    map: [MapEntry; MAX_RANGES],
    map_len: usize,
    /// The first module.
    pub module: Option<Range>,
    /// Physical address of the ACPI root pointer.
    pub rsdp: Option<u64>,
    /// Where the start info itself lies.
    pub start_info: Range,
}

impl Machine {
    /// The memory map, sorted by address, without empty entries.
    pub fn map(&self) -> &[MapEntry] {
        &self.map[..self.map_len]
    }

    /// The usable ranges.
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        self.map().iter().filter(|e| e.is_ram()).map(MapEntry::range)
    }

    /// All other ranges.
    pub fn reserved(&self) -> impl Iterator<Item = Range> {
        self.map().iter().filter(|e| !e.is_ram()).map(MapEntry::range)
    }
}

/// Copies the start info at the physical address `address`.
///
/// # Safety
/// `address` is what a PVH loader passed in EBX, the tables it points to are unchanged, and memory below 4 GiB is
/// identity mapped.
///
/// # Errors
/// [`Error::StartInfo`] if it is not a start info with a memory map.
pub unsafe fn read(address: u64) -> Result<Machine, Error> {
    // SAFETY: the caller's promise. Any aligned or unaligned address below 4 GiB can be read.
    let info = unsafe { (address as *const StartInfo).read_unaligned() };
    if info.magic != MAGIC {
        return Err(Error::StartInfo("no hvm_start_info in EBX"));
    }
    if info.version == 0 || info.memory_map_entries == 0 {
        return Err(Error::StartInfo("hvm_start_info has no memory map"));
    }
    let mut machine = Machine {
        map: [MapEntry::default(); MAX_RANGES],
        map_len: 0,
        module: None,
        rsdp: (info.rsdp != 0).then_some(info.rsdp),
        start_info: Range::new(address, address + size_of::<StartInfo>() as u64),
    };
    for index in 0..u64::from(info.memory_map_entries) {
        let at = info.memory_map + index * size_of::<MapEntry>() as u64;
        // SAFETY: the caller's promise; the loader says that the map has this many entries.
        let entry = unsafe { (at as *const MapEntry).read_unaligned() };
        if entry.size == 0 {
            continue;
        }
        let slot = machine
            .map
            .get_mut(machine.map_len)
            .ok_or(Error::StartInfo("the memory map has too many entries"))?;
        *slot = entry;
        machine.map_len += 1;
    }
    machine.map[..machine.map_len].sort_unstable_by_key(|entry| entry.start);
    if info.module_count > 0 {
        // SAFETY: the caller's promise; the loader says that there is at least one module.
        let module = unsafe { (info.modules as *const Module).read_unaligned() };
        machine.module = Some(Range::new(module.address, module.address.saturating_add(module.size)));
    }
    Ok(machine)
}
