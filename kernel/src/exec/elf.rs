//! Reading an ELF file's headers into a plan for its address space.
//!
//! This module is pure: bytes in, [`Plan`] or [`ElfError`] out, no allocation, no panic whatever the bytes say. The host
//! tests and the fuzz target include it as it stands. What a plan guarantees to the loader:
//!
//! - 1 to [`MAX_SEGMENTS`] loadable segments in ascending order, no two of which share a page;
//! - each lies within the file and below [`USER_END`], and is not both writable and executable;
//! - the file offset and the address of each agree modulo the page size;
//! - the entry point lies in an executable segment;
//! - the path of the dynamic linker, if there is one, lies within the file.
//!
//! Addresses of a position-independent plan are relative to a base that the loader chooses.

use core::fmt;
use core::ops::Range;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};

/// Page size in bytes.
const PAGE: u64 = 4096;

/// Size of the file header in bytes.
const HEADER_SIZE: usize = 64;

/// Size of one program header in bytes.
const ENTRY_SIZE: usize = 56;

/// End of what a program may map: the last page of the lower half stays unused.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// The largest extent, from the first to the last byte of all segments, that is accepted.
pub const MAX_EXTENT: u64 = 1 << 40;

/// The most loadable segments of one program.
pub const MAX_SEGMENTS: usize = 16;

/// Why a file can't be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The file ends before the structure at `offset`, which needs bytes up to `needed`.
    Truncated {
        /// Where the structure starts.
        offset: u64,
        /// The size the file would have to have.
        needed: u64,
        /// The size it has.
        size: u64,
    },
    /// The first bytes are not those of an ELF file.
    NotElf,
    /// A 32-bit program.
    NotSixtyFourBit,
    /// Built for another kind of machine (`e_machine`; 0 for a big-endian file).
    ForeignMachine(u16),
    /// Not a program: an object file, a core file or of an unknown type (`e_type`).
    NotExecutable(u16),
    /// The path of its dynamic linker (`PT_INTERP`) is empty, longer than any path, or does not end with a NUL.
    BadInterpreter {
        /// Where the path should be in the file.
        offset: u64,
        /// Its size, the NUL included.
        size: u64,
    },
    /// A field of the file header has a value that no program has.
    BadHeader {
        /// The field's name.
        field: &'static str,
        /// Where it is in the file.
        offset: u64,
    },
    /// There is nothing to load.
    NoSegments,
    /// More loadable segments than [`MAX_SEGMENTS`].
    TooManySegments(usize),
    /// A segment's size in the file is larger than its size in memory.
    FileLargerThanMemory {
        /// The segment's address.
        address: u64,
    },
    /// A segment's address and its offset in the file disagree modulo the page size.
    Misaligned {
        /// The segment's address.
        address: u64,
        /// Its offset in the file.
        offset: u64,
    },
    /// A segment lies outside user memory, wraps around, or the whole is larger than [`MAX_EXTENT`].
    TooLarge {
        /// The segment's address.
        address: u64,
        /// Its size in memory.
        size: u64,
    },
    /// A segment starts on a page that the one before it uses, or before it.
    Overlap {
        /// The address of the later segment.
        address: u64,
    },
    /// A segment is both writable and executable.
    WritableAndExecutable {
        /// The segment's address.
        address: u64,
    },
    /// The entry point lies in no executable segment.
    EntryOutside {
        /// The entry point.
        entry: u64,
    },
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { offset, needed, size } => write!(
                f,
                "the file is truncated: what starts at byte {offset} needs {needed} bytes, the file has {size}"
            ),
            Self::NotElf => f.write_str("not an ELF file"),
            Self::NotSixtyFourBit => f.write_str("a 32-bit program; only 64-bit programs can run"),
            Self::ForeignMachine(0) => f.write_str("a big-endian program; this machine is little-endian x86-64"),
            Self::ForeignMachine(machine) => {
                write!(
                    f,
                    "a program for another machine (ELF machine {machine}); this one is x86-64 (62)"
                )
            }
            Self::NotExecutable(kind) => write!(f, "not a program (ELF type {kind})"),
            Self::BadInterpreter { offset, size } => write!(
                f,
                "the {size} bytes at byte {offset} are not the path of a dynamic linker (PT_INTERP)"
            ),
            Self::BadHeader { field, offset } => {
                write!(
                    f,
                    "the ELF header's {field} at byte {offset} has a value that no program has"
                )
            }
            Self::NoSegments => f.write_str("the program has no loadable segment"),
            Self::TooManySegments(count) => {
                write!(f, "{count} loadable segments; at most {MAX_SEGMENTS} are accepted")
            }
            Self::FileLargerThanMemory { address } => {
                write!(f, "the segment at {address:#x} is larger in the file than in memory")
            }
            Self::Misaligned { address, offset } => write!(
                f,
                "the segment at {address:#x} and its file offset {offset:#x} differ modulo the page size"
            ),
            Self::TooLarge { address, size } => {
                write!(
                    f,
                    "the segment at {address:#x} of {size:#x} bytes does not fit into user memory"
                )
            }
            Self::Overlap { address } => write!(f, "the segment at {address:#x} overlaps the one before it"),
            Self::WritableAndExecutable { address } => {
                write!(f, "the segment at {address:#x} is both writable and executable")
            }
            Self::EntryOutside { entry } => write!(f, "the entry point {entry:#x} is in no executable segment"),
        }
    }
}

