//! What can be a user task: a 64-bit x86 ELF program, whole, with its dynamic linker in the machine if it asks for one.
//! Everything else is refused before anything boots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, NativeEndian};

/// Why a file can't be a user task.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// There is no such file.
    #[error("{}: no such file", .0.display())]
    Missing(PathBuf),
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nobody has the right to execute it.
    #[error("{}: nobody may execute it (its mode has no x: chmod +x)", .0.display())]
    NotExecutable(PathBuf),
    /// It is a folder.
    #[error("{}: a folder, not a program", .0.display())]
    Folder(PathBuf),
    /// The file is readable but isn't an x86-64 program that can run.
    #[error("{}: {reason}", path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: Reason,
    },
}

/// What is wrong with the content of a program file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Too short or no ELF magic.
    #[error("not an ELF file ({found})")]
    NotElf {
        /// What it is instead.
        found: &'static str,
    },
    /// ELFCLASS32.
    #[error("a 32-bit ELF file (e_ident[EI_CLASS] at offset 4); Faultline runs 64-bit programs")]
    ThirtyTwoBit,
    /// Big-endian.
    #[error("a big-endian ELF file (e_ident[EI_DATA] at offset 5); x86-64 programs are little-endian")]
    BigEndian,
    /// Another processor's program.
    #[error("built for {name} (e_machine {machine} at offset 18); Faultline runs x86-64 programs (e_machine 62)")]
    ForeignMachine {
        /// The number in the header.
        machine: u16,
        /// Its name, as far as known.
        name: &'static str,
    },
    /// An object file or a core dump.
    #[error("{name}, not an executable (e_type {kind} at offset 16)")]
    NotExecutable {
        /// The number in the header.
        kind: u16,
        /// Its name.
        name: &'static str,
    },
    /// It asks for a dynamic linker that the machine does not have.
    #[error(
        "dynamically linked: its PT_INTERP header asks for {interpreter}, which the machine does not have; give it a root \
         that does (--root DIR), or link the program statically (Rust: -C target-feature=+crt-static, C: -static)"
    )]
    Dynamic {
        /// The dynamic linker that it asks for.
        interpreter: String,
    },
    /// The file ends too early.
    #[error("truncated: {what} ends at offset {end}, the file at {length}")]
    Truncated {
        /// What lies beyond the end.
        what: String,
        /// Where it ends.
        end: u64,
        /// How long the file is.
        length: u64,
    },
    /// No loadable segment.
    #[error("nothing to load: it has no PT_LOAD header")]
    NothingToLoad,
}

/// Reads the file of a static program and checks that it can be a user task.
///
/// # Errors
/// Says what is wrong with the file, and where in it.
pub fn read(path: &Path) -> Result<Vec<u8>, Unsuitable> {
    read_for(path, |_| false)
}

/// Reads a program file and checks that it can be a user task of a machine that has the dynamic linkers that `has_linker`
/// says, by their paths.
///
/// # Errors
/// Says what is wrong with the file, and where in it.
pub fn read_for(path: &Path, has_linker: impl FnOnce(&str) -> bool) -> Result<Vec<u8>, Unsuitable> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unsuitable::Missing(path.to_owned()),
        _ => Unsuitable::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let bytes = fs::read(path).map_err(unreadable)?;
    match check_for(&bytes, has_linker) {
        Ok(()) => Ok(bytes),
        Err(reason) => Err(Unsuitable::NotAProgram {
            path: path.to_owned(),
            reason,
        }),
    }
}

/// Checks that `bytes` are a program for a machine that has the dynamic linkers that `has_linker` says, by their paths.
///
/// # Errors
/// Says what they are instead.
pub fn check_for(bytes: &[u8], has_linker: impl FnOnce(&str) -> bool) -> Result<(), Reason> {
    match check(bytes)? {
        Some(interpreter) if !has_linker(&interpreter) => Err(Reason::Dynamic { interpreter }),
        _ => Ok(()),
    }
}

/// Checks that `bytes` are a whole x86-64 ELF program; says which dynamic linker it asks for.
///
/// # Errors
/// Says what they are instead.
pub fn check(bytes: &[u8]) -> Result<Option<String>, Reason> {
    let length = bytes.len() as u64;
    let found = match bytes {
        [] => Some("it is empty"),
        [b'#', b'!', ..] => Some("it is a script"),
        [b'M', b'Z', ..] => Some("it is a Windows program"),
        [0x7f, b'E', b'L', b'F', ..] => None,
        _ => Some("the first four bytes aren't 7f 45 4c 46"),
    };
    if let Some(found) = found {
        return Err(Reason::NotElf { found });
    }
    match bytes.get(4).copied().map(elf::FileClass) {
        Some(elf::ELFCLASS32) => return Err(Reason::ThirtyTwoBit),
        Some(elf::ELFCLASS64) | None => {}
        Some(_) => {
            return Err(Reason::NotElf {
                found: "its class byte at offset 4 is neither 1 nor 2",
            });
        }
    }
    match bytes.get(5).copied().map(elf::DataEncoding) {
        Some(elf::ELFDATA2MSB) => return Err(Reason::BigEndian),
        Some(elf::ELFDATA2LSB) | None => {}
        Some(_) => {
            return Err(Reason::NotElf {
                found: "its data byte at offset 5 is neither 1 nor 2",
            });
        }
    }
    let header_end = size_of::<FileHeader64<Endianness>>() as u64;
    let truncated = |what: &str, end| {
        Err(Reason::Truncated {
            what: what.to_owned(),
            end,
            length,
        })
    };
    let Ok(header) = FileHeader64::<NativeEndian>::parse(bytes) else {
        return if length < header_end {
            truncated("the ELF header", header_end)
        } else {
            Err(Reason::NotElf {
                found: "its identification bytes are not those of ELF version 1",
            })
        };
    };
    let endian = NativeEndian;
    let machine = header.e_machine(endian);
    if machine != elf::EM_X86_64 {
        return Err(Reason::ForeignMachine {
            machine: machine.0,
            name: machine_name(machine),
        });
    }
    let name = match header.e_type(endian) {
        elf::ET_EXEC | elf::ET_DYN => None,
        elf::ET_REL => Some("an object file"),
        elf::ET_CORE => Some("a core dump"),
        _ => Some("of an unknown type"),
    };
    if let Some(name) = name {
        return Err(Reason::NotExecutable {
            kind: header.e_type(endian).0,
            name,
        });
    }
    let table_end = header
        .e_phoff(endian)
        .saturating_add(u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian)));
    let Ok(segments) = header.program_headers(endian, bytes) else {
        return truncated("the program header table", table_end);
    };
    check_segments(segments, bytes)
}

