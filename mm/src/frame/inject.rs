//! Allocations that fail on command, for tests.

use spin::Mutex;

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
