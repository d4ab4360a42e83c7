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
//! The strings go from their frames to the stack page by page, and the pointers with them; other tasks run in between.

use core::ops::Range;

use faultline_executor::yield_now;
use faultline_fallible::Vec;
use faultline_mm::{Backing, Protection, RegionFlags};
use linux_raw_sys::auxvec;
use x86_64::VirtAddr;

use super::ExecError;
use super::strings::Strings;
use crate::machine::Space;

/// The part of the stack that is mapped from the start; it grows by itself from there.
const FIRST_STACK: u64 = 128 * 1024;

const PAGE: u64 = 4096;

/// Bytes that are written to the stack before others run.
const TURN: u64 = 32 * 1024;

/// What a program is started with.
pub struct Arguments {
    /// Path of the program, for `AT_EXECFN`.
    pub path: Vec<u8>,
    /// What a script puts before the arguments: its interpreter, that one's argument, its own path.
    pub script: Vec<Vec<u8>>,
    /// The arguments; without the first, if there is a script.
    pub arguments: Strings,
    /// The environment.
    pub environment: Strings,
}

impl Arguments {
    /// Bytes that the strings and their pointers will take on the stack.
    #[must_use]
    pub fn size(&self) -> u64 {
        let script: u64 = self.script.iter().map(|string| string.len() as u64 + 1 + 8).sum();
        let strings = self.arguments.length() + self.environment.length() + self.path.len() as u64 + 1;
        strings + script + (self.arguments.count() + self.environment.count()) * 8
    }
}

/// What the auxiliary vector says about the program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The program's own entry point.
    pub entry: u64,
    /// Where its dynamic linker is, for `AT_BASE`; 0 without one.
    pub linker: u64,
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

/// Where the parts of a first stack are.
#[derive(Clone, Debug, Default)]
pub struct FirstStack {
    /// The first value of the stack pointer.
    pub pointer: u64,
    /// The argument strings.
    pub arguments: Range<u64>,
    /// The environment strings.
    pub environment: Range<u64>,
    /// The auxiliary vector.
    pub auxiliary: Range<u64>,
}

/// Words that go to user memory, a page at a time.
struct Words<'a> {
    space: &'a Space,
    at: u64,
    words: Vec<u8>,
}

impl<'a> Words<'a> {
    fn new(space: &'a Space, at: u64) -> Result<Self, ExecError> {
        let words = Vec::try_with_capacity(PAGE as usize)?;
        Ok(Self { space, at, words })
    }

