//! Wakers: one word, no allocation, no reference count.
//!
//! The word is the address of the slot, shifted left by 16 bits, with the low 16 bits of the slot's generation in the
//! room that this makes. Nothing is lost: x86-64 addresses (with four levels of page tables) repeat bit 47 in the bits
//! above it. The slot is never freed, so the address is good for ever; the generation tells a stale waker.

use core::task::{RawWaker, RawWakerVTable, Waker};

use super::Slot;
use crate::{Executor, Hooks, task::bits::TAG};

/// The waker of the task in this slot, whose state word (or at least the generation in it) is `state`.
#[inline(always)]
pub(crate) fn waker<H: Hooks>(slot: &'static Slot, state: u64) -> Waker {
    let word = slot
        .as_ptr()
        .cast_const()
        .map_addr(|address| address << 16 | (state & TAG) as usize);
    // SAFETY: the functions of the table are thread-safe and treat the word as the contract of `RawWaker` asks: `clone`
    // gives an equal waker, `drop` has nothing to release, and the slot that the word points at is never freed.
    unsafe { Waker::from_raw(RawWaker::new(word.cast(), table::<H>())) }
}

/// The slot and the tag of a waker that an executor with these hooks has made.
#[inline(always)]
pub(crate) fn parts<H: Hooks>(waker: &Waker) -> Option<(&'static Slot, u64)> {
    if !core::ptr::eq(waker.vtable(), table::<H>()) {
        return None;
    }
    let word = waker.data();
    // SAFETY: the table is that of wakers which `waker` has made from the address of a slot, and slots are never freed.
    let slot = unsafe { &*word.map_addr(untag).cast() };
    Some((slot, word.addr() as u64))
}

/// Whether a slot at this address can be named by a waker.
pub(crate) fn is_representable(address: usize) -> bool {
    untag(address << 16) == address
}

const fn table<H: Hooks>() -> &'static RawWakerVTable {
    &RawWakerVTable::new(clone::<H>, wake::<H>, wake::<H>, drop)
}

#[inline(always)]
const fn untag(word: usize) -> usize {
    (word.cast_signed() >> 16).cast_unsigned()
}

unsafe fn clone<H: Hooks>(word: *const ()) -> RawWaker {
    RawWaker::new(word, table::<H>())
}

unsafe fn drop(_: *const ()) {}

unsafe fn wake<H: Hooks>(word: *const ()) {
    // SAFETY: the word was made by `waker` from the address of a slot, and slots are never freed.
    let slot: &'static Slot = unsafe { &*word.map_addr(untag).cast() };
    Executor::<H>::wake(slot, word.addr() as u64);
}
