//! Tests of the frame allocator. Every test ends with an audit, when its [`TestFrames`] is dropped.

mod cases;
mod concurrent;
mod model;
mod operations;
mod transitions;
mod waiting;

extern crate std;

use core::ops::{Deref, Range};
use std::boxed::Box;
use std::vec::Vec;

use x86_64::PhysAddr;

use super::meta::Word;
use super::{FRAME_SIZE, FrameAccount, FrameAllocator, FrameMeta, Pfn};

/// An allocator whose metadata is freed with it.
struct TestFrames(Option<FrameAllocator>);

impl TestFrames {
    /// Frames `0..count`, of which all but frame 0 are usable.
    fn new(count: u64, cpus: usize) -> Self {
        Self::with_map(count, [frames(0..count)], cpus)
    }

    fn with_map(count: u64, usable: impl IntoIterator<Item = Range<PhysAddr>>, cpus: usize) -> Self {
        let length = FrameAllocator::required_metadata(PhysAddr::new(count * FRAME_SIZE));
        let metadata: Vec<_> = (0..length).map(|_| FrameMeta::new()).collect();
        Self(Some(FrameAllocator::new(
            Box::leak(metadata.into_boxed_slice()),
            usable,
            cpus,
        )))
    }

    /// Everything that is known of every frame, to see whether anything changed.
    fn snapshot(&self) -> (Vec<(Word, u32, u32)>, FrameAccount) {
        let metadata = self.metadata.iter().map(|meta| (meta.load(), meta.prev(), meta.next()));
        (metadata.collect(), self.account())
    }
}

impl Deref for TestFrames {
    type Target = FrameAllocator;

    fn deref(&self) -> &FrameAllocator {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl Drop for TestFrames {
    fn drop(&mut self) {
        let frames = self.0.take().expect("only drop takes it");
        let audit = frames.audit();
        // SAFETY: (1) The slice came from `Box::leak` of a boxed slice of this length in `with_map`. (2) The allocator
        // that held it is consumed, and nothing that borrowed from it outlives `self`.
        drop(unsafe { Box::from_raw(frames.into_metadata()) });
        if !std::thread::panicking() {
            audit.expect("the audit at the end of the test");
        }
    }
}

/// The bytes of the frames `range`.
fn frames(range: Range<u64>) -> Range<PhysAddr> {
    PhysAddr::new(range.start * FRAME_SIZE)..PhysAddr::new(range.end * FRAME_SIZE)
}

/// Allocates and maps every frame that is free.
fn map_all(frames: &FrameAllocator, cpu: usize) -> Vec<Pfn> {
    core::iter::from_fn(|| frames.allocate(cpu).ok())
        .map(|frame| frame.map())
        .collect()
}

/// Gives back frames that are mapped once.
fn unmap_all(frames: &FrameAllocator, mapped: &[Pfn], cpu: usize) {
    for &pfn in mapped {
        frames.remove_mapping(pfn, cpu).expect("mapped").expect("once").free();
    }
}
