//! Files: a tree in memory over the ramdisk, a file system on a disk ([`mount`]), a few devices, and the parts of `/proc`
//! that programs read.
//!
//! The tree ([`tree`]) is built from the boot archive; what programs write is kept in frames ([`memory_file`]). An open
//! file ([`OpenFile`]) is shared by all descriptors that were duplicated or inherited from one another, offset included,
//! as POSIX says.

pub mod boot;
pub mod changes;
pub mod console;
pub mod device;
pub mod directory;
pub mod epoll;
pub mod event;
pub mod file;
pub mod input;
pub mod locks;
pub mod memory_file;
pub mod mount;
pub mod open_file;
pub mod page;
pub mod path;
pub mod pipe;
pub mod proc;
pub mod process_file;
pub mod ramdisk;
pub mod signal_file;
pub mod stat;
pub mod table;
pub mod timer;
pub mod tree;

use faultline_fallible::Arc;

pub use open_file::{FileKind, OpenFile};
pub use ramdisk::RamdiskFile;
pub use table::{Descriptor, FileTable};
pub use tree::Node;

/// A working directory.
#[derive(Clone)]
pub struct Directory(pub Arc<Node>);
