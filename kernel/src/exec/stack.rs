//! The first stack of a program: strings, auxiliary vector, environment and arguments, as the System V ABI lays them out.
//!
//! ```text
//! top   execfn string, platform string, 16 random bytes, environment and argument strings
//!       padding to 16 bytes
//!       auxiliary vector, ended by AT_NULL
//!       environment pointers, ended by 0
//!       argument pointers, ended by 0
//! sp -> argument count                                    (sp is a multiple of 16)
//! ```
//!
//! The module is pure: it computes the bytes and where they go; the loader writes them.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use linux_raw_sys::auxvec;

/// Most bytes that arguments, environment and their pointers may take together.
pub const MAX_BYTES: usize = 256 * 1024;

/// What a program is started with.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Path of the program, for `AT_EXECFN`.
    pub path: Vec<u8>,
    /// Argument strings without their terminating NUL.
    pub arguments: Vec<Vec<u8>>,
    /// Environment strings without their terminating NUL.
    pub environment: Vec<Vec<u8>>,
}

impl Arguments {
    /// Bytes these strings and their pointers will take on the stack.
    #[must_use]
    pub fn size(&self) -> usize {
        let strings = self
            .arguments
            .iter()
            .chain(&self.environment)
            .map(|string| string.len() + 1 + 8);
        strings.sum::<usize>() + self.path.len() + 1
    }
}

/// What the auxiliary vector says about the program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The program's own entry point.
    pub entry: u64,
    /// Address of the program headers.
    pub headers: u64,
    /// Number of program headers.
    pub header_count: u64,
    /// `CPUID.1:EDX`, for `AT_HWCAP`.
    pub hwcap: u64,
    /// The least size of an alternate signal stack, for `AT_MINSIGSTKSZ`.
    pub minimum_signal_stack: u64,
    /// Sixteen bytes of chance, for `AT_RANDOM`.
    pub random: [u8; 16],
}

/// The bytes of a first stack.
#[derive(Debug)]
pub struct FirstStack {
    /// Where the bytes go, which is the first value of the stack pointer.
    pub pointer: u64,
    /// The bytes, from the stack pointer up to the top.
    pub bytes: Vec<u8>,
}

/// Lays out the first stack below `top`, which must be a multiple of 16.
///
/// # Errors
/// When the kernel heap has no room for the bytes.
pub fn lay_out(top: u64, arguments: &Arguments, program: &Program) -> Result<FirstStack, TryReserveError> {
    let mut strings = Vec::new();
    let words = arguments.arguments.len() + arguments.environment.len() + 64;
    strings.try_reserve_exact(arguments.size() + 64)?;
    let mut block = Vec::new();
    block.try_reserve_exact(words * 8 + arguments.size() + 128)?;

    // Strings are collected from low to high; their addresses follow once their total size is known.
    let mut offsets = Vec::new();
    offsets.try_reserve_exact(words)?;
    for string in arguments.arguments.iter().chain(&arguments.environment) {
        offsets.push(strings.len());
        strings.extend_from_slice(string);
        strings.push(0);
    }
    let random = strings.len();
    strings.extend_from_slice(&program.random);
    let platform = strings.len();
    strings.extend_from_slice(b"x86_64\0");
    let execfn = strings.len();
    strings.extend_from_slice(&arguments.path);
    strings.push(0);
    // A null word at the very top, as Linux leaves it.
    let strings_at = (top - 8 - strings.len() as u64) & !15;

    let address = |offset: usize| strings_at + offset as u64;
    let auxiliary = [
        (auxvec::AT_HWCAP, program.hwcap),
        (auxvec::AT_PAGESZ, 4096),
        (auxvec::AT_CLKTCK, 100),
        (auxvec::AT_PHDR, program.headers),
        (auxvec::AT_PHENT, 56),
        (auxvec::AT_PHNUM, program.header_count),
        (auxvec::AT_BASE, 0),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, program.entry),
        (auxvec::AT_UID, 0),
        (auxvec::AT_EUID, 0),
        (auxvec::AT_GID, 0),
        (auxvec::AT_EGID, 0),
        (auxvec::AT_SECURE, 0),
        (auxvec::AT_RANDOM, address(random)),
        (auxvec::AT_HWCAP2, 0),
        (auxvec::AT_EXECFN, address(execfn)),
        (auxvec::AT_PLATFORM, address(platform)),
        (auxvec::AT_MINSIGSTKSZ, program.minimum_signal_stack),
        (auxvec::AT_NULL, 0),
    ];
    let pointers = 1 + arguments.arguments.len() + 1 + arguments.environment.len() + 1 + auxiliary.len() * 2;
    let pointer = (strings_at - pointers as u64 * 8) & !15;

    let mut word = |value: u64| block.extend_from_slice(&value.to_le_bytes());
    word(arguments.arguments.len() as u64);
    let (argument_offsets, environment_offsets) = offsets.split_at(arguments.arguments.len());
    argument_offsets.iter().for_each(|&offset| word(address(offset)));
    word(0);
    environment_offsets.iter().for_each(|&offset| word(address(offset)));
    word(0);
    for (kind, value) in auxiliary {
        word(u64::from(kind));
        word(value);
    }
    block.resize((strings_at - pointer) as usize, 0);
    block.extend_from_slice(&strings);
    Ok(FirstStack { pointer, bytes: block })
}