/// One loadable segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Address of its first byte (relative to the base for a position-independent program).
    pub address: u64,
    /// Bytes in memory; never 0.
    pub memory_size: u64,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Bytes from the file; the rest is zero.
    pub file_size: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

impl Segment {
    /// Address of the first page.
    #[must_use]
    pub const fn first_page(&self) -> u64 {
        self.address & !(PAGE - 1)
    }

    /// Address of the first byte after the last page.
    #[must_use]
    pub const fn end_page(&self) -> u64 {
        (self.address + self.memory_size + PAGE - 1) & !(PAGE - 1)
    }
}

/// What the loader has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    /// The first instruction.
    pub entry: u64,
    /// Addresses are relative to a base that the loader chooses.
    pub position_independent: bool,
    /// The alignment the base must have; at least the page size.
    pub alignment: u64,
    /// Address of the program headers in memory, for `AT_PHDR`; `None` if no segment contains them.
    pub header_address: Option<u64>,
    /// Number of program headers, for `AT_PHNUM`.
    pub header_count: u64,
    /// Where the path of its dynamic linker is in the file, the NUL that ends it included; within the file, and 2 to
    /// [`MAX_PATH`] bytes.
    pub interpreter: Option<(u64, usize)>,
}

impl Plan {
    /// The segments in ascending order of address.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// Address of the first byte after the last page of the last segment: where the heap may begin.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments().last().map_or(0, Segment::end_page)
    }
}

/// Size of the file header in bytes, which is what [`table_of`] and [`plan_of`] want of a file.
pub const HEAD: usize = HEADER_SIZE;

/// The longest path of a dynamic linker with its NUL, as on Linux.
pub const MAX_PATH: u64 = 4096;

/// The largest table of program headers, as on Linux.
const MAX_TABLE: u64 = 64 * 1024;

/// Reads the headers of `file`, which is in memory as a whole.
///
/// # Errors
/// The first thing found wrong, as [`ElfError`] says.
#[cfg(test)]
pub fn plan(file: &[u8]) -> Result<Plan, ElfError> {
    let size = file.len() as u64;
    let table = table_of(file, size)?;
    let bytes = file.get(table.start as usize..table.end as usize).unwrap_or_default();
    plan_of(file, bytes, size)
}

