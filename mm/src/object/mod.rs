//! Objects that hold pages which several spaces see: anonymous shared memory, memfd and tmpfs files, files on a disk.

mod contents;
mod disk_file;
mod memory_object;
pub(crate) mod sparse;

pub use disk_file::{DiskFile, LocateError, MAX_PIECES, Piece, Pieces};
pub use memory_object::MemoryObject;
pub(crate) use memory_object::{AT_ONCE, ObjectId};
