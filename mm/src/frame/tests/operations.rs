//! What the property test does, and what its model knows.

use std::vec;

use proptest::prelude::*;

use super::*;

/// What the model knows of a frame. It does not tell the three kinds of free frame apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Is {
    Absent,
    Free,
    Reserved,
    Mapped(u32),
    Table { parents: u32 },
    Pinned { count: u32, for_ever: bool },
    Quarantined,
}

#[derive(Clone, Debug)]
pub enum Op {
    Allocate,
    AllocateZeroed,
    AllocateRun { order: u8 },
    Drop { token: usize },
    Map { token: usize },
    MakeTable { token: usize },
    Pin { token: usize },
    DropRun,
    MapRun,
    PinRun,
    AddMapping { frame: u32 },
    RemoveMapping { frame: u32, then: Then },
    TableAddRef { frame: u32 },
    TableRemoveRef { frame: u32, then: Then },
    Unpin { frame: u32 },
    PinRange { first: u32, count: u32 },
    Release { behind: u64 },
    SetZeroedTarget { frames: u32 },
    ZeroOne,
    DrainCaches { zeroed: bool },
    FailOnce { after: u64 },
}

#[derive(Clone, Copy, Debug)]
pub enum Then {
    Free,
    Reuse,
    Quarantine,
}

/// Frames in the machine; operations also name some past its end.
pub const FRAMES: u32 = 600;

pub fn op() -> impl Strategy<Value = Op> {
    let frame = || 0..FRAMES + 10;
    let token = || 0..64usize;
    let then = || prop_oneof![Just(Then::Free), Just(Then::Reuse), Just(Then::Quarantine)];
    prop_oneof![
        12 => Just(Op::Allocate),
        3 => Just(Op::AllocateZeroed),
        4 => (0..12u8).prop_map(|order| Op::AllocateRun { order }),
        4 => token().prop_map(|token| Op::Drop { token }),
        10 => token().prop_map(|token| Op::Map { token }),
        3 => token().prop_map(|token| Op::MakeTable { token }),
        1 => token().prop_map(|token| Op::Pin { token }),
        1 => Just(Op::DropRun),
        2 => Just(Op::MapRun),
        1 => Just(Op::PinRun),
        6 => frame().prop_map(|frame| Op::AddMapping { frame }),
        20 => (frame(), then()).prop_map(|(frame, then)| Op::RemoveMapping { frame, then }),
        4 => frame().prop_map(|frame| Op::TableAddRef { frame }),
        8 => (frame(), then()).prop_map(|(frame, then)| Op::TableRemoveRef { frame, then }),
        4 => frame().prop_map(|frame| Op::Unpin { frame }),
        1 => (frame(), 0..4u32).prop_map(|(first, count)| Op::PinRange { first, count }),
        3 => (0..6u64).prop_map(|behind| Op::Release { behind }),
        1 => (0..40u32).prop_map(|frames| Op::SetZeroedTarget { frames }),
        4 => Just(Op::ZeroOne),
        1 => any::<bool>().prop_map(|zeroed| Op::DrainCaches { zeroed }),
        1 => (0..4u64).prop_map(|after| Op::FailOnce { after }),
    ]
}
