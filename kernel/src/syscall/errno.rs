//! The one table from the kernel's typed errors to Linux error numbers.
//!
//! Every module reports what went wrong in its own type; the conversion to a number happens here and nowhere else, so
//! that a person who wants to know why a call returned `ENOMEM` reads one file.

use faultline_fallible::AllocError;
use faultline_mm::{PageError, SwapError, UserCopyError, VasError};
use linux_raw_sys::errno as linux;

use crate::arch::fpu::OutOfMemory;
use crate::exec::ExecError;
use crate::process::record::AddError;
use crate::process::tree::{GroupError, NumberError};
use crate::signal::QueueFull;

/// A Linux error number, as a system call returns it (negated) in `rax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(u32);

macro_rules! numbers {
    ($($name:ident)*) => {
        #[allow(missing_docs, reason = "the names are those of errno(3)")]
        impl Errno { $(pub const $name: Self = Self(linux::$name);)* }
    };
}

numbers! {
    EPERM ENOENT EIO ESRCH EINTR E2BIG ENOEXEC ELIBBAD EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EEXIST ENOTDIR EISDIR EINVAL
    EMFILE ENOTTY ESPIPE EPIPE ERANGE ENAMETOOLONG ENOSYS ELOOP EOVERFLOW ETIMEDOUT ENODEV ENOSPC ENOTEMPTY EBUSY EFBIG EOPNOTSUPP
    ENOLCK EDEADLK ENXIO ESTALE EROFS EXDEV ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
    ESOCKTNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETUNREACH ECONNRESET EISCONN ENOTCONN ETOOMANYREFS
    ECONNREFUSED EALREADY EINPROGRESS EDOM ENOMSG EIDRM
}

impl Errno {
    /// The call was cut short by a signal; it is made again after a handler with `SA_RESTART`. Never seen in user mode.
    pub const ERESTARTSYS: Self = Self(512);
    /// The call was cut short by a signal; it is made again only if no handler ran. Never seen in user mode.
    pub const ERESTARTNOHAND: Self = Self(514);

    /// As [`ERESTARTNOHAND`](Self::ERESTARTNOHAND), by a call that has kept its deadline for that. Never seen in user mode.
    pub const ERESTARTBLOCK: Self = Self(516);

    /// Another call changes the address space in steps, or this one takes more than one: it waits for its turn. Never seen
    /// in user mode.
    pub const EWAIT: Self = Self(517);

    /// The number, which is not negated.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The error of a number that was kept; none for 0.
    #[must_use]
    pub const fn kept(number: u32) -> Option<Self> {
        match number {
            0 => None,
            _ => Some(Self(number)),
        }
    }

    /// The value of `rax` that says this error.
    #[must_use]
    pub const fn to_register(self) -> u64 {
        (self.0 as u64).wrapping_neg()
    }
}

impl From<VasError> for Errno {
    fn from(error: VasError) -> Self {
        match error {
            VasError::EmptyRange { .. } | VasError::Unaligned { .. } | VasError::BadRange { .. } => Self::EINVAL,
            VasError::Overlap { .. } => Self::EEXIST,
            VasError::NotMapped { .. }
            | VasError::NoRoom { .. }
            | VasError::OutOfMemory { .. }
            | VasError::TooManyRegions { .. }
            | VasError::BadBreak { .. }
            | VasError::NoKernelMemory
            | VasError::NoTable => Self::ENOMEM,
            VasError::Busy => Self::EWAIT,
            VasError::BadStack { .. }
            | VasError::BadFrame { .. }
            | VasError::AlreadyInitialized { .. }
            | VasError::WrongKind { .. } => Self::EINVAL,
            VasError::Forbidden { .. } => Self::EACCES,
        }
    }
}

impl From<PageError> for Errno {
    fn from(error: PageError) -> Self {
        match error {
            PageError::NotResident { .. } => Self::EWAIT,
            PageError::ReadFailed { .. } => Self::EIO,
            PageError::OutOfMemory { .. } => Self::ENOSPC,
        }
    }
}

impl From<SwapError> for Errno {
    fn from(error: SwapError) -> Self {
        match error {
            SwapError::AlreadyOn => Self::EPERM,
            SwapError::Off | SwapError::TooSmall => Self::EINVAL,
            SwapError::ReadOnly => Self::EACCES,
            SwapError::Closing => Self::EBUSY,
            SwapError::Unreadable { .. } => Self::EIO,
            SwapError::Full | SwapError::TooManyReferences | SwapError::OutOfMemory | SwapError::NoKernelMemory => {
                Self::ENOMEM
            }
        }
    }
}

impl From<UserCopyError> for Errno {
    fn from(_: UserCopyError) -> Self {
        Self::EFAULT
    }
}

impl From<QueueFull> for Errno {
    fn from(_: QueueFull) -> Self {
        Self::EAGAIN
    }
}

impl From<NumberError> for Errno {
    fn from(error: NumberError) -> Self {
        match error {
            NumberError::NoneFree => Self::EAGAIN,
            NumberError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<AddError> for Errno {
    fn from(error: AddError) -> Self {
        match error {
            AddError::Ending => Self::EAGAIN,
            AddError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<GroupError> for Errno {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::NotOwn => Self::ESRCH,
            GroupError::Executed => Self::EACCES,
            GroupError::Forbidden => Self::EPERM,
        }
    }
}

impl From<AllocError> for Errno {
    fn from(_: AllocError) -> Self {
        Self::ENOMEM
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        Self::ENOMEM
    }
}

impl From<ExecError> for Errno {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::NotFound(errno) | ExecError::LinkerNotFound(errno) => errno,
            ExecError::NotExecutable | ExecError::LinkerNotExecutable => Self::EACCES,
            ExecError::LinkerElf(_) => Self::ELIBBAD,
            ExecError::Elf(_) | ExecError::NoInterpreter => Self::ENOEXEC,
            ExecError::TooManyScripts => Self::ELOOP,
            ExecError::Space(error) => error.into(),
            ExecError::Unreadable(errno) => errno,
            ExecError::Memory(error) => error.into(),
            ExecError::TooManyArguments => Self::E2BIG,
            ExecError::NoKernelMemory => Self::ENOMEM,
        }
    }
}
