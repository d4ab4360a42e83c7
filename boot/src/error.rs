//! Everything that can keep the stage from entering the kernel.

use core::fmt::{Display, Formatter, Result};

use crate::memory::{MemoryError, Range};

/// Why the kernel could not be entered.
#[derive(Debug)]
pub enum Error {
    /// The loader's start info is not one.
    StartInfo(&'static str),
    /// No module was passed.
    NoModule,
    /// The module does not lie in usable memory below 4 GiB.
    ModuleOutsideMemory(Range),
    /// The module does not start on a page boundary.
    ModuleNotAligned(u64),
    /// The module has no member `boot/kernel`.
    NoKernel,
    /// The kernel file cannot be loaded.
    Kernel(&'static str),
    /// The kernel's configuration asks for something this stage does not do.
    Config(&'static str),
    /// The memory map is too long or too small.
    Memory(MemoryError),
    /// A mapping collides with another one.
    Map {
        /// What was to be mapped.
        what: &'static str,
        /// Where.
        address: u64,
    },
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::StartInfo(why) => write!(f, "not entered by a PVH loader: {why}"),
            Self::NoModule => f.write_str("no module: start QEMU with `-initrd BUNDLE`"),
            Self::ModuleOutsideMemory(range) => write!(
                f,
                "too little memory for the ramdisk: the module at {:#x}..{:#x} is not in usable memory below 4 GiB",
                range.start, range.end
            ),
            Self::ModuleNotAligned(start) => write!(f, "the module at {start:#x} does not start on a page boundary"),
            Self::NoKernel => f.write_str("the module is not a cpio archive with a member `boot/kernel`"),
            Self::Kernel(why) => write!(f, "boot/kernel cannot be loaded: {why}"),
            Self::Config(why) => write!(f, "boot/kernel asks for a mapping that is not supported: {why}"),
            Self::Memory(error) => error.fmt(f),
            Self::Map { what, address } => write!(f, "{what} cannot be mapped at {address:#x}: the place is taken"),
        }
    }
}
