//! The resource limits of a process: what `setrlimit` sets, and who holds them.
//!
//! A process inherits the values of the one that made it, and keeps them across `execve`. Its threads share them. Whoever
//! grants a resource asks for the current value with [`Limits::current`], one load, and refuses what goes beyond:
//!
//! | limit | held by |
//! |---|---|
//! | [`CPU`](Resource::CPU) | the CPU clock of the process: `SIGXCPU`, then `SIGKILL` |
//! | [`NPROC`](Resource::NPROC) | `clone` |
//! | [`SIGPENDING`](Resource::SIGPENDING) | queues of signals |
//! | [`NOFILE`](Resource::NOFILE), [`FSIZE`](Resource::FSIZE) | descriptors and writes to files |
//! | [`AS`](Resource::AS), [`DATA`](Resource::DATA), [`STACK`](Resource::STACK), [`MEMLOCK`](Resource::MEMLOCK) | address spaces |
//!
//! The others limit what this kernel does not have; no core file is written whatever [`CORE`](Resource::CORE) says. A process
//! may raise its upper limits with `CAP_SYS_RESOURCE`; descriptors never beyond what a table can have.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;
use spin::Mutex;

use super::tree;
use crate::fs::table;
use crate::signal::pending;

const COUNT: usize = linux::RLIM_NLIMITS as usize;

/// A resource whose use is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource(u8);

macro_rules! resources {
    ($($name:ident = $number:ident)*) => {
        #[allow(missing_docs, dead_code, reason = "every limit that can be set has the name of getrlimit(2)")]
        impl Resource { $(pub const $name: Self = Self(linux::$number as u8);)* }
    };
}

resources! {
    CPU = RLIMIT_CPU FSIZE = RLIMIT_FSIZE DATA = RLIMIT_DATA STACK = RLIMIT_STACK CORE = RLIMIT_CORE
    NPROC = RLIMIT_NPROC NOFILE = RLIMIT_NOFILE MEMLOCK = RLIMIT_MEMLOCK AS = RLIMIT_AS
    SIGPENDING = RLIMIT_SIGPENDING MSGQUEUE = RLIMIT_MSGQUEUE NICE = RLIMIT_NICE RTPRIO = RLIMIT_RTPRIO
}

impl Resource {
    /// The resource of that number, if there is one.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number < COUNT as u64 {
            Some(Self(number as u8))
        } else {
            None
        }
    }
}

/// The limits of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is held.
    pub current: u64,
    /// How far the process may raise it.
    pub most: u64,
}

impl Limit {
    /// No limit.
    pub const INFINITY: u64 = u64::MAX;

    const fn of(most: u64) -> Self {
        Self { current: most, most }
    }

    /// The limit of a program that the kernel starts.
    pub const fn first(resource: Resource) -> Self {
        const LOCKED: u64 = 8 << 20;
        match resource {
            Resource::STACK => Self {
                current: 8 << 20,
                most: Self::INFINITY,
            },
            Resource::NOFILE => Self::of(table::LIMIT as u64),
            Resource::NPROC => Self::of(tree::MAX_THREADS as u64),
            Resource::MEMLOCK => Self::of(LOCKED),
            Resource::SIGPENDING => Self::of(pending::LIMIT as u64),
            Resource::CORE => Self {
                current: 0,
                most: Self::INFINITY,
            },
            Resource::MSGQUEUE | Resource::NICE | Resource::RTPRIO => Self::of(0),
            _ => Self::of(Self::INFINITY),
        }
    }
}

/// Why a limit was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// The current value would be above the upper one.
    Disordered,
    /// The upper value would be raised.
    Raised,
}

/// The limits of a process.
#[derive(Debug)]
pub struct Limits {
    /// Read without the lock, written under it.
    current: [AtomicU64; COUNT],
    most: Mutex<[u64; COUNT]>,
}

impl Limits {
    /// The limits of a program that the kernel starts.
    #[must_use]
    pub fn first() -> Self {
        let limits: [Limit; COUNT] = core::array::from_fn(|number| Limit::first(Resource(number as u8)));
        Self {
            current: limits.map(|limit| AtomicU64::new(limit.current)),
            most: Mutex::new(limits.map(|limit| limit.most)),
        }
    }

    /// The limits that a new process takes over.
    #[must_use]
    pub fn inherit(&self) -> Self {
        let most = self.most.lock();
        Self {
            current: core::array::from_fn(|number| AtomicU64::new(self.current[number].load(Ordering::Relaxed))),
            most: Mutex::new(*most),
        }
    }

    /// The current value: what is held.
    #[inline]
    #[must_use]
    pub fn current(&self, resource: Resource) -> u64 {
        self.current[usize::from(resource.0)].load(Ordering::Relaxed)
    }

    /// Both values.
    #[must_use]
    pub fn get(&self, resource: Resource) -> Limit {
        let most = self.most.lock();
        Limit {
            current: self.current(resource),
            most: most[usize::from(resource.0)],
        }
    }

    /// Sets both values; returns the ones before. The upper one may be raised if `may_raise`.
    ///
    /// # Errors
    /// When the current value is above the upper one, or the upper one would be raised without the right to.
    pub fn set(&self, resource: Resource, limit: Limit, may_raise: bool) -> Result<Limit, LimitError> {
        let mut most = self.most.lock();
        let index = usize::from(resource.0);
        if limit.current > limit.most {
            return Err(LimitError::Disordered);
        }
        let is_too_much = resource == Resource::NOFILE && limit.most > table::LIMIT as u64;
        if limit.most > most[index] && (!may_raise || is_too_much) {
            return Err(LimitError::Raised);
        }
        let before = Limit {
            current: self.current[index].swap(limit.current, Ordering::Relaxed),
            most: core::mem::replace(&mut most[index], limit.most),
        };
        Ok(before)
    }
}
