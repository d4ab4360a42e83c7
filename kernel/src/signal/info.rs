//! Why a signal was raised: the kernel's form of `siginfo_t`.

use linux_raw_sys::general as linux;

use super::Signal;
use crate::process::Pid;

/// Size of `siginfo_t` in bytes.
pub const SIZE: usize = linux::SI_MAX_SIZE as usize;

/// Where a signal came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The kernel, with nothing more to say.
    Kernel,
    /// A process that called `kill` or `tgkill`.
    Sender(Pid),
    /// A process that said itself what comes with the signal: the two words of `siginfo_t` after its head, which are the
    /// sender, its user and a value.
    Given([u64; 2]),
    /// An access to this address.
    Fault(u64),
    /// A child that ended, with `si_status`.
    Child {
        /// The child.
        pid: Pid,
        /// Its exit code or the signal that ended it.
        status: i32,
    },
}

/// A raised signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// Which.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// Where from.
    pub detail: Detail,
}

impl SignalInfo {
    /// A signal from the kernel itself.
    #[must_use]
    pub const fn kernel(signal: Signal) -> Self {
        Self {
            signal,
            code: linux::SI_KERNEL as i32,
            detail: Detail::Kernel,
        }
    }

    /// A signal that a process sent by `kill`.
    #[must_use]
    pub const fn sent_by(sender: Pid, signal: Signal) -> Self {
        Self {
            signal,
            code: linux::SI_USER as i32,
            detail: Detail::Sender(sender),
        }
    }

    /// A signal that says that an access to `address` went wrong.
    #[must_use]
    pub const fn fault(signal: Signal, code: u32, address: u64) -> Self {
        Self {
            signal,
            code: code as i32,
            detail: Detail::Fault(address),
        }
    }

    /// Whether both are signals of the same timer of `timer_create`.
    #[must_use]
    pub fn is_of_same_timer(&self, other: &Self) -> bool {
        let timer = |info: &Self| match info.detail {
            Detail::Given([timer, _]) if info.code == linux::SI_TIMER => Some(timer as u32),
            _ => None,
        };
        timer(self).is_some() && timer(self) == timer(other)
    }

    /// The payload word for traces: the address of a fault, else the sender or the child.
    #[must_use]
    pub const fn word(&self) -> u64 {
        match self.detail {
            Detail::Kernel => 0,
            Detail::Sender(pid) => pid as u64,
            Detail::Given([sender, _]) => sender & 0xffff_ffff,
            Detail::Fault(address) => address,
            Detail::Child { pid, .. } => pid as u64,
        }
    }

    /// The first words of the `siginfo_t` that a handler sees; the others are 0.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u64; 4] {
        let [first, second] = match self.detail {
            Detail::Kernel => [0, 0],
            Detail::Sender(pid) => [u64::from(pid), 0],
            Detail::Given(words) => words,
            Detail::Fault(address) => [address, 0],
            Detail::Child { pid, status } => [u64::from(pid), u64::from(status as u32)],
        };
        [
            u64::from(self.signal.number()),
            u64::from(self.code as u32),
            first,
            second,
        ]
    }

    /// The `siginfo_t` that a handler sees.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.to_words()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}
