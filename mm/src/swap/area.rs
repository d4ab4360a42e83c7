//! The words of the swap area: giving slots out, and counting who names them.

use core::ptr;

use faultline_fallible::Box;

use super::word::LOCKED;
use super::{SlotState, SlotWord, SwapError, SwapSlot};
use crate::entry::{Entry, EntryState};
use crate::fault::ParkedFaults;
use crate::frame::{FrameAllocator, Pfn, RetiredFrame};
use crate::memory::EntryRef;
use crate::stats::Counter;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, spin_loop};

/// Slots that are counted together, so that a search passes over those that have none to give.
const GROUP: usize = 512;

/// What may be had in a group. A hint: the words decide.
#[derive(Default)]
struct Group {
    free: AtomicU32,
    idle: AtomicU32,
}

/// The words of an area.
struct Table {
    words: Box<[AtomicU64]>,
    groups: Box<[Group]>,
}

/// The swap area of a machine. Beside the frames, because whoever gives up a frame may have to give up its slot.
pub(crate) struct SwapArea {
    /// Null without an area.
    table: AtomicPtr<Table>,
    /// The table of the last area, if that was switched off: somebody who has found it before may still read it.
    retired: Mutex<Option<Box<Table>>>,
    /// No slot is given out: the area is being switched off.
    closing: AtomicU32,
    free: AtomicU32,
    idle: AtomicU32,
    cached: AtomicU32,
    leaving: Mutex<Cursor>,
    pub(crate) counters: SwapCounters,
}

/// What happened since the start.
#[derive(Default)]
pub(crate) struct SwapCounters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) read_ahead: Counter,
    pub(crate) errors: Counter,
}

/// Where the search for slots goes on: slots are given out in the order of their numbers, so that pages which leave
/// together, in the order of their addresses, are neighbours on the device.
struct Cursor {
    next: usize,
}

/// The right to give slots to frames; held while a batch of entries leaves.
pub(crate) struct Leaving<'a> {
    frames: &'a FrameAllocator,
    cursor: MutexGuard<'a, Cursor>,
}

/// What has become of an entry that left, and what is to be done with the slot that it names now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The page has to be written, after the flush; [`FrameAllocator::written`] is the end of that.
    Dirty(SwapSlot, Pfn),
    /// The slot has the page already: after the flush the frame may go ([`FrameAllocator::drop_cached`]).
    Clean(SwapSlot),
    /// Somebody else has written the page, or is about to.
    Joined(SwapSlot),
}

impl SwapArea {
    /// No area.
    pub(crate) fn new() -> Self {
        Self {
            table: AtomicPtr::new(ptr::null_mut()),
            retired: Mutex::new(None),
            closing: AtomicU32::new(0),
            free: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            cached: AtomicU32::new(0),
            leaving: Mutex::new(Cursor { next: 0 }),
            counters: SwapCounters::default(),
        }
    }

    /// Makes the words of an area of `slots` slots. The caller makes sure that there is none.
    ///
    /// # Errors
    /// [`SwapError::NoKernelMemory`].
    pub(super) fn attach(&self, slots: u32) -> Result<(), SwapError> {
        let words = Box::try_from_iter((0..slots as usize).map(|_| AtomicU64::new(SlotWord::FREE.bits())))?;
        let groups = (0..(slots as usize).div_ceil(GROUP)).map(|index| Group {
            free: AtomicU32::new((slots as usize - index * GROUP).min(GROUP) as u32),
            idle: AtomicU32::new(0),
        });
        let groups = Box::try_from_iter(groups)?;
        let table = Box::try_new(Table { words, groups })?;
        // Nobody has reached the area before that one for a long time: it was switched off in a call that awaited.
        *self.retired.lock() = None;
        self.leaving.lock().next = 0;
        self.free.store(slots, Ordering::Relaxed);
        self.idle.store(0, Ordering::Relaxed);
        self.cached.store(0, Ordering::Relaxed);
        self.closing.store(0, Ordering::Relaxed);
        self.table.store(Box::into_raw(table), Ordering::Release);
        Ok(())
    }