    async fn push(&mut self, word: u64) -> Result<(), ExecError> {
        if self.words.len() as u64 == PAGE {
            self.flush().await?;
        }
        self.words.try_extend_from_slice(&word.to_le_bytes())?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ExecError> {
        self.space.write_user(self.at, &self.words).await?;
        self.at += self.words.len() as u64;
        self.words.clear();
        yield_now().await;
        Ok(())
    }
}

/// Maps the first stack below the top of the space, its strings ending `skipped` bytes below that, and writes it.
///
/// # Errors
/// What mapping and writing report; `NoKernelMemory`.
pub async fn make(
    space: &Space,
    arguments: &Arguments,
    program: &Program,
    skipped: u64,
) -> Result<FirstStack, ExecError> {
    let top = space.stack_top().as_u64();
    let first = u64::from(!arguments.script.is_empty() && arguments.arguments.count() > 0);
    let skip = if first > 0 { arguments.arguments.second() } else { 0 };
    let count = arguments.script.len() as u64 + arguments.arguments.count() - first;
    let script: u64 = arguments.script.iter().map(|string| string.len() as u64 + 1).sum();
    let argument_bytes = script + arguments.arguments.length() - skip;

    let mut tail = Vec::try_with_capacity(arguments.path.len() + 32)?;
    tail.try_extend_from_slice(&program.random)?;
    tail.try_extend_from_slice(b"x86_64\0")?;
    tail.try_extend_from_slice(&arguments.path)?;
    tail.try_push(0)?;

    // A null word at the very top, as Linux leaves it.
    let strings = argument_bytes + arguments.environment.length() + tail.len() as u64;
    let strings_at = (top - skipped - 8 - strings) & !15;
    let environment_at = strings_at + argument_bytes;
    let tail_at = environment_at + arguments.environment.length();
    let auxiliary = auxiliary(program, tail_at);
    let pointers = 1 + count + 1 + arguments.environment.count() + 1;
    let pointer = (strings_at - (pointers + auxiliary.len() as u64 * 2) * 8) & !15;
    let auxiliary_at = pointer + pointers * 8;
    let made = FirstStack {
        pointer,
        arguments: strings_at..environment_at,
        environment: environment_at..tail_at,
        auxiliary: auxiliary_at..auxiliary_at + auxiliary.len() as u64 * 16,
    };

    let size = FIRST_STACK.max((top - pointer).next_multiple_of(PAGE) + PAGE);
    space.map_with(
        VirtAddr::new_truncate(top - size),
        size,
        Protection::READ_WRITE,
        Backing::Anonymous,
        RegionFlags::STACK,
    )?;
    let mut words = Words::new(space, pointer)?;
    words.push(count).await?;
    let mut at = strings_at;
    for string in &arguments.script {
        words.push(at).await?;
        space.write_user(at, string).await?;
        // The page is zeroed: the NUL is there.
        at += string.len() as u64 + 1;
    }
    copy(&arguments.arguments, skip, at, &mut words).await?;
    words.push(0).await?;
    copy(&arguments.environment, 0, environment_at, &mut words).await?;
    words.push(0).await?;
    for (kind, value) in auxiliary {
        words.push(u64::from(kind)).await?;
        words.push(value).await?;
    }
    words.flush().await?;
    space.write_user(tail_at, &tail).await?;
    Ok(made)
}

/// Copies strings from `from` on to the address `at`, and pushes the address of each.
async fn copy(strings: &Strings, mut from: u64, mut at: u64, words: &mut Words<'_>) -> Result<(), ExecError> {
    let mut piece = Vec::try_of(0, 1024)?;
    let mut begins = true;
    loop {
        let read = strings.read(from, &mut piece);
        if read == 0 {
            return Ok(());
        }
        for (offset, &byte) in (at..).zip(&piece[..read]) {
            if begins {
                words.push(offset).await?;
            }
            begins = byte == 0;
        }
        words.space.write_user(at, &piece[..read]).await?;
        (from, at) = (from + read as u64, at + read as u64);
        if at % TURN < read as u64 {
            yield_now().await;
        }
    }
}

/// The auxiliary vector; the random bytes, the platform and the path are at `tail`.
fn auxiliary(program: &Program, tail: u64) -> [(u32, u64); 20] {
    [
        (auxvec::AT_HWCAP, program.hwcap),
        (auxvec::AT_PAGESZ, 4096),
        (auxvec::AT_CLKTCK, 100),
        (auxvec::AT_PHDR, program.headers),
        (auxvec::AT_PHENT, 56),
        (auxvec::AT_PHNUM, program.header_count),
        (auxvec::AT_BASE, program.linker),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, program.entry),
        (auxvec::AT_UID, 0),
        (auxvec::AT_EUID, 0),
        (auxvec::AT_GID, 0),
        (auxvec::AT_EGID, 0),
        (auxvec::AT_SECURE, 0),
        (auxvec::AT_RANDOM, tail),
        (auxvec::AT_HWCAP2, 0),
        (auxvec::AT_EXECFN, tail + 16 + 7),
        (auxvec::AT_PLATFORM, tail + 16),
        (auxvec::AT_MINSIGSTKSZ, program.minimum_signal_stack),
        (auxvec::AT_NULL, 0),
    ]
}
