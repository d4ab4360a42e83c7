//! What may be done to memory, and what somebody tried to do.

use bitflags::bitflags;
use core::fmt;
use x86_64::VirtAddr;

bitflags! {
    /// What user mode may do with a region. Empty means that every access faults (`PROT_NONE`).
    ///
    /// x86-64 has no write-only and no execute-only pages: `WRITE` or `EXECUTE` alone also allow reading, as on Linux.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Protection: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

impl Protection {
    /// `READ | WRITE`.
    pub const READ_WRITE: Protection = Protection::READ.union(Protection::WRITE);
    /// `READ | EXECUTE`.
    pub const READ_EXECUTE: Protection = Protection::READ.union(Protection::EXECUTE);

    /// Whether an access of this kind is allowed.
    #[inline]
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => !self.is_empty(),
            Access::Write => self.contains(Protection::WRITE),
            Access::Execute => self.contains(Protection::EXECUTE),
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |flag, letter| if self.contains(flag) { letter } else { "-" };
        f.write_str(letter(Protection::READ, "r"))?;
        f.write_str(letter(Protection::WRITE, "w"))?;
        f.write_str(letter(Protection::EXECUTE, "x"))
    }
}

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        })
    }
}

/// What the trap stub knows of a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultInfo {
    /// The address that was accessed (CR2), as the processor reported it; any 64-bit value.
    pub address: u64,
    /// What was tried.
    pub access: Access,
    /// Whether user mode tried it; false for the kernel's own accesses to user memory, which obey the same rules.
    pub user: bool,
}

impl FaultInfo {
    /// An access by user mode.
    #[must_use]
    pub const fn user(address: u64, access: Access) -> Self {
        Self {
            address,
            access,
            user: true,
        }
    }

    /// Decodes a page fault's error code (Intel SDM volume 3, section 4.7): bit 1 write, bit 2 user, bit 4 fetch.
    #[must_use]
    pub const fn from_error_code(address: u64, code: u64) -> Self {
        let access = if code & 2 != 0 {
            Access::Write
        } else if code & 16 != 0 {
            Access::Execute
        } else {
            Access::Read
        };
        Self {
            address,
            access,
            user: code & 4 != 0,
        }
    }

    /// The first address of the page, if the address is canonical and in the user half.
    #[inline]
    pub(crate) fn page(&self) -> Option<VirtAddr> {
        (self.address < crate::address::USER_END).then(|| VirtAddr::new_truncate(self.address & !0xfff))
    }
}
