//! Waiting for a frame to come free.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;
use std::task::Wake;

use super::*;
use crate::frame::QuarantineList;

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs `free` while somebody waits on an allocator that is out of frames; `mapped` are its frames. Returns the wakes.
fn wakes(free: impl FnOnce(&FrameAllocator, &mut Vec<Pfn>)) -> usize {
    let frames = TestFrames::new(64, 2);
    let mut mapped = map_all(&frames, 0);
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    assert!(frames.poll_allocate(0, &mut context).is_pending());
    assert_eq!(counter.0.load(Ordering::SeqCst), 0);
    free(&frames, &mut mapped);
    let wakes = counter.0.load(Ordering::SeqCst);
    assert!(matches!(frames.poll_allocate(0, &mut context), Poll::Ready(_)) || wakes == 0);
    unmap_all(&frames, &mapped, 0);
    wakes
}

#[test]
fn every_way_to_free_wakes_the_waiter_once() {
    assert_eq!(wakes(|frames, mapped| unmap_all(frames, &mapped.split_off(10), 1)), 1);
    assert_eq!(
        wakes(|frames, mapped| {
            let mut list = QuarantineList::new(frames);
            for pfn in mapped.drain(..20) {
                frames.remove_mapping(pfn, 0).unwrap().unwrap().quarantine(&mut list, 1);
            }
            list.release_up_to(1, 1);
        }),
        1
    );
    assert_eq!(
        wakes(|frames, mapped| {
            let retired = frames.remove_mapping(mapped.pop().unwrap(), 0).unwrap().unwrap();
            frames.set_zeroed_target(4);
            frames.put_zeroed(retired.reuse());
        }),
        1
    );
}

#[test]
fn nothing_freed_wakes_nobody() {
    let dropped_reference = |frames: &FrameAllocator, mapped: &mut Vec<Pfn>| {
        frames.add_mapping(mapped[0]).unwrap();
        assert!(frames.remove_mapping(mapped[0], 0).unwrap().is_none());
    };
    assert_eq!(wakes(dropped_reference), 0);
}

#[test]
fn a_returned_run_wakes_the_waiter() {
    let frames = TestFrames::new(64, 1);
    let run = frames.allocate_contiguous(4, 0).unwrap();
    let mapped = map_all(&frames, 0);
    let counter = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    assert!(frames.poll_allocate(0, &mut context).is_pending());
    drop(run);
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    unmap_all(&frames, &mapped, 0);
}

#[test]
fn a_frame_freed_before_the_waker_was_set_is_found() {
    let frames = TestFrames::new(64, 1);
    // The first look finds nothing, the second one does.
    frames.fail_once_after(0);
    let polled = frames.poll_allocate(0, &mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready());
}

#[test]
fn zeroing_stands_back_for_a_waiter() {
    let frames = TestFrames::new(64, 1);
    frames.set_zeroed_target(8);
    frames.set_low_memory_waker(Waker::noop());
    assert!(frames.take_for_zeroing(0).is_none());
    drop(frames.allocate(0).unwrap());
    assert!(frames.take_for_zeroing(0).is_some());
}
