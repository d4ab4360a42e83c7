//! Starting a program: reading its ELF file, building its space and its first stack.

pub mod elf;
pub mod load;
pub mod placement;
pub mod script;
pub mod stack;
pub mod strings;

pub use load::{ExecError, Image, load};
