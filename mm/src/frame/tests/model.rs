//! Random operations against a model that is one enum per frame.

use core::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::operations::{FRAMES, Is, Op, Then, op};
use super::*;
use crate::frame::{FrameError, FrameState, QuarantineList, ReservedFrame, ReservedRun, RetiredFrame};

struct Machine<'a> {
    frames: &'a FrameAllocator,
    model: RefCell<Vec<Is>>,
    tokens: Vec<ReservedFrame<'a>>,
    runs: Vec<ReservedRun<'a>>,
    quarantine: QuarantineList<'a>,
    generations: std::collections::VecDeque<(u64, Pfn)>,
    generation: u64,
    cpu: usize,
    /// Allocations until one fails on command.
    fails_in: Option<u64>,
}

impl<'a> Machine<'a> {
    fn is(&self, frame: u32) -> Is {
        self.model.borrow().get(frame as usize).copied().unwrap_or(Is::Absent)
    }

    fn set(&self, pfn: Pfn, is: Is) {
        self.model.borrow_mut()[pfn.index()] = is;
    }

    /// The operation that comes next is to succeed and leave `pfn` as `is` says.
    fn moved(&self, pfn: Pfn, is: Is) -> Result<(), FrameError> {
        self.set(pfn, is);
        Ok(())
    }

    fn set_run(&self, first: Pfn, count: usize, is: Is) {
        self.model.borrow_mut()[first.index()..first.index() + count].fill(is);
    }

    fn free(&self) -> usize {
        self.model.borrow().iter().filter(|&&is| is == Is::Free).count()
    }

    /// Whether this allocation is the one to fail.
    fn fails(&mut self) -> bool {
        let fails = self.fails_in == Some(0);
        self.fails_in = self.fails_in.and_then(|after| after.checked_sub(1));
        fails
    }

    fn took(&mut self, frame: ReservedFrame<'a>) {
        assert_eq!(
            self.is(frame.pfn().number()),
            Is::Free,
            "{frame:?} was handed out twice"
        );
        self.set(frame.pfn(), Is::Reserved);
        self.tokens.push(frame);
    }