/// Where the program headers are in a file of `size` bytes that begins with `head`.
///
/// # Errors
/// The first thing found wrong, as [`ElfError`] says.
pub fn table_of(head: &[u8], size: u64) -> Result<Range<u64>, ElfError> {
    let header = read_header(head, size)?;
    if header.e_phnum == 0 {
        return Err(ElfError::NoSegments);
    }
    if usize::from(header.e_phentsize) != ENTRY_SIZE {
        return Err(ElfError::BadHeader {
            field: "e_phentsize",
            offset: 54,
        });
    }
    let offset = header.e_phoff;
    let length = u64::from(header.e_phnum) * ENTRY_SIZE as u64;
    let needed = offset.checked_add(length).ok_or(ElfError::BadHeader {
        field: "e_phoff",
        offset: 32,
    })?;
    if needed > size {
        return Err(ElfError::Truncated { offset, needed, size });
    }
    if length > MAX_TABLE {
        return Err(ElfError::BadHeader {
            field: "e_phnum",
            offset: 56,
        });
    }
    Ok(offset..needed)
}

/// The plan of a file of `size` bytes that begins with `head` and whose program headers are `table`.
///
/// # Errors
/// The first thing found wrong, as [`ElfError`] says.
pub fn plan_of(head: &[u8], table: &[u8], size: u64) -> Result<Plan, ElfError> {
    let header = read_header(head, size)?;
    let table = SegmentTable::new(LittleEndian, Class::ELF64, table);
    let interpreter = table.iter().find(|entry| entry.p_type == abi::PT_INTERP);
    let mut plan = Plan {
        segments: [Segment::default(); MAX_SEGMENTS],
        count: 0,
        entry: header.e_entry,
        position_independent: header.e_type == abi::ET_DYN,
        alignment: PAGE,
        header_address: table
            .iter()
            .find(|entry| entry.p_type == abi::PT_PHDR)
            .map(|entry| entry.p_vaddr),
        header_count: u64::from(header.e_phnum),
        interpreter: interpreter.map(|entry| read_interpreter(&entry, size)).transpose()?,
    };
    let loadable = |entry: &ProgramHeader| entry.p_type == abi::PT_LOAD && entry.p_memsz != 0;
    let count = table.iter().filter(loadable).count();
    if count > MAX_SEGMENTS {
        return Err(ElfError::TooManySegments(count));
    }
    for entry in table.iter().filter(loadable) {
        plan.segments[plan.count] = read_segment(&entry, size, plan.segments().last())?;
        plan.count += 1;
        if entry.p_align.is_power_of_two() && entry.p_align <= 1 << 30 {
            plan.alignment = plan.alignment.max(entry.p_align);
        }
    }
    finish(plan, header.e_phoff)
}

fn read_header(file: &[u8], size: u64) -> Result<FileHeader<LittleEndian>, ElfError> {
    if !file.starts_with(&abi::ELFMAGIC) {
        return Err(ElfError::NotElf);
    }
    let truncated = ElfError::Truncated {
        offset: 0,
        needed: HEADER_SIZE as u64,
        size,
    };
    match *file.get(abi::EI_CLASS).ok_or(truncated)? {
        abi::ELFCLASS64 => {}
        abi::ELFCLASS32 => return Err(ElfError::NotSixtyFourBit),
        _ => {
            return Err(ElfError::BadHeader {
                field: "e_ident[EI_CLASS]",
                offset: abi::EI_CLASS as u64,
            });
        }
    }
    if *file.get(abi::EI_DATA).ok_or(truncated)? == abi::ELFDATA2MSB {
        return Err(ElfError::ForeignMachine(0));
    }
    let bytes = file.get(..HEADER_SIZE).ok_or(truncated)?;
    let (identity, rest) = bytes.split_at(abi::EI_NIDENT);
    // Magic and class are known to be good: what is left are the byte order and the version.
    let identity = parse_ident::<LittleEndian>(identity).map_err(|_| ElfError::BadHeader {
        field: if bytes[abi::EI_DATA] == abi::ELFDATA2LSB {
            "e_ident[EI_VERSION]"
        } else {
            "e_ident[EI_DATA]"
        },
        offset: if bytes[abi::EI_DATA] == abi::ELFDATA2LSB {
            abi::EI_VERSION as u64
        } else {
            abi::EI_DATA as u64
        },
    })?;
    // It is as long as a header is, and any bytes are one.
    let header = FileHeader::parse_tail(identity, rest).map_err(|_| truncated)?;
    if header.e_machine != abi::EM_X86_64 {
        return Err(ElfError::ForeignMachine(header.e_machine));
    }
    if header.e_type != abi::ET_EXEC && header.e_type != abi::ET_DYN {
        return Err(ElfError::NotExecutable(header.e_type));
    }
    Ok(header)
}

