//! Which slots are read together with the one that a fault needs.
//!
//! Pages that left together have slots that are neighbours, in the order of their addresses. So who comes back for one
//! slot after the other goes through memory in the order of addresses, and is given a window of slots at once, twice as
//! many each time. The next window is read when the first page of the last one is touched: whoever takes longer for a
//! window than the device never waits again. Who jumps about is given what it asks for.

use core::ops::Range;

use super::SwapSlot;

/// Slots that are read together at most.
pub(crate) const MOST: u32 = 32;

/// Slots of the first window of a stream.
const FIRST: u32 = 4;

/// Streams of a space that are remembered.
const STREAMS: usize = 4;

/// Pages that were read one after the other.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The slot behind the last window.
    next: u32,
    /// The first touch of this slot starts the next window.
    trigger: u32,
    /// How many slots the last window had.
    size: u32,
}

const NONE: Stream = Stream {
    next: u32::MAX,
    trigger: u32::MAX,
    size: 0,
};

/// The streams of a space; guarded by its lock.
pub(crate) struct Streams {
    streams: [Stream; STREAMS],
    /// The one that is forgotten next.
    oldest: u8,
}

impl Streams {
    pub(crate) const fn new() -> Self {
        Self {
            streams: [NONE; STREAMS],
            oldest: 0,
        }
    }

    /// A fault has to read this slot. Returns the slots behind it that are to be read too.
    #[inline(always)]
    pub(crate) fn miss(&mut self, slot: SwapSlot) -> Range<u32> {
        let slot = slot.number();
        let start = slot.saturating_add(1);
        let found = self.streams.iter_mut().find(|stream| stream.next == slot);
        let Some(stream) = found else {
            self.streams[usize::from(self.oldest)] = Stream {
                next: start,
                trigger: u32::MAX,
                size: 0,
            };
            self.oldest = (self.oldest + 1) % STREAMS as u8;
            return start..start;
        };
        stream.size = (stream.size * 2).clamp(FIRST, MOST);
        stream.next = slot.saturating_add(stream.size);
        stream.trigger = start;
        start..stream.next
    }

    /// A fault has found this slot's page in its frame. Returns the slots that are to be read now.
    pub(crate) fn hit(&mut self, slot: SwapSlot) -> Option<Range<u32>> {
        let stream = self.streams.iter_mut().find(|stream| stream.trigger == slot.number())?;
        let start = stream.next;
        stream.size = (stream.size * 2).clamp(FIRST, MOST);
        stream.next = start.saturating_add(stream.size);
        stream.trigger = start;
        Some(start..stream.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u32) -> SwapSlot {
        SwapSlot::new(number)
    }

    #[test]
    fn a_stream_is_read_ahead_in_windows_that_double() {
        let mut streams = Streams::new();
        assert_eq!(streams.miss(slot(100)), 101..101);
        assert_eq!(streams.miss(slot(101)), 102..105);
        let mut windows = std::vec::Vec::new();
        for number in 102..400 {
            windows.extend(streams.hit(slot(number)));
        }
        assert_eq!(windows[..4], [105..113, 113..129, 129..161, 161..193]);
        assert!(
            windows.windows(2).all(|pair| pair[0].end == pair[1].start),
            "{windows:?}"
        );
        assert!(windows.iter().all(|window| window.len() <= MOST as usize));
        // Each window was asked for before the first of its slots was touched.
        assert!(windows.last().unwrap().end > 400);
    }

    #[test]
    fn who_jumps_about_reads_nothing_ahead() {
        let mut streams = Streams::new();
        for number in [5, 900, 17, 402, 3, 950, 19] {
            assert!(streams.miss(slot(number)).is_empty(), "slot {number}");
            assert_eq!(streams.hit(slot(number + 1)), None);
        }
    }

    #[test]
    fn several_streams_stand_beside_each_other() {
        let mut streams = Streams::new();
        let starts = [1000, 2000, 3000, 4000];
        for start in starts {
            streams.miss(slot(start));
        }
        for start in starts {
            assert_eq!(streams.miss(slot(start + 1)), start + 2..start + 5);
        }
    }

    #[test]
    fn a_stream_ends_with_the_last_slot_that_can_be() {
        let mut streams = Streams::new();
        streams.miss(slot(u32::MAX - 1));
        assert!(streams.miss(slot(u32::MAX)).is_empty());
    }
}
