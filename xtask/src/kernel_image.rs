//! The copy of the kernel that goes into the bundle: what is loaded, without symbols and debug sections.
//!
//! The host keeps the full file for back-traces. Section headers of what is loaded stay, because a boot stage may look
//! for a section by its name.

use object::build::elf::Builder;
use object::elf::SHF_ALLOC;

/// Returns `elf` without the sections that aren't loaded.
///
/// # Errors
/// Fails when `elf` isn't a well-formed ELF file.
pub fn stripped(elf: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(elf)?;
    for section in &mut builder.sections {
        let keep = section.sh_flags & SHF_ALLOC == SHF_ALLOC || section.name.as_slice() == b".shstrtab";
        section.delete = !keep;
    }
    for symbol in &mut builder.symbols {
        symbol.delete = true;
    }
    let mut image = Vec::new();
    builder.write(&mut image)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use object::Endianness;
    use object::elf::{FileHeader64, PT_LOAD};
    use object::read::elf::{FileHeader, ProgramHeader};

    use super::*;

    /// The addresses and contents of what is loaded.
    fn loaded(elf: &[u8]) -> Vec<(u64, u64, &[u8])> {
        let header = FileHeader64::<Endianness>::parse(elf).unwrap();
        let endian = header.endian().unwrap();
        let segments = header.program_headers(endian, elf).unwrap().iter();
        let segments = segments.filter(|segment| segment.p_type(endian) == PT_LOAD);
        segments
            .map(|s| (s.p_vaddr(endian), s.p_memsz(endian), s.data(endian, elf).unwrap()))
            .collect()
    }

    #[test]
    fn what_is_loaded_stays_and_debug_sections_go() {
        let full = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let image = stripped(&full).unwrap();
        let (before, after) = (loaded(&full), loaded(&image));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.0, before.1), (after.0, after.1));
        }
        let header = FileHeader64::<Endianness>::parse(image.as_slice()).unwrap();
        let endian = header.endian().unwrap();
        let sections = header.sections(endian, image.as_slice()).unwrap();
        assert!(sections.section_by_name(endian, b".text").is_some());
        assert!(sections.section_by_name(endian, b".debug_info").is_none());
        assert!(image.len() < full.len());
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(stripped(b"rubbish").is_err());
    }
}
