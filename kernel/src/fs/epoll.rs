//! `epoll`: open files that are waited for together, and remembered from one wait to the next.
//!
//! # Protocol
//!
//! Each file that was added is an [`Item`] in a *slot*, with a waiter in the queue of its file. A wake of that queue rings the
//! item's [`Bell`], which sets the slot's *ready* bit and wakes who waits for the set. A wait takes the bits one after the
//! other; for each it puts the waiter back in its queue and looks at the file then. What it finds it reports; a
//! level-triggered item keeps its bit, an edge-triggered one gets it back by the next wake, and a one-shot item is switched
//! off until it is changed. So a wait takes a step for each item that may be ready, however many others there are.
//!
//! An item does not keep its file open, only what the queue lies in; the item of a file that was closed goes when it is
//! next looked at, or when its descriptor is added anew.
//!
//! A set may be in another set. Cycles and deep chains are refused when they would be made ([`Epoll::nests`]).
//!
//! # Locks
//!
//! `state` is held while an item is looked at, `ready` for single steps only: a bell needs just the latter, so it may ring
//! while `state` is held.

use core::pin::Pin;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Context, Poll, Waker};

use faultline_executor::{HoldsQueue, WaitQueue, WaitQueued};
use faultline_fallible::{Arc, Box, OrderedMap, Vec, Weak};
use linux_raw_sys::general as linux;
use spin::Mutex;

use super::file::{File, INPUT, Transfer, Written};
use super::pipe::Pipe;
use super::signal_file::SignalFile;
use super::timer::Timer;
use super::{FileKind, OpenFile, event::Event};
use crate::net::Socket;
use crate::process::Process;
use crate::syscall::Errno;
use crate::terminal;
use crate::waker::{self, Ring};

/// Items that are looked at with the lock held once.
const AT_ONCE: usize = 512;

/// How many sets may be in each other.
const DEPTH: u32 = 5;

/// Steps of the visit to the sets in a set that is added to another: one for each set and for every eight slots in it.
const STEPS: u32 = 4096;

/// What is reported whether or not it is wanted.
const ALWAYS: u32 = linux::EPOLLERR | linux::EPOLLHUP;

/// The bits that say how an item behaves; the others are events.
const BEHAVIOUR: u32 = linux::EPOLLET | linux::EPOLLONESHOT | linux::EPOLLEXCLUSIVE | linux::EPOLLWAKEUP;

/// A set of files.
pub struct Epoll {
    state: Mutex<State>,
    /// A bit for each slot.
    ready: Mutex<Vec<u64>>,
    /// Threads that wait for an event.
    pub waiters: WaitQueue,
    /// Who polls the set itself.
    polls: WaitQueue,
    /// In how many sets, each in the next, it was at most: so deep a ring of its bell goes.
    above: AtomicU32,
}

struct State {
    items: OrderedMap<Name, usize>,
    slots: Vec<Option<Box<Item>>>,
    /// Where the next wait begins.
    next: usize,
}

/// What an item is found by: a descriptor may have belonged to several files.
type Name = (i32, usize);

/// A file that is waited for.
struct Item {
    name: Name,
    file: Weak<OpenFile>,
    /// Events and [`BEHAVIOUR`]; switched off if there are no events, not even those of [`ALWAYS`].
    wanted: u32,
    data: u64,
    /// Pinned with the item, which is boxed and moved by nobody.
    waiter: WaitQueued<Held>,
    waker: Waker,
}

/// What keeps the queue of a file alive after the file is closed.
enum Held {
    Pipe { pipe: Arc<Pipe>, writes: bool },
    Timer(Arc<Timer>),
    Event(Arc<Event>),
    Epoll(Arc<Epoll>),
    Socket(Arc<Socket>),
    Signals(Arc<SignalFile>),
    Process(Arc<Process>),
    Terminal,
}

// SAFETY: 1. each variant has one queue; 2. it lies in what the variant holds, which does not move, or is static.
unsafe impl HoldsQueue for Held {
    fn queue(&self) -> &WaitQueue {
        match self {
            Self::Pipe { pipe, writes } => pipe.polls(*writes),
            Self::Timer(timer) => timer.polls(),
            Self::Event(event) => event.polls(),
            Self::Epoll(epoll) => &epoll.polls,
            Self::Socket(socket) => socket.polls(),
            Self::Signals(signals) => signals.polls(),
            Self::Process(process) => &process.changes,
            Self::Terminal => terminal::input(),
        }
    }
}

