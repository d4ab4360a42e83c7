//! Where the parts of a program go: address-space randomisation.
//!
//! With seed 0 every part is where Linux puts it without randomisation. With another seed each part is moved by chance,
//! as far as Linux moves it:
//!
//! | part | moved | by at most |
//! |---|---|---|
//! | a position-independent program | up, in pages, or in steps of its own alignment if that is larger | 1 TiB |
//! | the heap | up from the end of the program, in pages | 32 MiB |
//! | the mmap area | down from the stack's guard, in pages | 1 TiB |
//! | the stack | down, in pages | 16 GiB |
//! | the first stack pointer | down from there, in steps of 16 bytes | 8 KiB |
//!
//! The chance is a function of the seed, of the number of the process, and of how many programs it has loaded: the same
//! run has the same places, whatever other processes do meanwhile, and each `execve` has new ones.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::process::Pid;
use crate::syscall::information::mix;

const PAGE: u64 = 4096;

/// Where position-independent programs go at the lowest: two thirds up the user half.
const POSITION_INDEPENDENT_BASE: u64 = 0x5555_5555_4000;

/// The seed of the run; 0 for no randomisation.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Sets the seed that programs are placed by from now on.
pub fn set_seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Where the parts of one program go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Lowest address of a position-independent program, before it is aligned.
    pub program: u64,
    /// Bytes, whole pages, from the end of the program to its heap.
    pub heap: u64,
    /// Bytes, whole pages, from the guard of the stack down to the mmap area.
    pub mmap: u64,
    /// Bytes, whole pages, from where the stack ends without randomisation down to where it ends.
    pub stack: u64,
    /// Bytes, a multiple of 16, from the end of the stack down to the first strings.
    pub strings: u64,
}

impl Placement {
    /// The places without randomisation.
    pub const FIXED: Self = Self {
        program: POSITION_INDEPENDENT_BASE,
        heap: 0,
        mmap: 0,
        stack: 0,
        strings: 0,
    };

    /// The places of the program that process `pid` loads after `before` others.
    #[must_use]
    pub fn draw(pid: Pid, before: u32) -> Self {
        let seed = SEED.load(Ordering::Relaxed);
        if seed == 0 {
            return Self::FIXED;
        }
        let program = mix(seed) ^ (u64::from(pid) << 32 | u64::from(before));
        let chance = |part: u64, bits: u32| mix(mix(program).wrapping_add(part)) & ((1 << bits) - 1);
        Self {
            program: POSITION_INDEPENDENT_BASE + chance(0, 28) * PAGE,
            heap: chance(1, 13) * PAGE,
            mmap: chance(2, 28) * PAGE,
            stack: chance(3, 22) * PAGE,
            strings: chance(4, 9) * 16,
        }
    }
}
