//! Memory objects: pages that several spaces see.
//!
//! One kind of object holds the pages of anonymous shared memory, of memfd and tmpfs files, and of files on a disk. Its
//! table, a sparse tree, says for each page whether it is absent, in flight, or resident ([`state`]); all spaces that map
//! the object see the same page, privately until they write to it, or shared.
//!
//! # A page of a file
//!
//! Whoever wants a page that is absent, a fault or a future of the kernel, begins a read ([`read_in`]), and waits in the
//! record of it ([`reads`]); whoever comes later, from whichever space, joins. A read takes the pages behind the first one
//! along, as far as the stream that it belongs to suggests: twice as many pages as lie in memory before it, at most 32.
//! The first user of a marked page begins the next read before anybody has to wait for it.
//!
//! A read of several pages that fails says nothing about any of them: those who wait read theirs alone. If that fails too,
//! they are told, the frames go back, and who comes later tries again.
//!
//! # Locks
//!
//! Space, pages of an object, record of a read, frames. Devices are started with none of them held.

mod all;
mod contents;
mod disk_file;
mod hand;
mod memory_object;
mod objects;
mod page_in;
mod read_in;
mod reads;
mod sparse;
mod state;

pub use contents::PageError;
pub use disk_file::{DiskFile, LocateError, MAX_PIECES, Piece, Pieces};
pub use memory_object::MemoryObject;
pub(crate) use memory_object::Pages;
pub(crate) use objects::Objects;
pub use page_in::PageIn;
pub(crate) use read_in::{Window, Wish};
pub(crate) use reads::Reads;
pub(crate) use sparse::Sparse;
