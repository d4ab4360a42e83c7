//! A million system calls with wild numbers and pointers.
//!
//! The calls are made by one child after another, because many of them end the one that makes it: by a signal, by
//! `exit`, or because its own code is unmapped. A child that makes no call for a while is stuck in one that waits, and
//! is killed. The program's own end says that the kernel has survived; that nothing is missing there is for the kernel
//! to say.

use std::arch::asm;
use std::time::{Duration, Instant};

use faultline_user::sequence::random::Random;
use faultline_user::{Access, Arguments, Mapping, PAGE, fail, fork};

/// How long a child may make no call.
const PATIENCE: Duration = Duration::from_millis(2);

/// How long a child is left alone before it is looked at again.
const GLANCE: Duration = Duration::from_micros(300);

/// The highest number of a call that is made more often than by chance.
const KNOWN: u64 = 470;

/// Where the calls' own memory lies.
const PAGES: usize = 16;

/// Pages that can't be written behind it.
const GUARD: usize = 64;

/// The words of the shared page.
const CALLS: usize = 0;

fn main() {
    let mut arguments = Arguments::new("calls [--count N] [--seed N]");
    let (mut count, mut seed) = (1_000_000_u64, 1_u64);
    while let Some(word) = arguments.next_word() {
        match word.as_str() {
            "--count" => count = arguments.value(),
            "--seed" => seed = arguments.value(),
            _ => arguments.wrong(),
        }
    }
    if count == 0 {
        arguments.wrong();
    }
    let shared = Mapping::shared(PAGE);
    // Behind the pages of the calls there are some that nobody can write, so that no call reaches the count.
    let scratch = Mapping::private((PAGES + GUARD) * PAGE);
    scratch.protect(PAGES..PAGES + GUARD, Access::None);
    let (mut children, mut stuck) = (0_u64, 0_u64);
    while shared.read(CALLS) < count {
        let before = shared.read(CALLS);
        let mut random = Random::new(seed.wrapping_mul(1 << 32).wrapping_add(children));
        children += 1;
        let child = fork(|| make_calls(&mut random, &shared, &scratch, count));
        stuck += u64::from(!child.watch(&shared));
        reap_orphans();
        if shared.read(CALLS) < before {
            fail("the count went back");
        }
    }
    println!("{count} calls");
    eprintln!("{children} children, of which {stuck} were stuck");
}

/// Waits for what the children have left behind, as far as it has ended.
fn reap_orphans() {
    let mut status = 0;
    // SAFETY: `status` is a place for the call to write to, and outlives it.
    while unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } > 0 {}
}

trait Watch {
    fn watch(self, shared: &Mapping) -> bool;
}

impl Watch for faultline_user::Child {
    /// Waits for the end of the child, which comes by itself or, when it makes no call, by force. Says whether it came by
    /// itself.
    fn watch(self, shared: &Mapping) -> bool {
        let (mut seen, mut since) = (shared.read(CALLS), Instant::now());
        while !self.has_ended() {
            std::thread::sleep(GLANCE);
            let now = shared.read(CALLS);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                self.kill(libc::SIGKILL);
                let _ = self.wait();
                return false;
            }
        }
        let _ = self.wait();
        true
    }
}

/// The child: calls until it ends, or until there are enough.
fn make_calls(random: &mut Random, shared: &Mapping, scratch: &Mapping, count: u64) {
    // A group of its own, so that a signal for the group spares the parent.
    // SAFETY: the calls touch no memory.
    let parent = unsafe {
        libc::setsid();
        u64::from(libc::getppid().unsigned_abs())
    };
    open_files();
    loop {
        let made = shared.read(CALLS);
        if made >= count {
            return;
        }
        shared.write(CALLS, made + 1);
        let number = if random.once_in(16) {
            random.word() >> random.below(64)
        } else {
            random.below(KNOWN)
        };
        let mut values = [0; 6];
        for value in &mut values {
            *value = argument(random, scratch);
        }
        if spares_parent(number, &values, parent) {
            call(number, values);
        }
    }
}

/// Files under the small numbers that the calls use: one of each kind. What is written goes nowhere that is slow.
fn open_files() {
    let mut pipe = [0; 2];
    // SAFETY: the paths are C strings, and the call for a pipe writes two words to the array.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        libc::close(null);
        libc::pipe(pipe.as_mut_ptr());
        for path in [c"/proc/self/exe", c"/proc/self/maps", c"/dev/zero", c"/"] {
            libc::open(path.as_ptr(), libc::O_RDONLY);
        }
        libc::memfd_create(c"file".as_ptr(), 0);
        libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
    }
}

/// An argument: an address of the program's own or of nobody's, a small number, or anything.
fn argument(random: &mut Random, scratch: &Mapping) -> u64 {
    let base = scratch.address(0).expose_provenance() as u64;
    let inside = random.below((PAGES * PAGE) as u64);
    match random.below(16) {
        0..4 => base + inside,
        4 | 5 => base + (inside & !0xfff),
        6..10 => random.below(12),
        10 => random.below(1 << 16),
        11 => 1 << random.below(64),
        12 => (1_u64 << random.below(64)).wrapping_neg(),
        13 => 0x40_0000 + random.below(1 << 20),
        14 => 0x7fff_ffff_f000_u64
            .wrapping_add(random.below(0x3000))
            .wrapping_sub(0x1000),
        _ => random.word(),
    }
}

/// Whether a call leaves the parent alone, and this machine, should this be a Linux: it sends no signal to others and
/// sets no limit of theirs.
fn spares_parent(number: u64, values: &[u64; 6], parent: u64) -> bool {
    const CALLS_TO_OTHERS: [i64; 7] = [
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_send_signal,
        libc::SYS_prlimit64,
    ];
    // By its number, or by that of its group, which is the same.
    let names_parent = values[..2]
        .iter()
        .any(|&value| u64::from((value as u32).cast_signed().unsigned_abs()) == parent);
    let reaches_others = CALLS_TO_OTHERS
        .iter()
        .any(|&call| call.cast_unsigned() == number & 0xffff_ffff);
    // -1 is everybody but the first program: nobody but children of this one.
    !(reaches_others && names_parent)
}

/// Makes a call. Whoever comes back from it as a child of its own ends at once.
fn call(number: u64, [a, b, c, d, e, f]: [u64; 6]) {
    let own = std::process::id();
    // SAFETY: the call may do anything to this process, which exists for that and which nobody relies on: its parent
    // has memory of its own, but for one page of which it reads only a count.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => _,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    if std::process::id() != own {
        // SAFETY: the call doesn't return.
        unsafe { libc::_exit(0) }
    }
}
