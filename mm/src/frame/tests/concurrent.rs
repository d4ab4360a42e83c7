//! Several CPUs at once.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::sync::Arc;
use std::task::Wake;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::frame::{FrameError, QuarantineList};

const ROUNDS: usize = if cfg!(miri) { 30 } else { 20_000 };

#[test]
fn frames_are_conserved_under_contention() {
    let frames = TestFrames::new(200, 4);
    frames.set_zeroed_target(16);
    thread::scope(|scope| {
        for cpu in 0..4 {
            let frames = &frames;
            scope.spawn(move || {
                let mut list = QuarantineList::new(frames);
                let mut mapped: Vec<Pfn> = Vec::new();
                for round in 0..ROUNDS {
                    match (round * 7 + cpu * 3) % 13 {
                        0..6 => mapped.extend(frames.allocate(cpu).map(|frame| frame.map())),
                        6 => mapped.extend(frames.allocate_zeroed(cpu).map(|frame| frame.map())),
                        7 => frames
                            .take_for_zeroing(cpu)
                            .into_iter()
                            .for_each(|frame| frames.put_zeroed(frame)),
                        8 => drop(frames.allocate_contiguous(round as u8 % 5, cpu)),
                        9 if round % 100 == 9 => frames.drain_caches(true),
                        10 => drop(list.release_up_to(round as u64 - 1, cpu)),
                        _ => {
                            for pfn in mapped.drain(mapped.len().saturating_sub(4)..) {
                                let retired = frames.remove_mapping(pfn, cpu).unwrap().unwrap();
                                if round % 3 == 0 {
                                    retired.quarantine(&mut list, round as u64);
                                }
                            }
                        }
                    }
                }
                unmap_all(frames, &mapped, cpu);
            });
        }
    });
    let account = frames.audit().unwrap();
    assert_eq!(account.available(), 199, "{account}");
}

#[test]
fn of_two_racing_frees_one_is_refused() {
    let frames = TestFrames::new(64, 2);
    for _ in 0..ROUNDS.min(2000) {
        let pfn = frames.allocate(0).unwrap().map();
        let free = |cpu| match frames.remove_mapping(pfn, cpu) {
            Ok(retired) => retired.is_some(),
            Err(FrameError::WrongState { frame, .. }) => frame != pfn,
            Err(other) => panic!("{other}"),
        };
        let freed = thread::scope(|scope| {
            let other = scope.spawn(move || free(1));
            usize::from(free(0)) + usize::from(other.join().unwrap())
        });
        assert_eq!(freed, 1);
    }
}

#[test]
fn a_shared_frame_is_retired_exactly_once() {
    let frames = TestFrames::new(64, 4);
    let pfn = frames.allocate(0).unwrap().map();
    let owners = ROUNDS.min(500);
    for _ in 1..4 * owners {
        frames.add_mapping(pfn).unwrap();
    }
    let retired = AtomicUsize::new(0);
    thread::scope(|scope| {
        for cpu in 0..4 {
            let (frames, retired) = (&frames, &retired);
            scope.spawn(move || {
                for _ in 0..owners {
                    if frames.remove_mapping(pfn, cpu).unwrap().is_some() {
                        retired.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(retired.into_inner(), 1);
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// One thread takes the only frame as soon as another one frees it.
#[test]
fn no_wake_is_missed() {
    let frames = TestFrames::new(2, 2);
    let (to_free, freed) = std::sync::mpsc::channel::<Pfn>();
    thread::scope(|scope| {
        let other = &frames;
        scope.spawn(move || freed.iter().for_each(|pfn| unmap_all(other, &[pfn], 1)));
        let to_free = to_free;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let frame = loop {
                match frames.poll_allocate(0, &mut context) {
                    Poll::Ready(frame) => break frame,
                    Poll::Pending => thread::park_timeout(Duration::from_secs(60)),
                }
                assert!(started.elapsed() < Duration::from_secs(60), "a wake was missed");
            };
            to_free.send(frame.map()).unwrap();
        }
    });
    assert_eq!(frames.available(), 1);
}
