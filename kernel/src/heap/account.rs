//! Whose turn it is, and the account of a process.

use faultline_fallible::AllocError;
use faultline_heap::Account;

use super::HEAP;
use crate::arch::cpu;

/// The account of a process, closed when the process's record goes. What is charged to it stays so until it is freed.
#[derive(Debug)]
pub struct ProcessAccount(Account);

impl ProcessAccount {
    /// An account with nothing charged to it.
    ///
    /// # Errors
    /// There is no memory.
    pub fn open() -> Result<Self, AllocError> {
        HEAP.open().map(Self).ok_or(AllocError)
    }

    /// Bytes that are charged to it.
    #[must_use]
    pub fn charged(&self) -> usize {
        HEAP.charged(self.0)
    }
}

impl Drop for ProcessAccount {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is closed here only. Nobody charges to it any more: `charge` asks for that.
        unsafe { HEAP.close(self.0) }
    }
}

/// While it lives, allocations on this CPU are charged to an account.
pub struct Charge(());

/// Charges what this CPU allocates to `account` until the result is dropped; then it is the kernel's own again.
///
/// # Safety
/// The account is not dropped before the result.
#[inline(always)]
pub unsafe fn charge(account: &ProcessAccount) -> Charge {
    cpu::set_account(account.0.to_bits());
    Charge(())
}

/// Charges to nobody for the rest of the turn: what is allocated now must not fail for want of a share.
pub fn charge_nobody() {
    cpu::set_account(Account::KERNEL.to_bits());
}

impl Drop for Charge {
    #[inline(always)]
    fn drop(&mut self) {
        cpu::set_account(Account::KERNEL.to_bits());
    }
}

/// Charges nobody with what stays when the process is gone: the kernel keeps it and uses it again.
pub fn for_good<T>(allocate: impl FnOnce() -> T) -> T {
    let account = cpu::account();
    cpu::set_account(Account::KERNEL.to_bits());
    let result = allocate();
    cpu::set_account(account);
    result
}

/// Bytes that a process which has filled its share may hold beyond it for what it gives back soon.
const BEYOND: u32 = 64 * 1024;

/// Allocates what is given back when a call ends, such as the call itself: a process that has filled its share can still
/// write, close, unmap and end.
#[inline(always)]
pub fn for_a_while<T>(allocate: impl FnOnce() -> T) -> T {
    cpu::set_beyond(BEYOND);
    let result = allocate();
    cpu::set_beyond(0);
    result
}
