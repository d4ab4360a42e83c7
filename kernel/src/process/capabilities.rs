//! The capabilities of a thread: which of root's rights it has given up, or keeps across `execve`.
//!
//! They are kept, inherited and shown as on Linux, because programs check what they have set. Of the calls, those that raise
//! limits and those that look into other processes ask for one.

/// The last capability, `CAP_CHECKPOINT_RESTORE`.
pub const LAST: u32 = 40;

/// Every capability.
const ALL: u64 = (1 << (LAST + 1)) - 1;

/// `CAP_SETPCAP`.
const SETPCAP: u64 = 1 << 8;

/// `CAP_SYS_RESOURCE`: limits may be raised.
const SYS_RESOURCE: u64 = 1 << 24;

/// `CAP_SYS_PTRACE`: processes that do not want to be looked into are.
const SYS_PTRACE: u64 = 1 << 19;

/// `SECBIT_NOROOT`: user 0 gains nothing by `execve`.
const NO_ROOT: u32 = 1 << 0;

/// `SECBIT_KEEP_CAPS`, which `execve` clears.
pub const KEEP: u32 = 1 << 4;

/// `SECBIT_KEEP_CAPS_LOCKED`.
pub const KEEP_LOCKED: u32 = 1 << 5;

/// `SECBIT_NO_CAP_AMBIENT_RAISE`.
const NO_AMBIENT: u32 = 1 << 6;

/// The bits that lock the bit below each.
const LOCKS: u32 = 0b1010_1010;

/// Every security bit.
const SECURITY: u32 = 0xff;

/// A thread may not do that to its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPermitted;

/// The capabilities of a thread, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Those that checks are made against.
    pub effective: u64,
    /// Those that it may make effective.
    pub permitted: u64,
    /// Those that a program with the right file attributes would keep.
    pub inheritable: u64,
    /// The most that `execve` can give.
    pub bounding: u64,
    /// Those that every program keeps.
    pub ambient: u64,
    /// The security bits.
    pub security: u32,
}

impl Capabilities {
    /// What root begins with.
    pub const ROOT: Self = Self {
        effective: ALL,
        permitted: ALL,
        inheritable: 0,
        bounding: ALL,
        ambient: 0,
        security: 0,
    };

    /// Sets three of the sets, as `capset` does.
    ///
    /// # Errors
    /// [`NotPermitted`] for what would be a gain.
    pub fn set(&mut self, effective: u64, permitted: u64, inheritable: u64) -> Result<(), NotPermitted> {
        let (effective, permitted, inheritable) = (effective & ALL, permitted & ALL, inheritable & ALL);
        let may_inherit = match self.effective & SETPCAP {
            0 => self.inheritable | self.permitted,
            _ => ALL,
        };
        let is_fine = inheritable & !may_inherit == 0
            && inheritable & !(self.inheritable | self.bounding) == 0
            && permitted & !self.permitted == 0
            && effective & !permitted == 0;
        if !is_fine {
            return Err(NotPermitted);
        }
        (self.effective, self.permitted, self.inheritable) = (effective, permitted, inheritable);
        self.ambient &= permitted & inheritable;
        Ok(())
    }

    /// Whether upper limits may be raised.
    #[must_use]
    pub const fn may_raise_limits(&self) -> bool {
        self.effective & SYS_RESOURCE != 0
    }

    /// Whether processes may be looked into that have asked not to be.
    #[must_use]
    pub const fn may_look_into_others(&self) -> bool {
        self.effective & SYS_PTRACE != 0
    }

    /// Takes one out of the bounding set.
    ///
    /// # Errors
    /// [`NotPermitted`] without `CAP_SETPCAP`.
    pub fn drop_from_bounding(&mut self, capability: u32) -> Result<(), NotPermitted> {
        if self.effective & SETPCAP == 0 {
            return Err(NotPermitted);
        }
        self.bounding &= !(1 << capability);
        Ok(())
    }

    /// Adds one to the ambient set.
    ///
    /// # Errors
    /// [`NotPermitted`] unless it is permitted and inheritable, and the security bits allow it.
    pub fn raise_ambient(&mut self, capability: u32) -> Result<(), NotPermitted> {
        if self.permitted & self.inheritable & 1 << capability == 0 || self.security & NO_AMBIENT != 0 {
            return Err(NotPermitted);
        }
        self.ambient |= 1 << capability;
        Ok(())
    }

    /// Sets the security bits.
    ///
    /// # Errors
    /// [`NotPermitted`] for bits that are locked or not known, or without `CAP_SETPCAP`.
    pub fn set_security(&mut self, bits: u32) -> Result<(), NotPermitted> {
        let locked = (self.security & LOCKS) >> 1;
        let is_fine = (self.security ^ bits) & locked == 0
            && self.security & LOCKS & !bits == 0
            && bits & !SECURITY == 0
            && self.effective & SETPCAP != 0;
        if !is_fine {
            return Err(NotPermitted);
        }
        self.security = bits;
        Ok(())
    }

    /// What `execve` makes of them, for user 0.
    pub fn execute(&mut self) {
        self.permitted = match self.security & NO_ROOT {
            0 => self.bounding | self.inheritable,
            _ => self.ambient,
        };
        self.effective = self.permitted;
        self.security &= !KEEP;
    }
}