impl Held {
    /// None for a file that can't be waited for.
    fn of(file: &OpenFile) -> Option<Self> {
        match &file.kind {
            FileKind::PipeReader(end) | FileKind::Fifo(end, _) => Some(Self::Pipe {
                pipe: end.pipe.clone(),
                writes: false,
            }),
            FileKind::PipeWriter(end) => Some(Self::Pipe {
                pipe: end.0.clone(),
                writes: true,
            }),
            FileKind::Timer(timer) => Some(Self::Timer(timer.clone())),
            FileKind::Event(event) => Some(Self::Event(event.clone())),
            FileKind::Epoll(epoll) => Some(Self::Epoll(epoll.clone())),
            FileKind::Socket(end) => Some(Self::Socket(end.0.clone())),
            FileKind::Signals(signals) => Some(Self::Signals(signals.clone())),
            FileKind::Process(file) => Some(Self::Process(file.0.clone())),
            FileKind::Console(_) => Some(Self::Terminal),
            _ => None,
        }
    }
}

/// What the queue of an item's file wakes.
struct Bell {
    epoll: Weak<Epoll>,
    slot: usize,
}

impl Ring for Bell {
    fn ring(&self) {
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.announce(self.slot);
        }
    }
}

/// An event that a wait has found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Bits of `epoll`.
    pub events: u32,
    /// What the program gave for the file.
    pub data: u64,
    slot: usize,
    is_level: bool,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>, Errno> {
        Ok(Arc::try_new(Self {
            state: Mutex::new(State {
                items: OrderedMap::new(),
                slots: Vec::new(),
                next: 0,
            }),
            ready: Mutex::new(Vec::new()),
            waiters: WaitQueue::new(),
            polls: WaitQueue::new(),
            above: AtomicU32::new(0),
        })?)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// `EEXIST` if it is there, `EPERM` if it can't be waited for, `EINVAL` for events that don't go together, `ELOOP` for a
    /// set that contains this one or is too deep, `ENOMEM`.
    pub fn add(this: &Arc<Self>, descriptor: i32, file: &Arc<OpenFile>, wanted: u32, data: u64) -> Result<(), Errno> {
        if matches!(file.kind, FileKind::Path) {
            return Err(Errno::EBADF);
        }
        let held = Held::of(file).ok_or(Errno::EPERM)?;
        if wanted & linux::EPOLLEXCLUSIVE != 0 {
            let allowed = linux::EPOLLIN | linux::EPOLLOUT | ALWAYS | linux::EPOLLWAKEUP | linux::EPOLLET;
            if wanted & !(allowed | linux::EPOLLEXCLUSIVE) != 0 || matches!(held, Held::Epoll(_)) {
                return Err(Errno::EINVAL);
            }
        }
        if let Held::Epoll(inner) = &held {
            let above = this.above.load(Ordering::Relaxed) + 1;
            let (depth, mut steps) = (DEPTH.saturating_sub(above), STEPS);
            if !Self::nests(inner, this, depth, &mut steps) {
                return Err(Errno::ELOOP);
            }
            inner.lower(above);
        }
        let name = (descriptor, Arc::as_ptr(file).addr());
        let mut state = this.state.lock();
        state.forget_closed(descriptor);
        if state.items.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        let free = state.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(state.slots.len());
        let bell = Arc::try_new(Bell {
            epoll: Arc::downgrade(this),
            slot,
        })?;
        let item = Box::try_new(Item {
            name,
            file: Arc::downgrade(file),
            wanted: wanted | ALWAYS,
            data,
            waiter: WaitQueued::on(held),
            waker: waker::waker(bell),
        })?;
        if slot == state.slots.len() {
            state.slots.try_push(None)?;
        }
        {
            let mut ready = this.ready.lock();
            if slot / 64 >= ready.len() {
                ready.try_push(0)?;
            }
        }
        state.items.try_insert(name, slot)?;
        state.slots[slot] = Some(item);
        let is_ready = matches!(state.look(slot), Some(Some(_)));
        drop(state);
        if is_ready {
            this.announce(slot);
        }
        Ok(())
    }

    /// Changes what is wanted of a file.
    ///
    /// # Errors
    /// `ENOENT` if it is not there, `EINVAL` for events that don't go together.
    pub fn change(&self, descriptor: i32, file: &Arc<OpenFile>, wanted: u32, data: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let slot = state.find(descriptor, file)?;
        let Some(item) = &mut state.slots[slot] else {
            return Err(Errno::ENOENT);
        };
        if (item.wanted | wanted) & linux::EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.wanted = wanted | ALWAYS;
        item.data = data;
        let is_ready = matches!(state.look(slot), Some(Some(_)));
        drop(state);
        if is_ready {
            self.announce(slot);
        }
        Ok(())
    }

    /// Takes a file out.
    ///
    /// # Errors
    /// `ENOENT` if it is not there.
    pub fn remove(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let slot = state.find(descriptor, file)?;
        let item = state.take(slot);
        drop(state);
        drop(item);
        Ok(())
    }

    /// Finds events, up to `most` with those in `found`, which has room for them. Returns whether there may be more.
    pub fn collect(&self, most: usize, found: &mut Vec<Found>) -> bool {
        let mut closed = None;
        let mut state = self.state.lock();
        let (start, first) = (state.next, found.len());
        let (mut from, mut end, mut looked) = (start, usize::MAX, 0);
        let may_be_more = loop {
            if found.len() >= most || looked == AT_ONCE {
                break true;
            }
            let Some(slot) = self.take_ready(from, end) else {
                if end != usize::MAX {
                    break false;
                }
                (from, end) = (0, start);
                continue;
            };
            from = slot + 1;
            looked += 1;
            match state.look(slot) {
                Some(None) => {}
                Some(Some(event)) => {
                    if found.try_push(event).is_err() {
                        self.set_ready(slot);
                        break false;
                    }
                    state.report(slot);
                }
                None => {
                    closed = state.take(slot);
                    break true;
                }
            }
        };
        state.next = from;
        for event in &found[first..] {
            if event.is_level {
                self.set_ready(event.slot);
            }
        }
        drop(state);
        drop(closed);
        may_be_more
    }

    /// The events were not reported after all: the next wait finds them again.
    pub fn put_back(&self, found: &[Found]) {
        for event in found {
            self.announce(event.slot);
        }
    }

    /// Whether an item may be ready.
    pub fn may_be_ready(&self) -> bool {
        self.ready.lock().iter().any(|&word| word != 0)
    }

    /// An item may be ready.
    fn announce(&self, slot: usize) {
        self.set_ready(slot);
        self.waiters.wake_one();
        self.polls.wake_all();
    }

    fn set_ready(&self, slot: usize) {
        if let Some(word) = self.ready.lock().get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Takes the first ready bit from `from` on and before `end`.
    fn take_ready(&self, from: usize, end: usize) -> Option<usize> {
        let mut ready = self.ready.lock();
        let mut mask = u64::MAX << (from % 64);
        for index in from / 64..ready.len() {
            let bits = ready[index] & mask;
            mask = u64::MAX;
            if bits != 0 {
                let slot = index * 64 + bits.trailing_zeros() as usize;
                if slot >= end {
                    return None;
                }
                ready[index] &= !(1 << (slot % 64));
                return Some(slot);
            }
        }
        None
    }

    /// Whether `this` may be in `outer`: not if it contains it, nor if there are more than `depth` sets in each other from here
    /// on. `steps` counts down to an end: many ways through few sets are many steps.
    fn nests(this: &Arc<Self>, outer: &Arc<Self>, depth: u32, steps: &mut u32) -> bool {
        if Arc::ptr_eq(this, outer) || depth == 0 || *steps == 0 {
            return false;
        }
        let state = this.state.lock();
        *steps = steps.saturating_sub(1 + (state.slots.len() / 8) as u32);
        state.slots.iter().flatten().all(|item| match item.waiter.holder() {
            Held::Epoll(inner) => Self::nests(inner, outer, depth - 1, steps),
            _ => true,
        })
    }

    /// This set is in so many others now, and those in it in one more; to be called when [`nests`](Self::nests) has agreed.
    fn lower(&self, above: u32) {
        self.above.fetch_max(above, Ordering::Relaxed);
        let state = self.state.lock();
        for item in state.slots.iter().flatten() {
            if let Held::Epoll(inner) = item.waiter.holder() {
                inner.lower(above + 1);
            }
        }
    }
}

impl State {
    fn find(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<usize, Errno> {
        let name = (descriptor, Arc::as_ptr(file).addr());
        let slot = self.items.get(&name).copied().ok_or(Errno::ENOENT)?;
        // A file that is gone may have lain at the same address.
        let item = self.slots.get(slot).and_then(Option::as_ref);
        let is_open = item.is_some_and(|item| item.file.strong_count() > 0);
        if is_open { Ok(slot) } else { Err(Errno::ENOENT) }
    }

    /// Takes an item out; the caller drops it without the lock.
    fn take(&mut self, slot: usize) -> Option<Box<Item>> {
        let item = self.slots.get_mut(slot)?.take()?;
        self.items.remove(&item.name);
        Some(item)
    }

    /// Takes out what belongs to closed files of a descriptor.
    fn forget_closed(&mut self, descriptor: i32) {
        loop {
            let range = (descriptor, 0)..=(descriptor, usize::MAX);
            let closed = self.items.range(range).map(|(_, &slot)| slot).find(|&slot| {
                let item = self.slots.get(slot).and_then(Option::as_ref);
                item.is_none_or(|item| item.file.strong_count() == 0)
            });
            let Some(slot) = closed else { return };
            drop(self.take(slot));
        }
    }

    /// Puts the item's waiter in its queue and looks at the file; none if it is closed.
    fn look(&mut self, slot: usize) -> Option<Option<Found>> {
        let Some(item) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Some(None);
        };
        let file = item.file.upgrade()?;
        let Item { waiter, waker, .. } = &mut **item;
        // SAFETY: the item is boxed, nobody moves it out of its box, and the waiter goes with it.
        let waiter = unsafe { Pin::new_unchecked(waiter) };
        waiter.rearm(&mut Context::from_waker(waker));
        let events = file.events() & item.wanted & !BEHAVIOUR;
        Some((events != 0).then_some(Found {
            events,
            data: item.data,
            slot,
            is_level: item.wanted & (linux::EPOLLET | linux::EPOLLONESHOT) == 0,
        }))
    }

    /// An event of the item is reported.
    fn report(&mut self, slot: usize) {
        if let Some(item) = self.slots.get_mut(slot).and_then(Option::as_mut)
            && item.wanted & linux::EPOLLONESHOT != 0
        {
            item.wanted &= BEHAVIOUR;
        }
    }
}

impl File for Epoll {
    fn poll_read(&self, _: Transfer<'_>, _: &mut [u8], _: &mut Context<'_>) -> Poll<Result<usize, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    fn poll_write(&self, _: Transfer<'_>, _: &[u8], _: &mut Context<'_>) -> Poll<Result<Written, Errno>> {
        Poll::Ready(Err(Errno::EINVAL))
    }

    /// Whether an item is ready. Of a set in the set that one of its items may be is enough: no recursion.
    fn events(&self) -> u32 {
        let mut state = self.state.lock();
        let (mut from, mut is_ready) = (0, false);
        while !is_ready && let Some(slot) = self.take_ready(from, usize::MAX) {
            from = slot + 1;
            let item = state.slots.get(slot).and_then(Option::as_ref);
            is_ready = match item.map(|item| item.waiter.holder()) {
                Some(Held::Epoll(inner)) => inner.may_be_ready(),
                Some(_) => matches!(state.look(slot), Some(Some(_)) | None),
                None => false,
            };
            if is_ready {
                self.set_ready(slot);
            }
        }
        if is_ready { INPUT } else { 0 }
    }

    fn queue(&self, _: u32) -> Option<&WaitQueue> {
        Some(&self.polls)
    }

    fn has_offsets(&self) -> bool {
        false
    }
}
