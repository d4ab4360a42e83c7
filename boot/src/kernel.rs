//! The kernel file: a static 64-bit ELF executable, linked in the upper half, with a `bootloader_api` configuration.

use bootloader_api::BootloaderConfig;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use x86_64::structures::paging::PageTableFlags;

use crate::error::Error;
use crate::memory::{FreeMemory, PAGE};
use crate::paging::Tables;

/// Start of the upper half.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// A kernel file that can be loaded.
pub struct Kernel<'a> {
    elf: ElfBytes<'a, LittleEndian>,
    /// The whole file.
    pub file: &'a [u8],
    /// What the kernel asks for.
    pub config: BootloaderConfig,
}

impl<'a> Kernel<'a> {
    /// Reads the headers and the configuration.
    ///
    /// # Errors
    /// [`Error::Kernel`] if this is not a kernel that the stage can load.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| Error::Kernel("not a whole ELF file"))?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            return Err(Error::Kernel("not a 64-bit x86 file"));
        }
        if elf.ehdr.e_type != ET_EXEC {
            return Err(Error::Kernel("not a static executable (ET_EXEC)"));
        }
        let section = elf
            .section_header_by_name(".bootloader-config")
            .ok()
            .flatten()
            .ok_or(Error::Kernel("no section .bootloader-config"))?;
        let (data, _) = elf.section_data(&section).map_err(|_| Error::Kernel("truncated"))?;
        let config = BootloaderConfig::deserialize(data)
            .map_err(|_| Error::Kernel("its .bootloader-config is of another bootloader_api version"))?;
        Ok(Self { elf, file, config })
    }

    /// Virtual address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.elf.ehdr.e_entry
    }

    /// The thread-local storage template, if there is one.
    pub fn tls(&self) -> Option<ProgramHeader> {
        self.elf.segments()?.iter().find(|segment| segment.p_type == PT_TLS)
    }

    /// Copies every segment into fresh frames and maps it at its link address: code read-execute, constants
    /// read-only, data read-write.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a segment that is writable and executable, truncated, or outside the upper half;
    /// [`Error::Memory`] and [`Error::Map`] if it does not fit.
    pub fn load(&self, memory: &mut FreeMemory, tables: &mut Tables) -> Result<(), Error> {
        let segments = self.elf.segments().ok_or(Error::Kernel("no program headers"))?;
        for segment in segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_memsz > 0) {
            let mut flags = PageTableFlags::PRESENT;
            match (segment.p_flags & PF_W != 0, segment.p_flags & PF_X != 0) {
                (true, true) => return Err(Error::Kernel("a segment is both writable and executable")),
                (true, false) => flags |= PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
                (false, true) => {}
                (false, false) => flags |= PageTableFlags::NO_EXECUTE,
            }
            let data = self
                .elf
                .segment_data(&segment)
                .map_err(|_| Error::Kernel("truncated"))?;
            let start = segment.p_vaddr & !(PAGE - 1);
            let end = segment
                .p_vaddr
                .checked_add(segment.p_memsz)
                .filter(|_| start >= UPPER_HALF);
            let end = end.ok_or(Error::Kernel("a segment is not in the upper half"))?;
            if data.len() as u64 > segment.p_memsz {
                return Err(Error::Kernel("a segment is longer in the file than in memory"));
            }

            let frames = memory.allocate(end - start)?;
            // SAFETY: 1. The frames were just taken from free memory below 4 GiB, so they are identity mapped and
            // nobody else uses them. 2. The segment's data fits behind its offset in the first page (checked above).
            unsafe {
                (frames.start as *mut u8).write_bytes(0, frames.len() as usize);
                let target = (frames.start + (segment.p_vaddr - start)) as *mut u8;
                target.copy_from_nonoverlapping(data.as_ptr(), data.len());
            }
            tables.map(memory, "the kernel", start, frames, flags)?;
        }
        Ok(())
    }
}
