//! The words of the swap area, and which slot is given out next.

use core::ops::Range;
use core::ptr;

use faultline_fallible::Box;

use super::word::LOCKED;
use super::{SlotState, SlotWord, SwapError, SwapSlot};
use crate::frame::Pfn;
use crate::stats::Counter;
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, spin_loop};

/// Slots that are counted together, so that a search passes over those that have none to give.
pub(super) const GROUP: usize = 512;

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
    pub(super) leaving: Mutex<Cursor>,
    /// Where the hand is that goes over pages which were read ahead.
    pub(super) hand: AtomicU32,
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
pub(super) struct Cursor {
    next: usize,
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
            hand: AtomicU32::new(0),
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

    /// Gives out no slot any more; false if that was so already. Slots that were given out before are counted when this
    /// returns: whoever is about to take one has the lock.
    pub(super) fn close(&self) -> bool {
        let _leaving = self.leaving.lock();
        self.closing.swap(1, Ordering::Relaxed) == 0
    }

    /// Gives out slots again. Release: who sees this sees that the words are gone, if they are.
    pub(super) fn open(&self) {
        self.closing.store(0, Ordering::Release);
    }

    /// The slots of the next group from slot `from` on that are not all free.
    pub(super) fn next_used_group(&self, from: u32) -> Option<Range<u32>> {
        let table = self.table()?;
        let slots = table.words.len();
        let first = (from as usize).div_ceil(GROUP);
        let found = (first..table.groups.len()).find(|&group| {
            let size = (slots - group * GROUP).min(GROUP) as u32;
            table.groups[group].free.load(Ordering::Relaxed) != size
        })?;
        Some((found * GROUP) as u32..((found + 1) * GROUP).min(slots) as u32)
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

    /// Slots that could be given to pages, or were a moment ago.
    pub(crate) fn to_be_had(&self) -> u32 {
        self.free().saturating_add(self.idle())
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
        let word = self.word(slot);
        word.map_or(SlotWord::FREE, |(_, word)| {
            SlotWord::from_bits(word.load(Ordering::Acquire))
        })
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
        let Some((table, word)) = self.word(slot) else {
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
    #[inline]
    pub(crate) fn exchange(&self, slot: SwapSlot, from: SlotWord, to: SlotWord) -> bool {
        let Some((table, word)) = self.word(slot) else {
            return from == SlotWord::FREE;
        };
        let (before, after) = (from.bits(), to.bits());
        loop {
            match word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.count(table, slot, from, to);
                    return true;
                }
                // Whoever has locked it may leave it as it is.
                Err(found) if found == before | LOCKED => spin_loop(),
                Err(_) => return false,
            }
        }
    }

    /// The word of a slot; none beyond the area's end.
    #[inline]
    fn word(&self, slot: SwapSlot) -> Option<(&Table, &AtomicU64)> {
        let table = self.table()?;
        Some((table, table.words.get(slot.index())?))
    }

    /// Changes the word of a slot while nobody else can: `change` may change the frame that the word names, and returns the
    /// new word and what it has come to.
    pub(super) fn with_locked<R>(&self, slot: SwapSlot, change: impl FnOnce(SlotWord) -> (SlotWord, R)) -> R {
        let Some((table, word)) = self.word(slot) else {
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

    /// Frees a slot that nobody names.
    pub(super) fn forget_idle(&self, slot: SwapSlot) {
        let word = self.load(slot);
        if word.is_idle() {
            self.exchange(slot, word, SlotWord::FREE);
        }
    }

    /// Counts a change. The counters are hints and may be behind for a moment, hence they wrap: 1 less is `u32::MAX` more.
    #[inline]
    fn count(&self, table: &Table, slot: SwapSlot, before: SlotWord, after: SlotWord) {
        const FREE: u32 = 0b001;
        const IDLE: u32 = 0b010;
        const CACHED: u32 = 0b100;
        let kind = |word: SlotWord| match word.state {
            SlotState::Free => FREE,
            SlotState::Cached { .. } if word.count == 0 => CACHED | IDLE,
            SlotState::Cached { .. } => CACHED,
            SlotState::Writing { .. } | SlotState::Kept { .. } | SlotState::Out | SlotState::Reading { .. } => 0,
        };
        let (before, after) = (kind(before), kind(after));
        let step = |counter: &AtomicU32, kind: u32| {
            let by = if after & kind != 0 { 1 } else { u32::MAX };
            counter.fetch_add(by, Ordering::Relaxed);
        };
        let changed = before ^ after;
        if changed & CACHED != 0 {
            step(&self.cached, CACHED);
        }
        if changed & (FREE | IDLE) != 0 {
            let group = &table.groups[slot.index() / GROUP];
            if changed & FREE != 0 {
                step(&group.free, FREE);
                step(&self.free, FREE);
            }
            if changed & IDLE != 0 {
                step(&group.idle, IDLE);
                step(&self.idle, IDLE);
            }
        }
    }

    /// Gives the next slot to the page of `frame`, which is to be written: one that is free, else one that is idle.
    pub(super) fn allocate(&self, cursor: &mut Cursor, frame: Pfn) -> Result<SwapSlot, SwapError> {
        // Before the words are looked for: they may go and others come while it is closed.
        if self.closing.load(Ordering::Acquire) != 0 {
            return Err(SwapError::Full);
        }
        let table = self.table().ok_or(SwapError::Off)?;
        let word = SlotWord {
            state: SlotState::Writing { frame },
            count: 1,
        };
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
