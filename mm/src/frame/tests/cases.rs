//! The numbered cases of the interface: 46, 47 and 48.

use super::*;
use crate::frame::steps;
use crate::frame::{FrameError, FrameState, MAX_ORDER, OutOfFrames};

/// Frames 16..64 are RAM, 64..80 a device, 80..100 RAM, 100..104 the ramdisk; past 104 the map ends.
fn machine() -> TestFrames {
    let machine = TestFrames::with_map(104, [frames(16..64), frames(80..100)], 2);
    machine.pin_range(frames(100..104)).unwrap();
    machine
}

/// Every operation on a published frame must refuse `pfn` with the error that `expected` makes of the state it needs.
fn refuses_everything(frames: &TestFrames, pfn: Pfn, expected: impl Fn(FrameState) -> FrameError) {
    let before = frames.snapshot();
    assert_eq!(
        frames.remove_mapping(pfn, 0).map(drop),
        Err(expected(FrameState::Mapped))
    );
    assert_eq!(frames.add_mapping(pfn), Err(expected(FrameState::Mapped)));
    assert_eq!(frames.table_add_ref(pfn), Err(expected(FrameState::PageTable)));
    assert_eq!(
        frames.table_remove_ref(pfn, 0).map(drop),
        Err(expected(FrameState::PageTable))
    );
    assert_eq!(frames.unpin(pfn, 0).map(drop), Err(expected(FrameState::Pinned)));
    assert_eq!((frames.mapping_count(pfn), frames.table_ref_count(pfn)), (0, 0));
    assert_eq!(frames.snapshot(), before);
}

fn refuses_in_state(frames: &TestFrames, frame: Pfn, found: FrameState) {
    assert_eq!(frames.state(frame), found);
    refuses_everything(frames, frame, |expected| FrameError::WrongState {
        frame,
        found,
        expected,
    });
}

#[test]
fn case_46_double_free_is_refused() {
    let frames = machine();
    let pfn = frames.allocate(0).unwrap().map();
    frames.remove_mapping(pfn, 0).unwrap().unwrap().free();
    refuses_in_state(&frames, pfn, FrameState::Cached);
    frames.drain_caches(false);
    refuses_in_state(&frames, pfn, FrameState::Free);

    let pfn = frames.allocate(0).unwrap().into_page_table();
    frames.table_remove_ref(pfn, 0).unwrap().unwrap().free();
    refuses_in_state(&frames, pfn, FrameState::Cached);
}

#[test]
fn case_46_frame_in_flight_is_refused() {
    let frames = machine();
    let token = frames.allocate(0).unwrap();
    refuses_in_state(&frames, token.pfn(), FrameState::Reserved);
    let run = frames.allocate_contiguous(3, 0).unwrap();
    for offset in 0..8 {
        refuses_in_state(&frames, run.pfn().offset(offset), FrameState::Reserved);
    }
}

#[test]
fn case_46_zeroed_and_quarantined_frames_are_refused() {
    let frames = machine();
    frames.set_zeroed_target(1);
    let zeroed = frames.take_for_zeroing(0).unwrap();
    let pfn = zeroed.pfn();
    frames.put_zeroed(zeroed);
    refuses_in_state(&frames, pfn, FrameState::Zeroed);

    let mut list = crate::frame::QuarantineList::new(&frames);
    let pfn = frames.allocate(0).unwrap().map();
    frames.remove_mapping(pfn, 0).unwrap().unwrap().quarantine(&mut list, 1);
    refuses_in_state(&frames, pfn, FrameState::Quarantined);
}

