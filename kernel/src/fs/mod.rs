//! Files: a read-only tree from the ramdisk, a few devices, and the parts of `/proc` that static programs read.
//!
//! The tree ([`tree`]) is built once at boot and never changes, so looking up a path takes no lock. An open file
//! ([`OpenFile`]) is shared by all descriptors that were duplicated or inherited from one another, offset included, as
//! POSIX says. Anything that would change the tree is `EROFS`.

pub mod console;
pub mod open_file;
pub mod path;
pub mod pipe;
pub mod proc;
pub mod ramdisk;
pub mod stat;
pub mod table;
pub mod tree;

pub use open_file::{FileKind, OpenFile};
pub use ramdisk::RamdiskFile;
pub use table::{Descriptor, FileTable};
pub use tree::NodeId;

/// A working directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory(pub NodeId);
