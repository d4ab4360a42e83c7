//! Reads ext2, ext3 and ext4 file systems, and trusts nothing that they say.
//!
//! # Layers
//! ```text
//!  Volume: what there is to ask          inode(), extents(), find(), list(), target()
//!     │                                       async: each block of metadata may have to be waited for
//!     ▼
//!  superblock, group, inode, extent,     pure: bytes in, value or error out
//!  block map, directory, index
//!     │
//!     ▼
//!  Source: where the bytes are           a device behind a cache, or a file in a test
//! ```
//!
//! The bytes of files are not read here: [`Extents`] says where they are on the device, and the page cache reads them
//! there.
//!
//! # What an image can do
//! An image is input from outside: it may be cut off, mangled, or made to do harm. Whatever it says,
//! - nothing panics and nothing is read out of bounds: fields are read by [`bytes`], and every number is checked before it
//!   is used;
//! - every walk ends: the nodes of an extent tree have disjoint ranges, and a walk through a block map ends when it has
//!   seen more blocks than the volume has;
//! - a file has no more blocks than the volume, whatever it says about its length;
//! - memory is taken for the extents of one file and for the target of one link, both with a limit, and each allocation
//!   can fail.
//!
//! What an image says wrongly about a file's bytes can't be known here; its metadata checksums are not verified.
//!
//! # What is read
//! Blocks of 1, 2 and 4 KiB; extent trees and the block maps of ext2; directories with and without an index; symbolic
//! links in the inode and in a block; sparse files; 64-bit block numbers. A volume whose journal has still to be replayed,
//! and features that change where things are ([`Unsupported`]), are refused when it is opened.
//!
//! # Why not a crate that exists
//! Two read ext4 without the standard library. Neither says where the bytes of a file are, so all of them would be read
//! through the crate and not into the page cache; and both allocate in ways that can't fail.
//!
//! | | `ext4-view` 1.0.0 | `ext4plus` 0.1.0-rc.2 |
//! |---|---|---|
//! | reads the device | by a call that returns when it is done | by a future in a box for each read |
//! | memory | `Vec::with_capacity` of as many groups as the image says, and `vec!` for blocks | the same, and boxes |
//! | where a file's blocks are | a private module | a private module |
//! | can be shared by threads | no (`Rc`) | yes |
//! | writes | no | yes, which is not wanted here |
//!
//! A kernel in which no allocation may abort and nothing may block can use neither.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod block_map;
pub mod bytes;
mod directory;
mod error;
mod extent;
mod extents;
mod hash;
mod index;
mod inode;
mod source;
mod superblock;
mod volume;

pub use directory::{Entry, EntryKind, NAME_MAX};
pub use error::{Error, Structure, Unsupported};
pub use extents::{Extents, MAX_EXTENTS, Piece};
pub use inode::{Inode, InodeKind, ROOT};
pub use source::{Source, UNIT};
pub use superblock::Superblock;
pub use volume::{TARGET_MAX, Volume};