    fn token(&mut self, index: usize) -> Option<ReservedFrame<'a>> {
        if self.tokens.is_empty() {
            None
        } else {
            Some(self.tokens.swap_remove(index % self.tokens.len()))
        }
    }

    fn retire(&mut self, frame: RetiredFrame<'a>, then: Then) {
        let pfn = frame.pfn();
        match then {
            Then::Free => {
                self.set(pfn, Is::Free);
                frame.free();
            }
            Then::Reuse => {
                self.set(pfn, Is::Reserved);
                self.tokens.push(frame.reuse());
            }
            Then::Quarantine => {
                self.set(pfn, Is::Quarantined);
                self.generation += 1;
                self.generations.push_back((self.generation, pfn));
                frame.quarantine(&mut self.quarantine, self.generation);
            }
        }
    }

    /// The error of an operation on `frame`, which is not in the state that it needs.
    fn refused(&self, frame: u32, expected: FrameState) -> FrameError {
        let (end, pfn) = (self.frames.end(), Pfn::new(frame));
        if pfn >= end {
            return FrameError::Foreign { frame: pfn, end };
        }
        FrameError::WrongState {
            frame: pfn,
            found: self.frames.state(pfn),
            expected,
        }
    }

    fn run(&mut self, op: &Op) {
        let (frames, cpu) = (self.frames, self.cpu);
        self.cpu = (self.cpu + 1) % 5;
        match *op {
            Op::Allocate => {
                let possible = !self.fails() && self.free() > 0;
                let got = frames.allocate(cpu);
                assert_eq!(got.is_ok(), possible);
                got.into_iter().for_each(|frame| self.took(frame));
            }
            Op::AllocateZeroed => {
                let possible = self.fails_in != Some(0) && frames.account().zeroed > 0;
                let got = frames.allocate_zeroed(cpu);
                assert_eq!(got.is_some(), possible);
                if let Some(frame) = got {
                    self.fails();
                    self.took(frame);
                }
            }
            Op::AllocateRun { order } => {
                let size = 1usize << order;
                let block_free = |block: &[Is]| block.len() == size && block.iter().all(|&is| is == Is::Free);
                let exists = order <= crate::frame::MAX_ORDER && self.model.borrow().chunks(size).any(block_free);
                let possible = !self.fails() && exists;
                let got = frames.allocate_contiguous(order, cpu);
                assert_eq!(got.is_ok(), possible, "a run of order {order}");
                if let Ok(run) = got {
                    let first = run.pfn();
                    assert!(block_free(&self.model.borrow()[first.index()..][..size]) && first.index() % size == 0);
                    self.set_run(first, size, Is::Reserved);
                    self.runs.push(run);
                }
            }
            Op::Drop { token } => {
                let Some(token) = self.token(token) else { return };
                self.set(token.pfn(), Is::Free);
                token.free();
            }
            Op::Map { token } => {
                let Some(token) = self.token(token) else { return };
                self.set(token.map(), Is::Mapped(1));
            }
            Op::MakeTable { token } => {
                let Some(token) = self.token(token) else { return };
                self.set(token.into_page_table(), Is::Table { parents: 1 });
            }
            Op::Pin { token } => {
                let Some(token) = self.token(token) else { return };
                self.set(
                    token.pin(),
                    Is::Pinned {
                        count: 0,
                        for_ever: false,
                    },
                );
            }
            Op::DropRun => {
                let Some(run) = self.runs.pop() else { return };
                self.set_run(run.pfn(), run.len(), Is::Free);
                run.free();
            }
            Op::MapRun => {
                let Some(run) = self.runs.pop() else { return };
                let count = run.len();
                self.set_run(run.map(), count, Is::Mapped(1));
            }
            Op::PinRun => {
                let Some(run) = self.runs.pop() else { return };
                let count = run.len();
                self.set_run(
                    run.pin(),
                    count,
                    Is::Pinned {
                        count: 0,
                        for_ever: false,
                    },
                );
            }
            Op::AddMapping { frame } => {
                let pfn = Pfn::new(frame);
                let expected = match self.is(frame) {
                    Is::Mapped(count) => self.moved(pfn, Is::Mapped(count + 1)),
                    Is::Pinned { count, for_ever } => self.moved(
                        pfn,
                        Is::Pinned {
                            count: count + 1,
                            for_ever,
                        },
                    ),
                    _ => Err(self.refused(frame, FrameState::Mapped)),
                };
                assert_eq!(frames.add_mapping(pfn), expected);
            }
            Op::RemoveMapping { frame, then } => {
                let (pfn, is) = (Pfn::new(frame), self.is(frame));
                let expected = match is {
                    Is::Mapped(1) => Ok(true),
                    Is::Mapped(count) => {
                        self.set(pfn, Is::Mapped(count - 1));
                        Ok(false)
                    }
                    Is::Pinned { count: 0, .. } => Err(FrameError::NoReference {
                        frame: pfn,
                        state: FrameState::Pinned,
                    }),
                    Is::Pinned { count, for_ever } => {
                        self.set(
                            pfn,
                            Is::Pinned {
                                count: count - 1,
                                for_ever,
                            },
                        );
                        Ok(false)
                    }
                    _ => Err(self.refused(frame, FrameState::Mapped)),
                };
                let got = frames.remove_mapping(pfn, cpu);
                assert_eq!(got.as_ref().map(Option::is_some).map_err(|&error| error), expected);
                got.into_iter().flatten().for_each(|retired| self.retire(retired, then));
            }
            Op::TableAddRef { frame } => {
                let pfn = Pfn::new(frame);
                let expected = match self.is(frame) {
                    Is::Table { parents } => self.moved(pfn, Is::Table { parents: parents + 1 }),
                    _ => Err(self.refused(frame, FrameState::PageTable)),
                };
                assert_eq!(frames.table_add_ref(pfn), expected);
            }
            Op::TableRemoveRef { frame, then } => {
                let pfn = Pfn::new(frame);
                let expected = match self.is(frame) {
                    Is::Table { parents: 1, .. } => Ok(true),
                    Is::Table { parents } => {
                        self.set(pfn, Is::Table { parents: parents - 1 });
                        Ok(false)
                    }
                    _ => Err(self.refused(frame, FrameState::PageTable)),
                };
                let got = frames.table_remove_ref(pfn, cpu);
                assert_eq!(got.as_ref().map(Option::is_some).map_err(|&error| error), expected);
                got.into_iter().flatten().for_each(|retired| self.retire(retired, then));
            }
            Op::Unpin { frame } => {
                let pfn = Pfn::new(frame);
                let expected = match self.is(frame) {
                    Is::Pinned {
                        count: 0,
                        for_ever: false,
                    } => self.moved(pfn, Is::Reserved),
                    Is::Pinned { count, .. } => Err(FrameError::StaysPinned { frame: pfn, count }),
                    _ => Err(self.refused(frame, FrameState::Pinned)),
                };
                let got = frames.unpin(pfn, cpu);
                assert_eq!(got.as_ref().map(drop).map_err(|&error| error), expected);
                self.tokens.extend(got);
            }
            Op::PinRange { first, count } => {
                let range = first..first + count;
                let inside = count == 0 || range.end <= FRAMES;
                let possible = inside && range.clone().all(|frame| self.is(frame) == Is::Absent);
                let got = frames.pin_range(super::frames(first.into()..range.end.into()));
                assert_eq!(got.is_ok(), possible);
                if possible && count > 0 {
                    self.set_run(
                        Pfn::new(first),
                        count as usize,
                        Is::Pinned {
                            count: 0,
                            for_ever: true,
                        },
                    );
                }
            }
            Op::Release { behind } => {
                let generation = self.generation.saturating_sub(behind);
                let mut released = 0;
                while let Some(&(removed, pfn)) = self.generations.front() {
                    if removed > generation {
                        break;
                    }
                    self.set(pfn, Is::Free);
                    self.generations.pop_front();
                    released += 1;
                }
                assert_eq!(self.quarantine.release_up_to(generation, cpu), released);
            }
            Op::SetZeroedTarget { frames: target } => frames.set_zeroed_target(target),
            Op::ZeroOne => {
                if let Some(frame) = frames.take_for_zeroing(cpu) {
                    assert_eq!(self.is(frame.pfn().number()), Is::Free);
                    frames.put_zeroed(frame);
                }
            }
            Op::DrainCaches { zeroed } => frames.drain_caches(zeroed),
            Op::FailOnce { after } => {
                frames.fail_once_after(after);
                self.fails_in = Some(after);
            }
        }
    }

    fn check(&self) {
        let model = self.model.borrow();
        let count = |matches: fn(&Is) -> bool| model.iter().filter(|is| matches(is)).count() as u64;
        let account = self.frames.audit().unwrap();
        assert_eq!(account.total, count(|is| *is != Is::Absent), "{account}");
        assert_eq!(account.available(), count(|is| *is == Is::Free), "{account}");
        assert_eq!(account.reserved, count(|is| *is == Is::Reserved), "{account}");
        assert_eq!(account.mapped, count(|is| matches!(is, Is::Mapped(_))), "{account}");
        assert_eq!(
            account.page_tables,
            count(|is| matches!(is, Is::Table { .. })),
            "{account}"
        );
        assert_eq!(account.pinned, count(|is| matches!(is, Is::Pinned { .. })), "{account}");
        assert_eq!(account.quarantined, count(|is| *is == Is::Quarantined), "{account}");
        for (number, is) in (0..).zip(model.iter()) {
            let (pfn, frames) = (Pfn::new(number), self.frames);
            let state = match frames.state(pfn) {
                FrameState::Absent => Is::Absent,
                FrameState::Free | FrameState::Cached | FrameState::Zeroed => Is::Free,
                FrameState::Reserved => Is::Reserved,
                FrameState::Mapped => Is::Mapped(frames.mapping_count(pfn)),
                FrameState::PageTable => Is::Table {
                    parents: frames.table_ref_count(pfn),
                },
                FrameState::Pinned => {
                    let for_ever = matches!(is, Is::Pinned { for_ever: true, .. });
                    Is::Pinned {
                        count: frames.mapping_count(pfn),
                        for_ever,
                    }
                }
                FrameState::Quarantined => Is::Quarantined,
            };
            assert_eq!(state, *is, "{pfn}");
        }
    }
}

