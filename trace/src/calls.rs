//! Linux's system calls: their names, and what their arguments are.
//!
//! The kernel reads from this table which arguments point to something that a trace should keep ([`Argument::reads`]); the
//! tool reads from it how to print them. A call that is not in it has six numbers.

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A signed number.
    Signed,
    /// An unsigned number.
    Unsigned,
    /// A number that is read in hexadecimal, or an address.
    Hex,
    /// Permission bits, which are read in octal.
    Octal,
    /// A file descriptor.
    Descriptor,
    /// A signal.
    Signal,
    /// The address of a text that ends with a zero.
    Text,
    /// The address of bytes, of which the next argument says how many there are.
    Bytes,
    /// The address of seconds and nanoseconds.
    Time,
    /// Bits.
    Flags(Names),
    /// One of several numbers.
    Choice(Names),
    /// One of several numbers in the low bits, and bits.
    ChoiceAndFlags(Names, Names),
}

/// Numbers and their names.
pub type Names = &'static [(u64, &'static str)];

/// What a call returns, where it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// A number.
    Number,
    /// An address.
    Address,
}

/// A system call.
#[derive(Clone, Copy, Debug)]
pub struct SystemCall {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: &'static [Argument],
    /// What it returns.
    pub returned: Returned,
}

/// The most bytes of one argument that a trace keeps.
pub const KEPT: usize = 64;

impl Argument {
    /// How many bytes are to be read for argument `index` of `values`; none if it is a plain number. A text may end earlier.
    #[must_use]
    pub fn reads(self, values: &[u64; 6], index: usize) -> Option<usize> {
        let bytes = match self {
            Self::Text => KEPT,
            Self::Bytes => usize::try_from(*values.get(index + 1)?).unwrap_or(KEPT).min(KEPT),
            Self::Time => 16,
            _ => return None,
        };
        (*values.get(index)? != 0 && bytes > 0).then_some(bytes)
    }
}

/// The call of this number.
#[must_use]
pub fn find(number: u64) -> Option<&'static SystemCall> {
    CALLS
        .binary_search_by_key(&number, |call| call.number)
        .ok()
        .map(|place| &CALLS[place])
}

use Argument::{Bytes, Choice, ChoiceAndFlags, Descriptor, Flags, Hex, Octal, Signal, Signed, Text, Time, Unsigned};

