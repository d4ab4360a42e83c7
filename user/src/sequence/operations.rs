//! The steps of a sequence.

use std::io;

use super::model::PAGES;
use super::random::{Random, mix};
use super::{ARENA, Counts, DEEPEST, Sequence, probe};
use crate::PAGE;

/// Pages above the first break that a sequence uses.
pub const HEAP_PAGES: u64 = 24;

const SIZE: u64 = PAGE as u64;

/// The base of calls on addresses that the kernel chose. `munmap` gives nothing that would count from it.
const ELSEWHERE: u64 = u64::MAX;

const PROTECTIONS: [libc::c_int; 6] = [
    libc::PROT_NONE,
    libc::PROT_READ,
    libc::PROT_READ | libc::PROT_WRITE,
    libc::PROT_READ | libc::PROT_WRITE,
    libc::PROT_READ | libc::PROT_EXEC,
    libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
];

/// Values that no call takes, or that only just are none.
const WILD: [u64; 10] = [
    1,
    0xfff,
    0x7fff_ffff_f000,
    0x7fff_ffff_e000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX,
    1 << 46,
    ARENA + 7,
];

/// A range of pages of the arena: the first and how many; sometimes none.
fn range(random: &mut Random) -> (u64, u64) {
    let first = random.below(PAGES);
    let most = (PAGES - first).min(if random.once_in(4) { PAGES } else { 8 });
    (first, 1 + random.below(most))
}

fn address(page: u64) -> u64 {
    ARENA + page * SIZE
}

/// A sum of words of a page, all around it, without the one at this offset; 0 if all are 0, nothing if it can't be read.
fn words_but(page: u64, offset: u64) -> Option<u64> {
    let mut sum = 0;
    for at in (0..SIZE).step_by(8).filter(|&at| at != offset) {
        let word = probe::read(address(page) + at).ok()?;
        if word != 0 {
            sum = mix(sum ^ word ^ at) | 1;
        }
    }
    Some(sum)
}

/// A system call: its value, or its error number in the upper half.
fn call(number: libc::c_long, arguments: [u64; 6]) -> Result<u64, u64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: sequences name only addresses of the arena, of the break above everything the program has there, of the
    // upper half, and page 0: nothing of the program's own changes.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Err(u64::from(errno.unsigned_abs()))
    } else {
        Ok(result.cast_unsigned())
    }
}