fn check_segments(segments: &[ProgramHeader64<NativeEndian>], bytes: &[u8]) -> Result<Option<String>, Reason> {
    let endian = NativeEndian;
    let length = bytes.len() as u64;
    let of_kind = |kind| {
        segments
            .iter()
            .enumerate()
            .filter(move |(_, segment)| segment.p_type(endian) == kind)
    };
    for (index, load) in of_kind(elf::PT_LOAD) {
        let end = load.p_offset(endian).saturating_add(load.p_filesz(endian));
        if end > length {
            return Err(Reason::Truncated {
                what: format!("segment {index} (PT_LOAD)"),
                end,
                length,
            });
        }
    }
    if of_kind(elf::PT_LOAD).next().is_none() {
        return Err(Reason::NothingToLoad);
    }
    Ok(of_kind(elf::PT_INTERP).next().map(|(_, segment)| {
        let path = segment.data(endian, bytes).unwrap_or_default();
        String::from_utf8_lossy(path).trim_end_matches('\0').to_owned()
    }))
}

fn machine_name(machine: elf::Machine) -> &'static str {
    match machine {
        elf::EM_386 => "32-bit x86",
        elf::EM_ARM => "32-bit ARM",
        elf::EM_AARCH64 => "AArch64",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "64-bit PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_MIPS => "MIPS",
        _ => "another processor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own program file: whole and for this processor, but dynamically linked.
    fn own() -> Vec<u8> {
        fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    /// The same with one byte of the header changed.
    fn patched(offset: usize, byte: u8) -> Vec<u8> {
        let mut bytes = own();
        bytes[offset] = byte;
        bytes
    }

    #[test]
    fn a_dynamic_program_names_its_interpreter() {
        let linker = check(&own()).unwrap().expect("it is dynamically linked");
        assert!(linker.starts_with('/'), "{linker}");
        assert_eq!(check_for(&own(), |wanted| wanted == linker), Ok(()));
        let interpreter = linker;
        assert_eq!(check_for(&own(), |_| false), Err(Reason::Dynamic { interpreter }));
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(check(b""), Err(Reason::NotElf { found: "it is empty" }));
        assert_eq!(
            check(b"#!/bin/sh\n"),
            Err(Reason::NotElf {
                found: "it is a script"
            })
        );
        assert!(matches!(check(b"hello"), Err(Reason::NotElf { .. })));
        assert!(matches!(check(&patched(4, 9)), Err(Reason::NotElf { .. })));
        assert_eq!(check(&patched(4, 1)), Err(Reason::ThirtyTwoBit));
        assert_eq!(check(&patched(5, 2)), Err(Reason::BigEndian));
        assert_eq!(
            check(&patched(18, 183)),
            Err(Reason::ForeignMachine {
                machine: 183,
                name: "AArch64"
            })
        );
        assert_eq!(
            check(&patched(16, 1)),
            Err(Reason::NotExecutable {
                kind: 1,
                name: "an object file"
            })
        );
    }

    #[test]
    fn a_file_cut_anywhere_says_what_is_missing() {
        let own = own();
        for length in [4, 5, 17, 40, 63] {
            let what = "the ELF header".to_owned();
            let expected = Reason::Truncated {
                what,
                end: 64,
                length: length as u64,
            };
            assert_eq!(check(&own[..length]), Err(expected));
        }
        let Err(Reason::Truncated { what, .. }) = check(&own[..100]) else {
            panic!("not recognised")
        };
        assert_eq!(what, "the program header table");
        let Err(Reason::Truncated { what, end, length }) = check(&own[..5000]) else {
            panic!("not recognised")
        };
        assert!(what.ends_with("(PT_LOAD)") && end > length, "{what}");
    }

    #[test]
    fn a_missing_file_and_a_folder_are_no_programs() {
        assert!(matches!(read(Path::new("/nonexistent/x")), Err(Unsuitable::Missing(_))));
        assert!(matches!(read(Path::new("/")), Err(Unsuitable::Unreadable { .. })));
    }
}
