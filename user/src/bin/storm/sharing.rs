//! Scenarios of several threads in one space.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use faultline_user::{Access, Mapping, PAGE, PAGE_WORDS, fail, word};

use crate::memory::{insist, map};
use crate::probe::{self, Answer};
use crate::scenario::{Refused, Task};

/// Threads that meet on each page.
const MEETING: usize = 6;

/// Starts threads. A kernel that has no memory for one of them is no failure, if the caller then ends those that were
/// started.
fn beside<'s, W: FnOnce() + Send + 's>(
    scope: &'s thread::Scope<'s, '_>,
    workers: impl IntoIterator<Item = W>,
) -> Result<(), Refused> {
    for worker in workers {
        let started = thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, worker);
        started.map_err(|_| Refused)?;
    }
    Ok(())
}

/// Where the threads wait for each other after each page.
#[derive(Default)]
struct Meeting {
    /// How often a thread has finished a page, and whether the round is over before its time.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Meeting {
    /// Waits until all threads have finished this page; `false` if they never will.
    fn everybody(&self, page: usize) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let all = MEETING * (page + 1);
        if state.0 == all {
            self.changed.notify_all();
        }
        while state.0 < all && !state.1 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.1
    }

    /// Lets those end that wait for a thread that could not be started.
    fn give_up(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

/// All threads touch the same page at the same time, page by page: each sees the words of all.
pub fn same_page(task: &mut Task) -> Result<(), Refused> {
    let pages = task.settings.pages.min(32);
    let memory = map(pages * PAGE)?;
    let seed = task.content();
    let meeting = Meeting::default();
    let meet = |thread: usize| {
        for page in 0..pages {
            let own = page * PAGE_WORDS + thread;
            memory.write(own, word(seed, own));
            if !meeting.everybody(page) {
                return;
            }
        }
    };
    let result = thread::scope(|scope| {
        let meet = &meet;
        let result = beside(scope, (1..MEETING).map(|thread| move || meet(thread)));
        match result {
            Ok(()) => meet(0),
            Err(Refused) => meeting.give_up(),
        }
        result
    });
    result?;
    for page in 0..pages {
        let first = page * PAGE_WORDS;
        memory.check(first..first + MEETING, seed, "same-page");
        memory.check_zero(first + MEETING..first + PAGE_WORDS, "same-page");
    }
    task.touched(pages);
    Ok(())
}

/// What a page of the arena allows, and its content as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Gone,
    Mapped { access: Access, content: u64 },
}

/// Threads that touch while another changes.
const TOUCHERS: usize = 2;

/// Pages of the arena, and changes in a round.
const ARENA: usize = 48;
const CHANGES: usize = 60;

/// Marks what the touching threads write, so that a word of another process, or of a frame's former life, is found.
fn mark(task: &Task) -> u64 {
    word(task.content(), 0) & !0xffff_ffff
}

/// One thread maps, unmaps, protects, moves and discards parts of an arena while others touch all of it.
///
/// The touching threads use word 0 of each page and bear refusals; it holds zero or their mark. The changing thread uses
/// word 1, of which it knows at any time what it must be.
pub fn churn(task: &mut Task) -> Result<(), Refused> {
    let memory = map(ARENA * PAGE)?;
    let (mark, over, started) = (mark(task), AtomicBool::new(false), AtomicUsize::new(0));
    let _handler = probe::catch_refusals();
    let touch = |thread: usize| {
        let mut count = 0u64;
        started.fetch_add(1, Ordering::Release);
        while !over.load(Ordering::Relaxed) {
            count += 1;
            let page = usize::try_from(word(mark >> 32, count as usize * 2 + thread) >> 20).unwrap_or(0) % ARENA;
            let place = memory.address(page * PAGE_WORDS);
            if let Answer::Value(found) = probe::load(place)
                && found != 0
                && found & !0xffff_ffff != mark
            {
                fail(format_args!(
                    "churn: page {page} has {found:#x}, which nobody wrote there"
                ));
            }
            probe::store(place, mark | count & 0xffff_ffff);
        }
    };
    thread::scope(|scope| {
        let touch = &touch;
        let result = beside(scope, (0..TOUCHERS).map(|thread| move || touch(thread)));
        if result.is_ok() {
            // What a thread maps at its start must not come to lie in a hole of the arena.
            while started.load(Ordering::Acquire) < TOUCHERS {
                thread::yield_now();
            }
            change(task, &memory);
        }
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// Changes parts of the arena and checks after each change what its owner knows.
fn change(task: &mut Task, memory: &Mapping) {
    let fresh = Page::Mapped {
        access: Access::ReadWrite,
        content: 0,
    };
    let mut pages = [fresh; ARENA];
    for step in 0..CHANGES {
        let first = task.draw(ARENA);
        let end = first + 1 + task.draw((ARENA - first).min(8));
        match task.draw(6) {
            0 => {
                insist(|| memory.try_patch(first..end));
                pages[first..end].fill(fresh);
            }
            1 => {
                insist(|| memory.try_punch(first..end));
                pages[first..end].fill(Page::Gone);
            }
            kind @ (2 | 3) if !pages[first..end].contains(&Page::Gone) => {
                let wanted = [Access::None, Access::Read, Access::ReadWrite][task.draw(3)];
                let wanted = if kind == 3 { Access::ReadWrite } else { wanted };
                insist(|| memory.try_protect(first..end, wanted));
                for page in &mut pages[first..end] {
                    if let Page::Mapped { access, .. } = page {
                        *access = wanted;
                    }
                }
            }
            4 if !pages[first..end].contains(&Page::Gone) => {
                insist(|| memory.try_discard(first..end));
                for page in &mut pages[first..end] {
                    if let Page::Mapped { content, .. } = page {
                        *content = 0;
                    }
                }
            }
            5 => shift(task, memory, &mut pages, first..end),
            _ => {}
        }
        let seed = task.content();
        for (index, page) in pages.iter_mut().enumerate() {
            let Page::Mapped { access, content } = page else {
                continue;
            };
            let place = index * PAGE_WORDS + 1;
            if *access != Access::None {
                let found = memory.read(place);
                if found != *content {
                    fail(format_args!(
                        "churn: page {index} has {found:#x}, not {content:#x}, after change {step}"
                    ));
                }
            }
            if *access == Access::ReadWrite && index % 3 == step % 3 {
                *content = word(seed, index + step * ARENA);
                memory.write(place, *content);
            }
        }
    }
    task.touched(CHANGES);
}

/// Moves a range of one region to another place in the arena.
fn shift(task: &mut Task, memory: &Mapping, pages: &mut [Page; ARENA], range: std::ops::Range<usize>) {
    // mremap takes one region: the pages must agree in what they allow.
    let access = |page: &Page| match page {
        Page::Mapped { access, .. } => Some(*access),
        Page::Gone => None,
    };
    let same = pages[range.clone()]
        .iter()
        .all(|page| access(page).is_some() && access(page) == access(&pages[range.start]));
    let to = task.draw(ARENA - range.len() + 1);
    let overlaps = to < range.end && range.start < to + range.len();
    if !same || overlaps {
        return;
    }
    if memory.shift(range.clone(), to).is_err() {
        // Pages that agree may still lie in several regions, which mremap refuses, after it has cleared the target.
        insist(|| memory.try_patch(to..to + range.len()));
        pages[to..to + range.len()].fill(Page::Mapped {
            access: Access::ReadWrite,
            content: 0,
        });
        return;
    }
    pages.copy_within(range.clone(), to);
    pages[range].fill(Page::Gone);
}