#[test]
fn case_46_foreign_frames_are_refused() {
    let machine = machine();
    for frame in [Pfn::new(104), Pfn::new(1 << 20), Pfn::new(u32::MAX - 1), Pfn::NONE] {
        assert_eq!(machine.state(frame), FrameState::Absent);
        refuses_everything(&machine, frame, |_| FrameError::Foreign {
            frame,
            end: Pfn::new(104),
        });
    }
    let before = machine.snapshot();
    let past = FrameError::Foreign {
        frame: Pfn::new(104),
        end: Pfn::new(104),
    };
    assert_eq!(machine.pin_range(frames(70..105)), Err(past));
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn case_46_device_frames_are_refused() {
    let frames = machine();
    for number in [64, 65, 72, 79] {
        refuses_in_state(&frames, Pfn::new(number), FrameState::Absent);
    }
}

#[test]
fn case_46_frames_below_base_are_refused() {
    let frames = machine();
    for number in [0, 1, 8, 15] {
        refuses_in_state(&frames, Pfn::new(number), FrameState::Absent);
    }
}

#[test]
fn case_46_tables_and_data_are_not_confused() {
    let frames = machine();
    let table = frames.allocate(0).unwrap().into_page_table();
    let data = frames.allocate(0).unwrap().map();
    let wrong = |frame, found, expected| FrameError::WrongState { frame, found, expected };
    let before = frames.snapshot();
    let refused = wrong(table, FrameState::PageTable, FrameState::Mapped);
    assert_eq!(frames.remove_mapping(table, 0).map(drop), Err(refused));
    assert_eq!(frames.add_mapping(table), Err(refused));
    let refused = wrong(data, FrameState::Mapped, FrameState::PageTable);
    assert_eq!(frames.table_remove_ref(data, 0).map(drop), Err(refused));
    assert_eq!(
        frames.unpin(data, 0).map(drop),
        Err(wrong(data, FrameState::Mapped, FrameState::Pinned))
    );
    assert_eq!(frames.snapshot(), before);
}

#[test]
fn case_46_pinned_frames_are_never_freed() {
    let machine = machine();
    let (frame, state) = (Pfn::new(100), FrameState::Pinned);
    let before = machine.snapshot();
    assert_eq!(
        machine.remove_mapping(frame, 0).map(drop),
        Err(FrameError::NoReference { frame, state })
    );
    assert_eq!(
        machine.unpin(frame, 0).map(drop),
        Err(FrameError::StaysPinned { frame, count: 0 })
    );
    machine.add_mapping(frame).unwrap();
    machine.add_mapping(frame).unwrap();
    assert_eq!(machine.mapping_count(frame), 2);
    assert!(machine.remove_mapping(frame, 0).unwrap().is_none());
    assert!(machine.remove_mapping(frame, 0).unwrap().is_none());
    assert_eq!(machine.snapshot(), before);

    let taken = FrameError::WrongState {
        frame: Pfn::new(101),
        found: state,
        expected: FrameState::Absent,
    };
    assert_eq!(machine.pin_range(frames(101..103)), Err(taken));
    let free = FrameError::WrongState {
        frame: Pfn::new(80),
        found: FrameState::Free,
        expected: FrameState::Absent,
    };
    assert_eq!(machine.pin_range(frames(78..82)), Err(free));
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn case_47_never_beyond_the_map_and_exact_when_empty() {
    let frames = machine();
    assert_eq!(frames.account().total, 48 + 20 + 4);
    assert_eq!(frames.account().pinned, 4);
    let mut mapped = map_all(&frames, 1);
    mapped.sort();
    let expected: Vec<_> = (16..64).chain(80..100).map(Pfn::new).collect();
    assert_eq!(mapped, expected);

    let account = frames.audit().unwrap();
    assert_eq!((account.available(), account.mapped, account.reserved), (0, 68, 0));
    assert_eq!(frames.available(), 0);
    assert_eq!(frames.allocate(0).map(drop), Err(OutOfFrames { wanted: 1, free: 0 }));
    assert!(frames.allocate_zeroed(0).is_none());
    assert!(frames.take_for_zeroing(0).is_none());
    assert_eq!(
        frames.allocate_contiguous(0, 0).map(drop),
        Err(OutOfFrames { wanted: 1, free: 0 })
    );

    unmap_all(&frames, &mapped, 0);
    assert_eq!(frames.available(), 68);
    frames.drain_caches(true);
    assert_eq!(frames.audit().unwrap().free, 68);
}

#[test]
fn case_47_odd_sizes() {
    let byte = |address: u64| PhysAddr::new(address);
    // Ranges of part of a page, of no page, empty, reversed, past the end, overlapping, and in the wrong order.
    let map = [
        byte(0x7001)..byte(0x7fff),
        byte(0x9001)..byte(0xb000),
        byte(0x5000)..byte(0x5000),
        byte(0x6000)..byte(0x4000),
        byte(0xf000)..byte(0x40_0000),
        byte(0x2800)..byte(0x4fff),
        byte(0x3000)..byte(0x4000),
    ];
    let frames = TestFrames::with_map(17, map, 1);
    let mut mapped = map_all(&frames, 0);
    mapped.sort();
    assert_eq!(mapped, [0x3, 0xa, 0xf, 0x10].map(Pfn::new));
    unmap_all(&frames, &mapped, 0);

    let counts: &[u64] = if cfg!(miri) {
        &[0, 1, 2, 3, 65]
    } else {
        &[0, 1, 2, 3, 1023, 1024, 1025, 1500]
    };
    for &count in counts {
        let frames = TestFrames::new(count, 3);
        let mapped = map_all(&frames, 2);
        assert_eq!(
            mapped.len() as u64,
            count.saturating_sub(1),
            "of {count} frames all but frame 0"
        );
        unmap_all(&frames, &mapped, 1);
    }
    assert_eq!(FrameAllocator::required_metadata(byte(0)), 0);
    assert_eq!(FrameAllocator::required_metadata(byte(1)), 1);
    assert_eq!(FrameAllocator::required_metadata(byte(0x2000)), 2);
    assert_eq!(
        FrameAllocator::required_metadata(PhysAddr::new_truncate(u64::MAX)),
        u32::MAX as usize - 1
    );
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn case_47_contiguous_runs_stay_inside_the_map() {
    let frames = TestFrames::with_map(3000, [frames(3..2999)], 1);
    let runs: Vec<_> = core::iter::from_fn(|| frames.allocate_contiguous(9, 0).ok()).collect();
    let mut heads: Vec<_> = runs.iter().map(|run| run.pfn().number()).collect();
    heads.sort();
    assert_eq!(heads, [512, 1024, 1536, 2048]);
    assert_eq!(frames.account().reserved, 4 * 512);
    assert!(frames.allocate_contiguous(MAX_ORDER + 1, 0).is_err());
    assert!(frames.allocate_contiguous(255, 0).is_err());
    drop(runs);
    assert_eq!(frames.audit().unwrap().free, 2996);
}

/// Fills `percent` of 4096 frames, scattered so that little can merge, and returns what is mapped.
fn fill(frames: &TestFrames, percent: usize) -> Vec<Pfn> {
    let all = map_all(frames, 0);
    let keeps = |pfn: &Pfn| (pfn.index() * 37) % 100 < percent;
    let (kept, freed): (Vec<_>, Vec<_>) = all.into_iter().partition(keeps);
    unmap_all(frames, &freed, 0);
    frames.drain_caches(true);
    kept
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn case_48_cost_is_flat_at_any_fill() {
    let rounds = 1000;
    let costs = [0, 50, 99].map(|percent| {
        let frames = TestFrames::new(4096, 1);
        let kept = fill(&frames, percent);
        drop(frames.allocate(0).unwrap());
        let pairs = steps::count(|| {
            for _ in 0..rounds {
                let pfn = frames.allocate(0).unwrap().map();
                frames.remove_mapping(pfn, 0).unwrap().unwrap().free();
            }
        });
        // The worst case: every frame goes all the way from the buddy lists, merged as far as they can be, and back.
        let bursts = steps::count(|| {
            for _ in 0..rounds / 32 {
                let burst: Vec<_> = (0..32).map(|_| frames.allocate(0).unwrap().map()).collect();
                unmap_all(&frames, &burst, 0);
                frames.drain_caches(false);
            }
        });
        unmap_all(&frames, &kept, 0);
        (pairs, bursts)
    });
    std::println!("metadata accesses for {rounds} pairs at 0, 50 and 99 % fill, cached and drained: {costs:?}");
    let [(empty, drained), rest @ ..] = costs;
    for (pairs, bursts) in rest {
        assert_eq!(pairs, empty);
        assert!(
            bursts <= 3 * drained,
            "a drained pair costs a bounded number of steps more: {costs:?}"
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn case_48_largest_cost_of_one_call_does_not_grow_with_memory() {
    let worst = [2048, 8192].map(|count| {
        let frames = TestFrames::new(count, 1);
        let mut worst = 0;
        let mut mapped = Vec::new();
        for _ in 1..count {
            worst = worst.max(steps::count(|| mapped.push(frames.allocate(0).unwrap().map())));
        }
        for pfn in mapped {
            worst = worst.max(steps::count(|| frames.remove_mapping(pfn, 0).unwrap().unwrap().free()));
        }
        worst
    });
    std::println!("the most metadata accesses of one call, of 2047 and of 8191 frames: {worst:?}");
    assert!(worst.iter().all(|&steps| steps <= 64 * 12), "{worst:?}");
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn case_48_cached_frames_count_as_free_and_drain_under_shortage() {
    let frames = TestFrames::new(1024, 4);
    frames.set_zeroed_target(100);
    while let Some(frame) = frames.take_for_zeroing(3) {
        frames.put_zeroed(frame);
    }
    let mapped: Vec<_> = (0..100).map(|_| frames.allocate(0).unwrap().map()).collect();
    for (cpu, pfn) in mapped.into_iter().enumerate() {
        frames.remove_mapping(pfn, cpu).unwrap().unwrap().free();
    }
    let account = frames.account();
    assert!(account.cached > 60, "{account}");
    assert_eq!((account.zeroed, account.available()), (100, 1023));

    // CPU 1 gets every frame: those in the other caches and in the pool, too.
    let mapped = map_all(&frames, 1);
    assert_eq!(mapped.len(), 1023);
    assert_eq!(frames.account().mapped, 1023);
    unmap_all(&frames, &mapped, 2);
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn case_48_caches_drain_for_a_contiguous_run() {
    let frames = TestFrames::new(1024, 4);
    frames.set_zeroed_target(32);
    while let Some(frame) = frames.take_for_zeroing(0) {
        frames.put_zeroed(frame);
    }
    let mapped = map_all(&frames, 0);
    frames.set_zeroed_target(32);
    for (turn, &pfn) in mapped.iter().enumerate() {
        frames.remove_mapping(pfn, turn).unwrap().unwrap().free();
    }
    while let Some(frame) = frames.take_for_zeroing(0) {
        frames.put_zeroed(frame);
    }
    assert!(frames.account().cached >= 64 && frames.account().zeroed == 32);
    let run = frames.allocate_contiguous(9, 0).unwrap();
    assert_eq!(run.pfn(), Pfn::new(512));
    run.free();
    frames.drain_caches(true);
    assert_eq!(frames.audit().unwrap().free, 1023);
}