/// Where the path of a dynamic linker is. Its NUL is for whoever reads it to check.
fn read_interpreter(entry: &ProgramHeader, size: u64) -> Result<(u64, usize), ElfError> {
    let (offset, length) = (entry.p_offset, entry.p_filesz);
    if !(2..=MAX_PATH).contains(&length) {
        return Err(ElfError::BadInterpreter { offset, size: length });
    }
    match offset.checked_add(length) {
        Some(needed) if needed <= size => Ok((offset, length as usize)),
        needed => Err(ElfError::Truncated {
            offset,
            needed: needed.unwrap_or(u64::MAX),
            size,
        }),
    }
}

fn read_segment(entry: &ProgramHeader, size: u64, before: Option<&Segment>) -> Result<Segment, ElfError> {
    let address = entry.p_vaddr;
    if entry.p_filesz > entry.p_memsz {
        return Err(ElfError::FileLargerThanMemory { address });
    }
    if address % PAGE != entry.p_offset % PAGE {
        return Err(ElfError::Misaligned {
            address,
            offset: entry.p_offset,
        });
    }
    let too_large = ElfError::TooLarge {
        address,
        size: entry.p_memsz,
    };
    let end = address.checked_add(entry.p_memsz).ok_or(too_large)?;
    if end > USER_END || entry.p_memsz > MAX_EXTENT {
        return Err(too_large);
    }
    let needed = entry.p_offset.checked_add(entry.p_filesz).ok_or(too_large)?;
    if needed > size {
        return Err(ElfError::Truncated {
            offset: entry.p_offset,
            needed,
            size,
        });
    }
    let segment = Segment {
        address,
        memory_size: entry.p_memsz,
        offset: entry.p_offset,
        file_size: entry.p_filesz,
        read: entry.p_flags & abi::PF_R != 0,
        write: entry.p_flags & abi::PF_W != 0,
        execute: entry.p_flags & abi::PF_X != 0,
    };
    if segment.write && segment.execute {
        return Err(ElfError::WritableAndExecutable { address });
    }
    if before.is_some_and(|before| segment.first_page() < before.end_page()) {
        return Err(ElfError::Overlap { address });
    }
    Ok(segment)
}

fn finish(mut plan: Plan, table_offset: u64) -> Result<Plan, ElfError> {
    let (Some(first), Some(last)) = (plan.segments().first(), plan.segments().last()) else {
        return Err(ElfError::NoSegments);
    };
    if last.end_page() - first.first_page() > MAX_EXTENT {
        return Err(ElfError::TooLarge {
            address: last.address,
            size: last.memory_size,
        });
    }
    let entry = plan.entry;
    let inside = |segment: &Segment| entry.wrapping_sub(segment.address) < segment.memory_size;
    if !plan.segments().iter().any(|segment| segment.execute && inside(segment)) {
        return Err(ElfError::EntryOutside { entry });
    }
    let holder = |segment: &&Segment| table_offset.wrapping_sub(segment.offset) < segment.file_size;
    if plan.header_address.is_none() {
        let segment = plan.segments().iter().find(holder);
        plan.header_address = segment.map(|segment| segment.address + (table_offset - segment.offset));
    }
    Ok(plan)
}
