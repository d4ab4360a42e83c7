//! The allocating types of the kernel: every allocation is a [`Result`].
//!
//! A program chooses how many objects the kernel makes for it and how large they are, so each allocation on its behalf
//! has to be able to fail, and the call that wanted it ends with an error. The types of the standard library abort when
//! memory is short. The types here have the same names and the same methods where these allocate nothing; a method
//! that may allocate starts with `try_` and returns [`AllocError`], and there is no other way to allocate. A crate that
//! has no `extern crate alloc` and uses these types can't allocate infallibly: that would be a compile error.
//!
//! | type | is | made by |
//! |---|---|---|
//! | [`Box`] | the standard library's, wrapped | [`Box::try_new`], [`Box::try_pin`]; [`try_future`] for `Pin<Box<dyn Future>>` |
//! | [`Arc`], [`Weak`] | two counts and the value in one block; [`unsize!`] makes an `Arc<dyn Trait>` | [`Arc::try_new`] |
//! | [`Vec`], [`VecDeque`], [`String`] | the standard library's, wrapped | `try_push`, `try_reserve`, [`try_format!`] ... |
//! | [`OrderedMap`] | a red-black tree (of the crate `intrusive-collections`) of boxed nodes | [`OrderedMap::try_insert`], or [`Spare`] first |
//!
//! # What "fails" means
//! An operation that returns [`AllocError`] has changed nothing, except where its documentation says otherwise
//! (`fmt::Write` leaves what was written before).
//!
//! # `Clone`
//! No type here whose copy would allocate is [`Clone`]; a copy is made by `try_clone`. So a `T: Clone` bound never
//! allocates, as long as the types in `T` come from here: [`Vec::try_clone`] asks for it.
//!
//! # Example
//! ```
//! use faultline_fallible::{AllocError, Arc, OrderedMap, Vec};
//!
//! fn names() -> Result<Arc<OrderedMap<u32, Vec<u8>>>, AllocError> {
//!     let mut names = OrderedMap::new();
//!     names.try_insert(1, Vec::try_from_slice(b"init")?)?;
//!     Arc::try_new(names)
//! }
//! assert_eq!(&names()?.get(&1).unwrap()[..], b"init");
//! # Ok::<(), AllocError>(())
//! ```
//!
//! What the standard library's types do without being asked is not there:
//! ```compile_fail,E0599
//! faultline_fallible::Vec::new().push(1);
//! ```
//! ```compile_fail,E0599
//! faultline_fallible::Arc::new(1);
//! ```
//! ```compile_fail,E0599
//! faultline_fallible::Vec::<u8>::new().clone();
//! ```
//! ```compile_fail,E0277
//! let _: faultline_fallible::Vec<u8> = [1, 2].into_iter().collect();
//! ```
#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod boxed;
mod deque;
mod error;
mod map;
mod string;
mod sync;
mod vec;

pub use boxed::{Box, BoxFuture, try_future};
pub use deque::VecDeque;
pub use error::AllocError;
pub use map::{Iter, IterMut, OrderedMap, Spare};
pub use string::{String, try_format_args};
pub use sync::{Arc, Weak};
pub use vec::{IntoIter, Vec};

#[doc(hidden)]
pub use sync::Counted;