const OPEN: Argument = ChoiceAndFlags(
    &[(0, "O_RDONLY"), (1, "O_WRONLY"), (2, "O_RDWR"), (3, "3")],
    &[
        (0o100, "O_CREAT"),
        (0o200, "O_EXCL"),
        (0o400, "O_NOCTTY"),
        (0o1000, "O_TRUNC"),
        (0o2000, "O_APPEND"),
        (0o4000, "O_NONBLOCK"),
        (0o100_000, "O_LARGEFILE"),
        (0o200_000, "O_DIRECTORY"),
        (0o400_000, "O_NOFOLLOW"),
        (0o2_000_000, "O_CLOEXEC"),
        (0o10_000_000, "O_PATH"),
    ],
);
const PIPE: Argument = Flags(&[(0o4000, "O_NONBLOCK"), (0o2_000_000, "O_CLOEXEC")]);
const PROTECTION: Argument = Flags(&[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")]);
const MAPPING: Argument = ChoiceAndFlags(
    &[
        (0, "0"),
        (1, "MAP_SHARED"),
        (2, "MAP_PRIVATE"),
        (3, "MAP_SHARED_VALIDATE"),
    ],
    &[
        (0x10, "MAP_FIXED"),
        (0x20, "MAP_ANONYMOUS"),
        (0x100, "MAP_GROWSDOWN"),
        (0x2000, "MAP_LOCKED"),
        (0x4000, "MAP_NORESERVE"),
        (0x8000, "MAP_POPULATE"),
        (0x20000, "MAP_STACK"),
        (0x40000, "MAP_HUGETLB"),
        (0x10_0000, "MAP_FIXED_NOREPLACE"),
    ],
);
const REMAPPING: Argument = Flags(&[(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED"), (4, "MREMAP_DONTUNMAP")]);
const ADVICE: Argument = Choice(&[
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (10, "MADV_DONTFORK"),
    (11, "MADV_DOFORK"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (18, "MADV_WIPEONFORK"),
    (19, "MADV_KEEPONFORK"),
    (20, "MADV_COLD"),
    (21, "MADV_PAGEOUT"),
    (22, "MADV_POPULATE_READ"),
    (23, "MADV_POPULATE_WRITE"),
]);
const CLONING: Argument = Flags(&[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x10000, "CLONE_THREAD"),
    (0x40000, "CLONE_SYSVSEM"),
    (0x80000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x11, "SIGCHLD"),
]);
const FUTEX: Argument = ChoiceAndFlags(
    &[
        (0, "FUTEX_WAIT"),
        (1, "FUTEX_WAKE"),
        (3, "FUTEX_REQUEUE"),
        (4, "FUTEX_CMP_REQUEUE"),
        (5, "FUTEX_WAKE_OP"),
        (9, "FUTEX_WAIT_BITSET"),
        (10, "FUTEX_WAKE_BITSET"),
    ],
    &[(128, "FUTEX_PRIVATE_FLAG"), (256, "FUTEX_CLOCK_REALTIME")],
);
const CLOCK: Argument = Choice(&[
    (0, "CLOCK_REALTIME"),
    (1, "CLOCK_MONOTONIC"),
    (2, "CLOCK_PROCESS_CPUTIME_ID"),
    (3, "CLOCK_THREAD_CPUTIME_ID"),
    (4, "CLOCK_MONOTONIC_RAW"),
    (5, "CLOCK_REALTIME_COARSE"),
    (6, "CLOCK_MONOTONIC_COARSE"),
    (7, "CLOCK_BOOTTIME"),
]);
const MASKING: Argument = Choice(&[(0, "SIG_BLOCK"), (1, "SIG_UNBLOCK"), (2, "SIG_SETMASK")]);
const WHENCE: Argument = Choice(&[
    (0, "SEEK_SET"),
    (1, "SEEK_CUR"),
    (2, "SEEK_END"),
    (3, "SEEK_DATA"),
    (4, "SEEK_HOLE"),
]);
const WAITING: Argument = Flags(&[
    (1, "WNOHANG"),
    (2, "WUNTRACED"),
    (4, "WEXITED"),
    (8, "WCONTINUED"),
    (0x100_0000, "WNOWAIT"),
]);
const AT: Argument = Flags(&[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x200, "AT_REMOVEDIR"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x1000, "AT_EMPTY_PATH"),
]);
const ACCESS: Argument = Flags(&[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")]);
const CONTROL: Argument = Choice(&[
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
]);
const PROCESSOR: Argument = Choice(&[
    (0x1001, "ARCH_SET_GS"),
    (0x1002, "ARCH_SET_FS"),
    (0x1003, "ARCH_GET_FS"),
    (0x1004, "ARCH_GET_GS"),
]);

/// Declares the table.
macro_rules! calls {
    ($($number:literal $name:ident($($argument:expr),*) $(-> $returned:ident)?;)*) => {
        /// The calls, by their numbers.
        pub const CALLS: &[SystemCall] = &[$(SystemCall {
            number: $number,
            name: stringify!($name),
            arguments: &[$($argument),*],
            returned: calls!(@ $($returned)?),
        }),*];
    };
    (@) => { Returned::Number };
    (@ $returned:ident) => { Returned::$returned };
}

calls! {
    0 read(Descriptor, Hex, Unsigned);
    1 write(Descriptor, Bytes, Unsigned);
    2 open(Text, OPEN, Octal);
    3 close(Descriptor);
    4 stat(Text, Hex);
    5 fstat(Descriptor, Hex);
    6 lstat(Text, Hex);
    7 poll(Hex, Unsigned, Signed);
    8 lseek(Descriptor, Signed, WHENCE);
    9 mmap(Hex, Unsigned, PROTECTION, MAPPING, Descriptor, Hex) -> Address;
    10 mprotect(Hex, Unsigned, PROTECTION);
    11 munmap(Hex, Unsigned);
    12 brk(Hex) -> Address;
    13 rt_sigaction(Signal, Hex, Hex, Unsigned);
    14 rt_sigprocmask(MASKING, Hex, Hex, Unsigned);
    15 rt_sigreturn();
    16 ioctl(Descriptor, Hex, Hex);
    17 pread64(Descriptor, Hex, Unsigned, Signed);
    18 pwrite64(Descriptor, Bytes, Unsigned, Signed);
    19 readv(Descriptor, Hex, Unsigned);
    20 writev(Descriptor, Hex, Unsigned);
    21 access(Text, ACCESS);
    22 pipe(Hex);
    23 select(Signed, Hex, Hex, Hex, Hex);
    24 sched_yield();
    25 mremap(Hex, Unsigned, Unsigned, REMAPPING, Hex) -> Address;
    27 mincore(Hex, Unsigned, Hex);
    28 madvise(Hex, Unsigned, ADVICE);
    32 dup(Descriptor);
    33 dup2(Descriptor, Descriptor);
    34 pause();
    35 nanosleep(Time, Hex);
    36 getitimer(Signed, Hex);
    37 alarm(Unsigned);
    38 setitimer(Signed, Hex, Hex);
    39 getpid();
    40 sendfile(Descriptor, Descriptor, Hex, Unsigned);
    56 clone(CLONING, Hex, Hex, Hex, Hex);
    57 fork();
    58 vfork();
    59 execve(Text, Hex, Hex);
    60 exit(Signed);
    61 wait4(Signed, Hex, WAITING, Hex);
    62 kill(Signed, Signal);
    63 uname(Hex);
    72 fcntl(Descriptor, CONTROL, Hex);
    76 truncate(Text, Signed);
    77 ftruncate(Descriptor, Signed);
    79 getcwd(Hex, Unsigned);
    80 chdir(Text);
    81 fchdir(Descriptor);
    82 rename(Text, Text);
    83 mkdir(Text, Octal);
    84 rmdir(Text);
    85 creat(Text, Octal);
    86 link(Text, Text);
    87 unlink(Text);
    88 symlink(Text, Text);
    89 readlink(Text, Hex, Unsigned);
    90 chmod(Text, Octal);
    92 chown(Text, Signed, Signed);
    95 umask(Octal);
    96 gettimeofday(Hex, Hex);
    97 getrlimit(Unsigned, Hex);
    98 getrusage(Signed, Hex);
    99 sysinfo(Hex);
    100 times(Hex);
    102 getuid();
    104 getgid();
    107 geteuid();
    108 getegid();
    109 setpgid(Signed, Signed);
    110 getppid();
    111 getpgrp();
    112 setsid();
    121 getpgid(Signed);
    124 getsid(Signed);
    127 rt_sigpending(Hex, Unsigned);
    128 rt_sigtimedwait(Hex, Hex, Time, Unsigned);
    130 rt_sigsuspend(Hex, Unsigned);
    131 sigaltstack(Hex, Hex);
    157 prctl(Unsigned, Hex);
    158 arch_prctl(PROCESSOR, Hex);
    160 setrlimit(Unsigned, Hex);
    167 swapon(Text, Hex);
    168 swapoff(Text);
    186 gettid();
    200 tkill(Signed, Signal);
    201 time(Hex);
    202 futex(Hex, FUTEX, Unsigned, Hex, Hex, Unsigned);
    204 sched_getaffinity(Signed, Unsigned, Hex);
    217 getdents64(Descriptor, Hex, Unsigned);
    218 set_tid_address(Hex);
    228 clock_gettime(CLOCK, Hex);
    229 clock_getres(CLOCK, Hex);
    230 clock_nanosleep(CLOCK, Flags(&[(1, "TIMER_ABSTIME")]), Time, Hex);
    231 exit_group(Signed);
    234 tgkill(Signed, Signed, Signal);
    247 waitid(Unsigned, Signed, Hex, WAITING, Hex);
    257 openat(Descriptor, Text, OPEN, Octal);
    258 mkdirat(Descriptor, Text, Octal);
    262 newfstatat(Descriptor, Text, Hex, AT);
    263 unlinkat(Descriptor, Text, AT);
    264 renameat(Descriptor, Text, Descriptor, Text);
    265 linkat(Descriptor, Text, Descriptor, Text, AT);
    266 symlinkat(Text, Descriptor, Text);
    267 readlinkat(Descriptor, Text, Hex, Unsigned);
    268 fchmodat(Descriptor, Text, Octal);
    269 faccessat(Descriptor, Text, ACCESS);
    270 pselect6(Signed, Hex, Hex, Hex, Time, Hex);
    271 ppoll(Hex, Unsigned, Time, Hex);
    273 set_robust_list(Hex, Unsigned);
    274 get_robust_list(Signed, Hex, Hex);
    280 utimensat(Descriptor, Text, Hex, AT);
    283 timerfd_create(CLOCK, PIPE);
    286 timerfd_settime(Descriptor, Flags(&[(1, "TFD_TIMER_ABSTIME")]), Hex, Hex);
    287 timerfd_gettime(Descriptor, Hex);
    292 dup3(Descriptor, Descriptor, PIPE);
    293 pipe2(Hex, PIPE);
    302 prlimit64(Signed, Unsigned, Hex, Hex);
    309 getcpu(Hex, Hex);
    316 renameat2(Descriptor, Text, Descriptor, Text, Hex);
    318 getrandom(Hex, Unsigned, Flags(&[(1, "GRND_NONBLOCK"), (2, "GRND_RANDOM")]));
    319 memfd_create(Text, Flags(&[(1, "MFD_CLOEXEC"), (2, "MFD_ALLOW_SEALING")]));
    324 membarrier(Signed, Hex, Signed);
    332 statx(Descriptor, Text, AT, Hex, Hex);
    334 rseq(Hex, Unsigned, Hex, Hex);
    435 clone3(Hex, Unsigned);
    439 faccessat2(Descriptor, Text, ACCESS, AT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_every_call_is_found() {
        assert!(CALLS.is_sorted_by_key(|call| call.number));
        for call in CALLS {
            assert_eq!(find(call.number).map(|found| found.name), Some(call.name));
            assert!(call.arguments.len() <= 6, "{}", call.name);
        }
        assert!(find(26).is_none());
    }

    #[test]
    fn what_is_read_is_bounded() {
        let values = [1, 0x1000, 5, 0, 0, 0];
        assert_eq!(Bytes.reads(&values, 1), Some(5));
        assert_eq!(Bytes.reads(&[1, 0x1000, u64::MAX, 0, 0, 0], 1), Some(KEPT));
        assert_eq!(Bytes.reads(&[1, 0, 9, 0, 0, 0], 1), None, "a null pointer");
        assert_eq!(Text.reads(&values, 1), Some(KEPT));
        assert_eq!(Hex.reads(&values, 1), None);
        assert_eq!(Bytes.reads(&values, 5), None, "no argument says how many");
    }
}