/// Runs `ops` on a machine with RAM in the frames 3..300 and 310..590.
fn check(ops: &[Op]) -> Result<(), TestCaseError> {
    let frames = TestFrames::with_map(FRAMES.into(), [frames(3..300), frames(310..590)], 4);
    let model = (0..FRAMES)
        .map(|n| {
            if matches!(n, 3..300 | 310..590) {
                Is::Free
            } else {
                Is::Absent
            }
        })
        .collect();
    let mut machine = Machine {
        frames: &frames,
        model: RefCell::new(model),
        tokens: Vec::new(),
        runs: Vec::new(),
        quarantine: QuarantineList::new(&frames),
        generations: Default::default(),
        generation: u64::from(u32::MAX) - 20,
        cpu: 0,
        fails_in: None,
    };
    for op in ops {
        machine.run(op);
        if !cfg!(miri) {
            machine.check();
        }
    }
    machine.check();
    frames.fail_never();
    Ok(())
}

#[test]
#[cfg_attr(miri, ignore = "large machine")]
fn fixed_sequence_agrees_with_the_model() {
    let mut ops = std::vec![
        Op::SetZeroedTarget { frames: 2 },
        Op::ZeroOne,
        Op::AllocateZeroed,
        Op::AllocateRun { order: 3 }
    ];
    ops.extend([
        Op::MapRun,
        Op::Allocate,
        Op::Allocate,
        Op::Allocate,
        Op::Allocate,
        Op::AllocateRun { order: 2 },
    ]);
    ops.extend([
        Op::Map { token: 0 },
        Op::MakeTable { token: 0 },
        Op::Pin { token: 0 },
        Op::Drop { token: 0 },
    ]);
    ops.extend([
        Op::PinRange { first: 300, count: 3 },
        Op::AddMapping { frame: 301 },
        Op::DropRun,
    ]);
    // Whatever the frames that were taken are used for, each operation meets frames that fit it and frames that do not.
    for frame in (0..48).chain(300..302).chain(599..601) {
        ops.extend([Op::AddMapping { frame }, Op::TableAddRef { frame }]);
        for then in [Then::Quarantine, Then::Reuse] {
            ops.extend([Op::RemoveMapping { frame, then }, Op::RemoveMapping { frame, then }]);
            ops.extend([Op::TableRemoveRef { frame, then }, Op::TableRemoveRef { frame, then }]);
        }
        ops.extend([Op::Unpin { frame }, Op::Map { token: 0 }]);
    }
    ops.extend([
        Op::Release { behind: 2 },
        Op::FailOnce { after: 1 },
        Op::Allocate,
        Op::Allocate,
        Op::Allocate,
    ]);
    ops.extend([
        Op::DrainCaches { zeroed: true },
        Op::AllocateRun { order: 8 },
        Op::Release { behind: 0 },
    ]);
    check(&ops).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "large machine")]
    fn allocator_agrees_with_the_model(ops in proptest::collection::vec(op(), 1..500)) {
        check(&ops)?;
    }
}