    /// Gives the words up. Every slot is free.
    pub(super) fn detach(&self) {
        let table = self.table.swap(ptr::null_mut(), Ordering::AcqRel);
        if !table.is_null() {
            // SAFETY: 1. the pointer came from `Box::into_raw`; 2. it was taken out, so this is the only owner. References
            // made by `table` may still be read, which is why the box is kept.
            *self.retired.lock() = Some(unsafe { Box::from_raw(table) });
        }
    }

    /// Gives out no slot any more, or again.
    pub(super) fn set_closing(&self, closing: bool) {
        self.closing.store(u32::from(closing), Ordering::Relaxed);
    }

    fn table(&self) -> Option<&Table> {
        // SAFETY: the pointer is null or came from `Box::into_raw`, and `detach` keeps the box until the next `attach`.
        unsafe { self.table.load(Ordering::Acquire).as_ref() }
    }

    /// Slots of the area; 0 without one.
    pub(crate) fn slots(&self) -> u32 {
        self.table().map_or(0, |table| table.words.len() as u32)
    }

    /// Slots that nobody uses.
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Ordering::Relaxed)
    }

    /// Slots whose page is in a frame too.
    pub(crate) fn cached(&self) -> u32 {
        self.cached.load(Ordering::Relaxed)
    }

    /// Slots whose page is in a frame that may be written to.
    pub(crate) fn idle(&self) -> u32 {
        self.idle.load(Ordering::Relaxed)
    }

    /// The word of a slot at this moment; free beyond the area's end.
    pub(crate) fn load(&self, slot: SwapSlot) -> SlotWord {
        let word = self.table().and_then(|table| table.words.get(slot.index()));
        word.map_or(SlotWord::FREE, |word| SlotWord::from_bits(word.load(Ordering::Acquire)))
    }

    /// Changes the word of a slot as `change` says. Returns the word as it was.
    ///
    /// # Errors
    /// Those of `change`; nothing was changed then.
    pub(super) fn update<E>(
        &self,
        slot: SwapSlot,
        mut change: impl FnMut(SlotWord) -> Result<SlotWord, E>,
    ) -> Result<SlotWord, E> {
        let Some(table) = self.table() else {
            return change(SlotWord::FREE).map(|_| SlotWord::FREE);
        };
        let Some(word) = table.words.get(slot.index()) else {
            return change(SlotWord::FREE).map(|_| SlotWord::FREE);
        };
        let mut found = word.load(Ordering::Acquire);
        loop {
            if found & LOCKED != 0 {
                spin_loop();
                found = word.load(Ordering::Acquire);
                continue;
            }
            let before = SlotWord::from_bits(found);
            let after = change(before)?;
            match word.compare_exchange(found, after.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.count(table, slot, before, after);
                    return Ok(before);
                }
                Err(other) => found = other,
            }
        }
    }

    /// Replaces the word of a slot if it is `from`; says whether it was.
    pub(crate) fn exchange(&self, slot: SwapSlot, from: SlotWord, to: SlotWord) -> bool {
        let change = |word| if word == from { Ok(to) } else { Err(()) };
        self.update(slot, change).is_ok()
    }

    /// Changes the word of a slot while nobody else can: `change` may change the frame that the word names, and returns the
    /// new word and what it has come to.
    fn with_locked<R>(&self, slot: SwapSlot, change: impl FnOnce(SlotWord) -> (SlotWord, R)) -> R {
        let Some((table, word)) = self
            .table()
            .and_then(|table| Some((table, table.words.get(slot.index())?)))
        else {
            return change(SlotWord::FREE).1;
        };
        let mut found = word.load(Ordering::Relaxed);
        loop {
            if found & LOCKED == 0 {
                match word.compare_exchange(found, found | LOCKED, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(other) => found = other,
                }
            } else {
                spin_loop();
                found = word.load(Ordering::Relaxed);
            }
        }
        let before = SlotWord::from_bits(found);
        let (after, result) = change(before);
        word.store(after.bits(), Ordering::Release);
        self.count(table, slot, before, after);
        result
    }

    /// Counts a change. The counters are hints and may be behind for a moment, hence they wrap.
    fn count(&self, table: &Table, slot: SwapSlot, before: SlotWord, after: SlotWord) {
        fn step(counter: &AtomicU32, before: bool, after: bool) {
            if after && !before {
                counter.fetch_add(1, Ordering::Relaxed);
            } else if before && !after {
                counter.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let is_free = |word: SlotWord| matches!(word.state, SlotState::Free);
        let is_cached = |word: SlotWord| matches!(word.state, SlotState::Cached { .. });
        let group = &table.groups[slot.index() / GROUP];
        for counter in [&group.free, &self.free] {
            step(counter, is_free(before), is_free(after));
        }
        for counter in [&group.idle, &self.idle] {
            step(counter, before.is_idle(), after.is_idle());
        }
        step(&self.cached, is_cached(before), is_cached(after));
    }

    /// Gives the next slot to the page of `frame`, which is to be written: one that is free, else one that is idle.
    fn allocate(&self, cursor: &mut Cursor, frame: Pfn) -> Result<SwapSlot, SwapError> {
        let table = self.table().ok_or(SwapError::Off)?;
        let word = SlotWord {
            state: SlotState::Writing { frame },
            count: 1,
        };
        if self.closing.load(Ordering::Relaxed) != 0 {
            return Err(SwapError::Full);
        }
        for idle in [false, true] {
            let total = if idle { &self.idle } else { &self.free };
            if total.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut at = cursor.next;
            // The first group is left in its middle, and looked at from its beginning in the end.
            for _ in 0..=table.groups.len() {
                let end = (at / GROUP * GROUP + GROUP).min(table.words.len());
                let group = &table.groups[at / GROUP];
                let counter = if idle { &group.idle } else { &group.free };
                if counter.load(Ordering::Relaxed) != 0 {
                    for index in at..end {
                        let slot = SwapSlot::new(index as u32);
                        let found = SlotWord::from_bits(table.words[index].load(Ordering::Relaxed));
                        let wanted = if idle {
                            found.is_available()
                        } else {
                            found == SlotWord::FREE
                        };
                        if wanted && self.exchange(slot, found, word) {
                            cursor.next = if index + 1 == table.words.len() { 0 } else { index + 1 };
                            return Ok(slot);
                        }
                    }
                }
                at = if end == table.words.len() { 0 } else { end };
            }
        }
        Err(SwapError::Full)
    }
}

impl Drop for SwapArea {
    fn drop(&mut self) {
        self.detach();
    }
}

impl core::fmt::Debug for SwapArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SwapArea")
            .field("slots", &self.slots())
            .field("free", &self.free())
            .field("cached", &self.cached())
            .finish_non_exhaustive()
    }
}

