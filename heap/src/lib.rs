//! The kernel heap: objects of every size from runs of pages, each charged to an account with a share.
//!
//! # Layers
//! - A request of up to [`LARGEST_OBJECT`] bytes gets an object of the next [size class](class): one of the equal objects of a
//!   *slab*, a run of one to four pages that starts with a header. Taking and giving an object is a fixed number of steps.
//! - A larger one, up to [`LARGEST_RUN`], gets a run of its own, a power of two of pages.
//! - Runs come from [`Pages`]: the frame allocator, behind a trait so that all this runs on the host, too. The heap has
//!   no memory of its own and no fixed size; a run goes back as soon as nothing is in it, except one empty slab of each
//!   class.
//!
//! # Accounts
//! Every object and run remembers the [`Account`] that it is charged to: whoever frees it gives the bytes back to that
//! one, also when the process is long gone. A block without an account is the kernel's own.
//!
//! An account may grow while it holds less than the *share*, which is what is free beyond the reserve (a dynamic
//! threshold): a single hog ends with one half of the memory, `n` hogs with one part in `n + 1` each, and one part
//! stays for everybody else. [`GUARANTEED`] bytes are every account's share at least. The share is looked up when runs
//! come or go, and before an account is refused, so that the usual allocation only compares two numbers.
//!
//! The reserve ([`Pages::reserve`]) is for the kernel's own blocks: a run is taken for an account only while more than
//! the reserve stays free.
//!
//! # Errors
//! There is one: no block (a null pointer, as [`GlobalAlloc`](core::alloc::GlobalAlloc) has it).
//!
//! # Locks and memory order
//! Each size class has a spin lock, held for a fixed number of steps, and no run is taken or given under it. An account
//! is a counter that is raised with Relaxed and lowered with AcqRel: whoever brings it to zero frees it, after all
//! others. Statistics are Relaxed.
#![no_std]

pub mod class;

mod account;
mod arena;
mod heap;
mod slab;

pub use account::Account;
pub use arena::Arena;
pub use heap::{GUARANTEED, Heap, LARGEST_RUN, Pages, Usage};

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// The order of the largest run.
const LARGEST_ORDER: u8 = 10;

/// The largest request that shares a slab with others.
pub const LARGEST_OBJECT: usize = class::SIZES[class::COUNT - 1];
