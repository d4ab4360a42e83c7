//! Allocations that fail on command, for tests.

use crate::sync::Mutex;

use super::allocator::FrameAllocator;

/// Counts allocations and says which are to fail.
#[derive(Debug)]
pub(super) struct Injector(Mutex<Plan>);

#[derive(Debug)]
struct Plan {
    succeed: u64,
    fail: u64,
    failed: u64,
}

impl Injector {
    pub const fn new() -> Self {
        Self(Mutex::new(Plan {
            succeed: 0,
            fail: 0,
            failed: 0,
        }))
    }

    pub fn arm(&self, succeed: u64, fail: u64) {
        *self.0.lock() = Plan {
            succeed,
            fail,
            failed: 0,
        };
    }

    pub fn disarm(&self) -> u64 {
        let mut plan = self.0.lock();
        plan.fail = 0;
        plan.failed
    }

    /// Whether the allocation that comes next is to fail.
    pub fn would_fail(&self) -> bool {
        let plan = self.0.lock();
        plan.fail > 0 && plan.succeed == 0
    }

    /// Counts an allocation and says whether it is to fail.
    pub fn fails(&self) -> bool {
        let mut plan = self.0.lock();
        if plan.fail == 0 {
            return false;
        }
        if plan.succeed > 0 {
            plan.succeed -= 1;
            return false;
        }
        plan.fail -= 1;
        plan.failed += 1;
        true
    }
}

impl FrameAllocator {
    /// Lets the next `n` allocations succeed and fails all that follow, until [`fail_never`](Self::fail_never).
    ///
    /// [`allocate_zeroed`](Self::allocate_zeroed) counts only when it has a frame, and is never counted as failed: whoever
    /// gets nothing from it calls [`allocate`](Self::allocate) next.
    pub fn fail_after(&self, n: u64) {
        self.injector.arm(n, u64::MAX);
    }

    /// Lets the next `n` allocations succeed and fails the one that follows, once.
    pub fn fail_once_after(&self, n: u64) {
        self.injector.arm(n, 1);
    }

    /// Ends what [`fail_after`](Self::fail_after) or [`fail_once_after`](Self::fail_once_after) began. Returns the
    /// number of allocations that were made to fail since: 0 means that there were no more than `n`.
    pub fn fail_never(&self) -> u64 {
        self.injector.disarm()
    }
}