impl Sequence<'_> {
    pub(super) fn step(&mut self) {
        match self.random.below(100) {
            0..18 => self.map_fixed(),
            18..23 => self.map_elsewhere(),
            23..30 => self.unmap(),
            30..41 => self.protect(),
            41..49 => self.remap(),
            49..59 => self.advise(),
            59..65 => self.move_break(),
            65..70 => self.copy(),
            70..76 => self.wild(),
            76..78 => self.sync(),
            78..82 => self.fork(),
            82..85 => self.lock(),
            85..87 => self.free_lazily(),
            _ => self.touch(),
        }
    }

    /// Makes a call and takes its outcome into the hash; an address counts from `base`, which is [`ELSEWHERE`] if the
    /// arguments are the kernel's choice.
    fn call(&mut self, what: &str, number: libc::c_long, arguments: [u64; 6], base: u64) -> Result<u64, u64> {
        self.counts.calls += 1;
        if self.verbose && base != ELSEWHERE {
            let [a, b, c, d, ..] = arguments;
            let a = if (self.heap..self.heap + 2 * HEAP_PAGES * SIZE).contains(&a) {
                a - self.heap
            } else {
                a
            };
            super::say(format_args!("    {what}({a:#x}, {b:#x}, {c:#x}, {d:#x})\n"));
        }
        let result = call(number, arguments);
        match result {
            Ok(value) => self.fold(what, value.wrapping_sub(base)),
            Err(errno) => self.fold(what, errno << 48),
        }
        result
    }

    /// What to map: flags, descriptor and offset, and the protection.
    fn backing(&mut self, count: u64) -> (libc::c_int, u64, u64, libc::c_int) {
        let none = u64::MAX;
        let protection = self.random.choose(&PROTECTIONS);
        let populate = if self.random.once_in(6) { libc::MAP_POPULATE } else { 0 };
        let reserve = if self.random.once_in(6) { libc::MAP_NORESERVE } else { 0 };
        let more = populate | reserve;
        let file = u64::from(self.file.unsigned_abs());
        match self.random.below(8) {
            0..4 => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more, none, 0, protection),
            4..6 => (libc::MAP_SHARED | libc::MAP_ANONYMOUS | more, none, 0, protection),
            6 => {
                let offset = self.random.below(count + 40) * SIZE;
                (libc::MAP_PRIVATE | more, file, offset, protection)
            }
            _ => {
                let offset = self.random.below(count + 400) * SIZE;
                (libc::MAP_SHARED | more, file, offset, protection)
            }
        }
    }

    fn map_fixed(&mut self) {
        let (first, count) = range(&mut self.random);
        let (flags, file, offset, protection) = self.backing(count);
        let arguments = [
            address(first),
            count * SIZE,
            protection as u64,
            (flags | libc::MAP_FIXED) as u64,
            file,
            offset,
        ];
        if self.call("mmap", libc::SYS_mmap, arguments, ARENA).is_ok() {
            self.model.map(first, count);
            self.stamp(first, count);
        }
    }

    /// Without `MAP_FIXED`: where the kernel says, if it is in the arena, else nowhere.
    fn map_elsewhere(&mut self) {
        let (first, count) = range(&mut self.random);
        let (flags, file, offset, protection) = self.backing(count);
        let no_replace = if self.random.once_in(2) {
            libc::MAP_FIXED_NOREPLACE
        } else {
            0
        };
        self.counts.calls += 1;
        let arguments = [
            address(first),
            count * SIZE,
            protection as u64,
            (flags | no_replace) as u64,
            file,
            offset,
        ];
        match call(libc::SYS_mmap, arguments) {
            Ok(at) if at == address(first) => {
                self.fold("mmap at hint", first);
                self.model.map(first, count);
                self.stamp(first, count);
            }
            Ok(at) => {
                self.fold("mmap elsewhere", count);
                let _ = self.call(
                    "munmap elsewhere",
                    libc::SYS_munmap,
                    [at, count * SIZE, 0, 0, 0, 0],
                    ELSEWHERE,
                );
            }
            Err(errno) => self.fold("mmap by hint", errno << 48),
        }
    }

    fn unmap(&mut self) {
        let (first, count) = range(&mut self.random);
        let length = count * SIZE - self.random.choose(&[0, 0, 1, SIZE - 1]);
        let done = self.call("munmap", libc::SYS_munmap, [address(first), length, 0, 0, 0, 0], 0);
        if done.is_ok() {
            self.model.unmap(first, count);
        }
    }

    fn protect(&mut self) {
        let protection = self.random.choose(&PROTECTIONS) as u64;
        if self.random.once_in(8) {
            let first = self.random.below(HEAP_PAGES);
            let count = 1 + self.random.below(4);
            let place = self.heap + first * SIZE;
            let _ = self.call(
                "mprotect heap",
                libc::SYS_mprotect,
                [place, count * SIZE, protection, 0, 0, 0],
                0,
            );
            return;
        }
        let (first, count) = range(&mut self.random);
        let arguments = [address(first), count * SIZE, protection, 0, 0, 0];
        let _ = self.call("mprotect", libc::SYS_mprotect, arguments, 0);
        // Even one that fails may have changed what lies before the hole.
        self.model.split(first, count);
    }

    fn remap(&mut self) {
        let start = self.random.below(PAGES);
        let Some((first, whole)) = self.model.piece_from(start) else {
            let arguments = [address(start), SIZE, 2 * SIZE, libc::MREMAP_MAYMOVE as u64, 0, 0];
            let _ = self.call("mremap of nothing", libc::SYS_mremap, arguments, ARENA);
            return;
        };
        let old = 1 + self.random.below(whole);
        let new = 1 + self.random.below(16);
        let (target, _) = range(&mut self.random);
        let flags = self.random.choose(&[
            0,
            libc::MREMAP_MAYMOVE,
            libc::MREMAP_MAYMOVE,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            libc::MREMAP_FIXED,
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP | libc::MREMAP_FIXED,
            libc::MREMAP_DONTUNMAP,
            8,
        ]);
        let keeps = flags & libc::MREMAP_DONTUNMAP != 0;
        // What stays mapped can't change its size.
        let new = if keeps && !self.random.once_in(8) { old } else { new };
        if keeps {
            // Linux unlocks what stays, and all of the mapping that it is a part of, however much was merged into that.
            let _ = self.call("munlockall", libc::SYS_munlockall, [0; 6], 0);
        }
        // A target beyond the spill can't be modelled.
        let new = new.min(super::ALL - target).min(super::ALL - first);
        let arguments = [address(first), old * SIZE, new * SIZE, flags as u64, address(target), 0];
        self.counts.calls += 1;
        if self.verbose {
            super::say(format_args!(
                "    mremap({first} {old} -> {new}, {flags}, {target}) whole {whole}\n"
            ));
        }
        match call(libc::SYS_mremap, arguments) {
            Err(errno) => {
                self.fold("mremap", errno << 48);
                if flags & libc::MREMAP_FIXED != 0 && flags & libc::MREMAP_MAYMOVE != 0 {
                    // What was there may be gone already.
                    self.model.split(target, new);
                    self.model.split(first, old);
                }
            }
            Ok(at) if at == address(first) => {
                self.fold("mremap in place", new);
                self.model.unmap(first, old.max(new));
                self.model.map(first, new);
                let rest = whole.saturating_sub(old.max(new));
                if rest > 0 {
                    self.model.map(first + old.max(new), rest);
                }
            }
            Ok(at) if flags & libc::MREMAP_FIXED != 0 || keeps && at == address(target) => {
                self.fold("mremap to", at.wrapping_sub(ARENA));
                self.leave(first, old, keeps);
                self.model.map(target, new);
            }
            Ok(at) => {
                // The new place is the kernel's choice: see what came along, and let it go.
                self.fold("mremap elsewhere", new);
                self.leave(first, old, keeps);
                for page in 0..new {
                    self.fold_access("moved", at, probe::read(at + page * SIZE), |word| word);
                }
                let _ = self.call(
                    "munmap elsewhere",
                    libc::SYS_munmap,
                    [at, new * SIZE, 0, 0, 0, 0],
                    ELSEWHERE,
                );
            }
        }
    }

    /// These pages have moved; they are unmapped, or stay as a piece without content.
    fn leave(&mut self, first: u64, count: u64, keeps: bool) {
        if keeps {
            self.model.split(first, count);
        } else {
            self.model.unmap(first, count);
        }
    }

    fn advise(&mut self) {
        let (first, count) = range(&mut self.random);
        let advice = self.random.choose(&[
            libc::MADV_DONTNEED,
            libc::MADV_DONTNEED,
            libc::MADV_DONTNEED,
            libc::MADV_NORMAL,
            libc::MADV_SEQUENTIAL,
            libc::MADV_POPULATE_READ,
            libc::MADV_POPULATE_WRITE,
            libc::MADV_PAGEOUT,
            libc::MADV_PAGEOUT,
            libc::MADV_PAGEOUT,
            libc::MADV_COLD,
            libc::MADV_WILLNEED,
            libc::MADV_REMOVE,
            libc::MADV_REMOVE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_WIPEONFORK,
            libc::MADV_KEEPONFORK,
            9999,
        ]);
        let about_forks = matches!(advice, libc::MADV_DONTFORK | libc::MADV_DOFORK);
        let remembered = [
            libc::MADV_NORMAL,
            libc::MADV_SEQUENTIAL,
            libc::MADV_WIPEONFORK,
            libc::MADV_KEEPONFORK,
        ];
        if about_forks || remembered.contains(&advice) {
            // Linux remembers the advice, so what it covers is a piece of its own.
            self.model.split(first, count);
        }
        // What becomes of a break that a child has inherited without its pages is nobody's promise.
        let (place, what) = if self.random.once_in(8) && !about_forks {
            (self.heap + first % HEAP_PAGES * SIZE, "madvise heap")
        } else {
            (address(first), "madvise")
        };
        let _ = self.call(
            what,
            libc::SYS_madvise,
            [place, count * SIZE, advice as u64, 0, 0, 0],
            0,
        );
    }

    fn lock(&mut self) {
        let (first, count) = range(&mut self.random);
        let place = address(first) + self.random.choose(&[0, 0, 1]);
        let length = count * SIZE - self.random.choose(&[0, 0, 1]);
        let (what, number) = self.random.choose(&[
            ("mlock", libc::SYS_mlock),
            ("mlock2", libc::SYS_mlock2),
            ("munlock", libc::SYS_munlock),
            ("munlock", libc::SYS_munlock),
        ]);
        let flags = self.random.choose(&[0, u64::from(libc::MLOCK_ONFAULT), 8]);
        let _ = self.call(what, number, [place, length, flags, 0, 0, 0], 0);
        // Even a call that fails may have marked what lies before the hole.
        self.model
            .split(first, (place + length).div_ceil(SIZE) - address(first) / SIZE);
    }

    /// Lets pages be dropped, and looks at what has become of them.
    ///
    /// A page has all its words still, or none but those that were written after the advice: which, is the kernel's choice at any
    /// time, so it does not go into the hash. Anything else ends the program. In the end the pages are discarded, so that
    /// nothing that follows depends on the choice.
    fn free_lazily(&mut self) {
        let (first, count) = range(&mut self.random);
        let (word, value) = (8 * self.random.below(SIZE / 8), self.random.word());
        let all = [address(first), count * SIZE, 0, 0, 0, 0];
        let advice = |advice: libc::c_int| all.map(|argument| if argument == 0 { advice as u64 } else { argument });
        let mut before = [None; PAGES as usize];
        for page in first..first + count {
            before[page as usize] = words_but(page, word);
        }
        let freed = self.call("madvise free", libc::SYS_madvise, advice(libc::MADV_FREE), 0);
        let mut written = [false; PAGES as usize];
        for page in first..first + count {
            if self.random.once_in(3) {
                // Two pages may be one page of shared memory: all get the same value.
                // SAFETY: nothing of the program's own lies in the arena.
                let outcome = unsafe { probe::write(address(page) + word, value) };
                written[page as usize] = outcome.is_ok();
                self.fold_access("write after free", ARENA, outcome, |()| 0);
            }
        }
        if self.random.once_in(2) {
            // It is a kernel's best reason to drop them now.
            let _ = self.call("madvise pageout", libc::SYS_madvise, advice(libc::MADV_PAGEOUT), 0);
        }
        for page in first..first + count {
            let (was, is) = (before[page as usize], words_but(page, word));
            // A call that fails for its only page has freed nothing.
            let may_be_gone = freed.is_ok() || count > 1;
            let whole = is == was || may_be_gone && is == Some(0);
            let kept = !written[page as usize]
                || probe::read(address(page) + word)
                    .ok()
                    .is_none_or(|found| found == value);
            if !whole || !kept {
                crate::fail(format_args!(
                    "page {page} is neither what it was nor empty after MADV_FREE"
                ));
            }
        }
        let _ = self.call("madvise discard", libc::SYS_madvise, advice(libc::MADV_DONTNEED), 0);
    }

    fn move_break(&mut self) {
        let wanted = self.heap + self.random.below(HEAP_PAGES * SIZE);
        self.counts.calls += 1;
        let end = call(libc::SYS_brk, [wanted, 0, 0, 0, 0, 0]).unwrap_or(0);
        self.fold("brk", end.wrapping_sub(self.heap));
        if end == wanted && wanted > self.heap + 8 {
            // SAFETY: the word lies above the first break and below the new one, where nothing else is.
            let outcome = unsafe { probe::write(wanted - 8, end - self.heap) };
            self.fold_access("heap write", self.heap, outcome, |()| 0);
        }
    }

    fn sync(&mut self) {
        let (first, count) = range(&mut self.random);
        let flags = self
            .random
            .choose(&[libc::MS_ASYNC, libc::MS_SYNC, libc::MS_INVALIDATE, 5, 64]);
        let arguments = [address(first), count * SIZE, flags as u64, 0, 0, 0];
        let _ = self.call("msync", libc::SYS_msync, arguments, 0);
    }

    /// Calls with arguments that are wrong, or nearly so.
    fn wild(&mut self) {
        let wild = [self.random.choose(&WILD), self.random.choose(&WILD)];
        let (first, _) = range(&mut self.random);
        let bad = self.random.choose(&[0, 1, 2]);
        let (place, length) = match bad {
            0 => (wild[0], SIZE),
            1 => (address(first), 0),
            _ => (address(first) + 1, SIZE),
        };
        let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        match self.random.below(6) {
            0 => {
                let flags = self
                    .random
                    .choose(&[private, 0, libc::MAP_ANONYMOUS as u64, private | 3]);
                // Linux takes an address that looks like an error number for one.
                let place = place.min(0xffff_ffff_ffff_0000);
                let _ = self.call(
                    "wild mmap",
                    libc::SYS_mmap,
                    [place, length, 3, flags, u64::MAX, 0],
                    ARENA,
                );
                self.model.split(0, super::ALL);
            }
            1 => {
                let length = self.random.choose(&[0, wild[1]]);
                if place.checked_add(length).is_none_or(|end| end > 1 << 47) {
                    let _ = self.call("wild munmap", libc::SYS_munmap, [place, length, 0, 0, 0, 0], 0);
                }
            }
            2 => {
                let arguments = [place, length, wild[1] & 0xff0, 0, 0, 0];
                let _ = self.call("wild mprotect", libc::SYS_mprotect, arguments, 0);
            }
            3 => {
                let arguments = [address(first) + 1, SIZE, SIZE, 1, 0, 0];
                let _ = self.call("wild mremap", libc::SYS_mremap, arguments, ARENA);
            }
            4 => {
                let arguments = [place, length, 4, 0, 0, 0];
                let _ = self.call("wild madvise", libc::SYS_madvise, arguments, 0);
            }
            _ => {
                let _ = self.call("wild mincore", libc::SYS_mincore, [place, length, 8, 0, 0, 0], 0);
            }
        }
    }

    /// Copies by the kernel: through a pipe from one place of the arena to another.
    fn copy(&mut self) {
        let length = 1 + self.random.below(SIZE);
        let from = ARENA + self.random.below(PAGES * SIZE);
        let to = ARENA + self.random.below(PAGES * SIZE);
        let [reader, writer] = self.pipe.map(|end| u64::from(end.unsigned_abs()));
        let written = self.call("write", libc::SYS_write, [writer, from, length, 0, 0, 0], 0);
        let Ok(written) = written else { return };
        let read = self.call("read", libc::SYS_read, [reader, to, written, 0, 0, 0], 0);
        // What a bad address left in the pipe depends on the kernel; a place of its own takes it.
        let mut rest = [0_u8; PAGE];
        let mut left = written - read.unwrap_or(0).min(written);
        while left > 0 {
            let place = rest.as_mut_ptr().expose_provenance() as u64;
            match call(libc::SYS_read, [reader, place, left.min(SIZE), 0, 0, 0]) {
                Ok(more @ 1..) => left -= more.min(left),
                _ => break,
            }
        }
    }

    /// Writes something to the pages of a new mapping.
    fn stamp(&mut self, first: u64, count: u64) {
        for page in first..first + count {
            if self.random.once_in(3) {
                let value = self.random.word();
                // SAFETY: nothing of the program's own lies in the arena.
                let outcome = unsafe { probe::write(address(page) + 8 * self.random.below(511), value) };
                self.fold_access("stamp", ARENA, outcome, |()| 0);
            }
        }
    }

    fn touch(&mut self) {
        for _ in 0..1 + self.random.below(6) {
            let place = ARENA + self.random.below((PAGES + 2) * SIZE);
            match self.random.below(8) {
                0..4 => self.fold_access("read", ARENA, probe::read(place), |word| word),
                4..7 => {
                    let value = self.random.word();
                    // SAFETY: nothing of the program's own lies in the arena.
                    let outcome = unsafe { probe::write(place, value) };
                    self.fold_access("write", ARENA, outcome, |()| 0);
                }
                _ => self.jump(place & !7),
            }
        }
    }

    fn jump(&mut self, place: u64) {
        const RETURNS: u64 = 0xc3c3_c3c3_c3c3_c3c3;
        // SAFETY: nothing of the program's own lies in the arena.
        let written = unsafe { probe::write(place, RETURNS) };
        self.fold_access("code", ARENA, written, |()| 0);
        let found = probe::read(place);
        // Where the file has ended Linux looks at the file before it looks at the right to execute, and says SIGBUS.
        let no_right = found.is_err_and(|caught| caught.signal == libc::SIGSEGV as u64);
        if no_right || found == Ok(RETURNS) {
            // SAFETY: what can be read there is `ret`; what can't be read can't be executed either, because no page is
            // mapped for execution alone.
            let outcome = unsafe { probe::execute(place) };
            self.fold_access("jump", ARENA, outcome, |()| 0);
        }
    }

    /// A child goes on by itself, or dies by a signal; its end, and what it saw, go into the hash.
    fn fork(&mut self) {
        if self.depth >= DEEPEST {
            return;
        }
        let seed = self.random.word();
        let dies = self.random.once_in(4);
        let slot = (self.depth as usize + 1) * crate::PAGE_WORDS;
        self.counts.forks += 1;
        let end = crate::fork(|| {
            self.depth += 1;
            self.random = Random::new(seed);
            self.counts = Counts {
                hash: seed,
                ..Counts::default()
            };
            if dies {
                probe::let_signals_kill();
            }
            for _ in 0..4 + self.random.below(12) {
                self.step();
            }
            self.look_at_everything();
            let counts = self.counts;
            let words = [counts.hash, counts.calls, counts.accesses, counts.signals, counts.forks];
            for (index, word) in words.into_iter().enumerate() {
                self.results.write(slot + index, word);
            }
        })
        .wait();
        match end {
            crate::Ended::Exit(status) => {
                self.fold("child exit", u64::from(status.unsigned_abs()));
                let hash = self.results.read(slot);
                self.fold("child", hash);
                self.counts.calls += self.results.read(slot + 1);
                self.counts.accesses += self.results.read(slot + 2);
                self.counts.signals += self.results.read(slot + 3);
                self.counts.forks += self.results.read(slot + 4);
            }
            crate::Ended::Signal(signal) => self.fold("child signal", u64::from(signal.unsigned_abs())),
        }
    }
}