impl FrameAllocator {
    /// One more entry, or page of a shared object, names the slot, which one names already.
    ///
    /// # Errors
    /// [`SwapError::TooManyReferences`].
    pub(crate) fn add_swap_reference(&self, slot: SwapSlot) -> Result<(), SwapError> {
        self.swap.update(slot, SlotWord::add).map(drop)
    }

    /// One entry, or page of a shared object, less names the slot. The last one frees it, unless a frame has the page that
    /// something else maps. Returns the frame if nothing does: no TLB knows it.
    pub(crate) fn drop_swap_reference(&self, slot: SwapSlot, cpu: usize) -> Option<RetiredFrame<'_>> {
        let mut given_up = None;
        let before = self.swap.update(slot, |word| {
            let after = word.sub();
            given_up = None;
            Ok::<_, SwapError>(match after.state {
                SlotState::Out if after.count == 0 => SlotWord::FREE,
                SlotState::Cached { frame } if after.count == 0 => {
                    given_up = Some(frame);
                    after
                }
                SlotState::Kept { frame } if after.count == 0 => {
                    given_up = Some(frame);
                    SlotWord::FREE
                }
                _ => after,
            })
        });
        debug_assert!(before.is_ok());
        given_up.and_then(|frame| self.give_up_cached(frame, cpu))
    }

    /// Gives up a slot's reference to a frame.
    fn give_up_cached(&self, frame: Pfn, cpu: usize) -> Option<RetiredFrame<'_>> {
        match self.remove_mapping(frame, cpu) {
            Ok(retired) => retired,
            Err(error) => unreachable!("the frame of a swap slot is gone: {error}"),
        }
    }

    /// An entry that names the slot, whose page is in a frame, is about to map that: gives up its reference to the slot for
    /// one to the frame. `None` if the page is in no frame.
    pub(crate) fn take_cached(&self, slot: SwapSlot) -> Option<Pfn> {
        self.swap.with_locked(slot, |word| match word.state {
            // The slot's own reference becomes the entry's.
            SlotState::Cached { frame } if word.count == 1 => (word.sub(), Some(frame)),
            SlotState::Kept { frame } if word.count == 1 => (SlotWord::FREE, Some(frame)),
            SlotState::Writing { frame } | SlotState::Cached { frame } | SlotState::Kept { frame } => {
                match self.add_mapping(frame) {
                    Ok(()) => (word.sub(), Some(frame)),
                    Err(_) => (word, None),
                }
            }
            SlotState::Free | SlotState::Out | SlotState::Reading { .. } => (word, None),
        })
    }

    /// Takes the frame of a cached slot away if nothing maps it; the page is on the device. Returns the frame, which no TLB
    /// may know any more.
    pub(crate) fn drop_cached(&self, slot: SwapSlot, cpu: usize) -> Option<RetiredFrame<'_>> {
        let frame = self.swap.with_locked(slot, |word| match word.state {
            SlotState::Cached { frame } if word.count > 0 && self.mapping_count(frame) == 1 => {
                (word.with(SlotState::Out), Some(frame))
            }
            _ => (word, None),
        })?;
        self.give_up_cached(frame, cpu)
    }

    /// The page of a slot was written, or could not be. Returns its frame if nobody needs it any more.
    pub(crate) fn written(&self, slot: SwapSlot, success: bool, cpu: usize) -> Option<RetiredFrame<'_>> {
        let counters = &self.swap.counters;
        if success { &counters.writes } else { &counters.errors }.add(1);
        let mut given_up = None;
        let _ = self.swap.update(slot, |word| {
            given_up = None;
            let SlotState::Writing { frame } = word.state else {
                return Err(());
            };
            if word.count == 0 {
                given_up = Some(frame);
            }
            Ok(match (success, word.count) {
                (true, _) => word.with(SlotState::Cached { frame }),
                (false, 0) => SlotWord::FREE,
                (false, _) => word.with(SlotState::Kept { frame }),
            })
        });
        given_up.and_then(|frame| self.give_up_cached(frame, cpu))
    }

    /// The page of a slot was read into `frame`, which the reader holds the one reference to, or could not be. Returns who
    /// waits for it, and the frame if nobody needs it.
    pub(crate) fn read(
        &self,
        slot: SwapSlot,
        frame: Pfn,
        success: bool,
        cpu: usize,
    ) -> (ParkedFaults, Option<RetiredFrame<'_>>) {
        self.swap.counters.reads.add(1);
        if success {
            self.set_swap_slot(frame, slot);
        }
        let mut kept = false;
        let before = self.swap.update(slot, |word| {
            kept = success && word.count > 0;
            Ok::<_, SwapError>(match word.count {
                0 => SlotWord::FREE,
                _ if success => word.with(SlotState::Cached { frame }),
                _ => word.with(SlotState::Out),
            })
        });
        let waiting = match before.map(|word| word.state) {
            Ok(SlotState::Reading { waiting }) => waiting,
            _ => unreachable!("a swap slot was read that nobody was reading"),
        };
        let retired = if kept { None } else { self.give_up_cached(frame, cpu) };
        (waiting, retired)
    }

    /// The slot that has the same page as a mapped frame, if there is one.
    pub(crate) fn swap_slot_of(&self, frame: Pfn) -> Option<(SwapSlot, SlotWord)> {
        let slot = self.named_swap_slot(frame)?;
        let word = self.swap.load(slot);
        (word.frame() == Some(frame)).then_some((slot, word))
    }

    /// The last reference to a frame is gone that named this slot.
    #[cold]
    pub(crate) fn forget_swap_slot(&self, frame: Pfn, slot: SwapSlot) {
        let idle = SlotWord {
            state: SlotState::Cached { frame },
            count: 0,
        };
        self.swap.exchange(slot, idle, SlotWord::FREE);
    }

    /// Begins to give slots to pages. To be held for a bounded number of them, inside the lock of their space or table.
    pub(crate) fn leave(&self) -> Leaving<'_> {
        Leaving {
            frames: self,
            cursor: self.swap.leaving.lock(),
        }
    }
}

impl Leaving<'_> {
    /// Makes an entry that maps a page of private memory name a swap slot instead.
    ///
    /// The caller holds the lock of the entry, which is present, maps 4 KiB, and is neither borrowed, shared memory, nor
    /// busy. It has a [hold](FrameAllocator::hold) on frames, and keeps it until every CPU has flushed: until then a CPU may
    /// write to the page if the entry was dirty, and read it in any case.
    ///
    /// # Errors
    /// [`SwapError::Full`], [`SwapError::Off`]; [`SwapError::TooManyReferences`]. The entry is as it was.
    pub(crate) fn entry(&mut self, entry: EntryRef<'_>) -> Result<Left, SwapError> {
        let frames = self.frames;
        let area = &frames.swap;
        let value = entry.get();
        let EntryState::Present { frame, .. } = value.state() else {
            unreachable!("only a page that is present can leave: {value:?}");
        };
        debug_assert!(value.bits() & (Entry::BORROWED | Entry::SHARED | Entry::BUSY) == 0);
        if let Some((slot, word)) = frames.swap_slot_of(frame)
            && let Some(left) = self.to_slot_of(entry, frame, slot, word)
        {
            return left;
        }
        let slot = area.allocate(&mut self.cursor, frame)?;
        frames.set_swap_slot(frame, slot);
        // A CPU may be setting the dirty bit meanwhile; the page is written in any case.
        entry.swap(Entry::swapped(slot));
        Ok(Left::Dirty(slot, frame))
    }

    /// As [`entry`](Self::entry), to the slot that the frame has; `None` if it has lost that.
    fn to_slot_of(
        &self,
        entry: EntryRef<'_>,
        frame: Pfn,
        slot: SwapSlot,
        word: SlotWord,
    ) -> Option<Result<Left, SwapError>> {
        let frames = self.frames;
        let area = &frames.swap;
        if word.holds_frame() {
            // Since the slot holds a reference nobody has written to the frame, whatever the dirty bit says.
            let joined = area.update(slot, |now| match now.frame() {
                Some(named) if named == frame && now.holds_frame() => now.add().map_err(Some),
                _ => Err(None),
            });
            return match joined {
                Ok(_) => {
                    entry.swap(Entry::swapped(slot));
                    let dropped = frames.remove_mapping(frame, 0);
                    debug_assert!(matches!(dropped, Ok(None)), "the slot holds a reference");
                    Some(Ok(Left::Joined(slot)))
                }
                Err(Some(error)) => Some(Err(error)),
                // It was the last one, or the frame has left the slot, meanwhile.
                Err(None) => None,
            };
        }
        let writing = SlotWord {
            state: SlotState::Writing { frame },
            count: 1,
        };
        // Not yet known to be clean: as long as the entry is there, a CPU may set its dirty bit.
        if !area.exchange(slot, word, writing) {
            return None;
        }
        let before = entry.swap(Entry::swapped(slot));
        if before.has(Entry::DIRTY) {
            return Some(Ok(Left::Dirty(slot, frame)));
        }
        let cached = writing.with(SlotState::Cached { frame });
        let _ = area.update(slot, |now| Ok::<_, ()>(now.with(cached.state)));
        Some(Ok(Left::Clean(slot)))
    }
}
