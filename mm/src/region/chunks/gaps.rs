//! The search for a gap.

use super::{Chunks, NONE, Position};

/// What the last search found out: between `above` and `end` no gap holds `size` bytes.
#[derive(Clone, Copy)]
pub(super) struct Searched {
    above: u64,
    end: u64,
    size: u64,
}

impl Searched {
    /// Nothing is known.
    pub(super) const NOTHING: Self = Self {
        above: NONE,
        end: NONE,
        size: NONE,
    };

    /// A gap below `top` has become as large as `gap`.
    #[inline]
    pub(super) fn note_gap(&mut self, top: u64, gap: u64) {
        if gap >= self.size && top > self.above {
            self.above = top;
        }
    }
}

impl Chunks {
    /// The uppermost `size` bytes of the highest gap between `start` and `end` that holds them: where they start.
    ///
    /// A search goes on where the last one for no more bytes has ended. Below that, chunks and groups without a gap that
    /// large are skipped; one that is looked into in vain is skipped by the next search that wants as much. So a search
    /// costs a step for each group at most, and one for each chunk of a group that may hold it.
    pub(in crate::region) fn highest_gap(&mut self, start: u64, end: u64, size: u64) -> Option<u64> {
        let Searched { above, .. } = self.searched;
        let is_known = self.searched.end == end && self.searched.size <= size && above > start && above < end;
        let found = self.search(start, if is_known { above } else { end }, size)?;
        // What lies above the gap has no room: it starts below the region above, or is the one below `end`.
        let above = self.at_or_below(found).map_or(self.first(), |at| self.next(at));
        let above = above.map_or(end, |at| self.start(at).min(end));
        self.searched = Searched { above, end, size };
        Some(found)
    }

    fn search(&mut self, start: u64, end: u64, size: u64) -> Option<u64> {
        let from = end.checked_sub(1)?;
        let Some(last) = self.at_or_below(from) else {
            return (start < end && end - start >= size).then(|| end - size);
        };
        let bottom = self.region(last).end.max(start);
        if bottom < end && end - bottom >= size {
            return Some(end - size);
        }
        let (group, chunk, slot) = last.indices();
        // What lies above `last` in its chunk and its group was not looked at, so nothing is learnt there.
        match self.search_chunk(group, chunk, slot, start, size) {
            Search::Found(found) => return found,
            Search::Nothing(_) => {}
        }
        if let Search::Found(found) = self.search_group(group, chunk, start, size) {
            return found;
        }
        let mut end = group;
        while let Some(group) = self.gaps[..end].iter().rposition(|&gap| gap >= size) {
            match self.search_group(group, self.groups[group].len(), start, size) {
                Search::Found(found) => return found,
                Search::Nothing(largest) => self.gaps[group] = largest,
            }
            end = group;
        }
        None
    }

    /// Searches the chunks of a group below `end`, from above.
    fn search_group(&mut self, group: usize, end: usize, start: u64, size: u64) -> Search {
        let mut left = end;
        while let Some(chunk) = self.groups[group].gaps[..left].iter().rposition(|&gap| gap >= size) {
            let slot = self.groups[group].chunks[chunk].len() - 1;
            match self.search_chunk(group, chunk, slot, start, size) {
                Search::Nothing(exact) => self.groups[group].gaps[chunk] = exact,
                found @ Search::Found(_) => return found,
            }
            left = chunk;
        }
        Search::Nothing(self.groups[group].gaps[..end].iter().copied().max().unwrap_or(0))
    }

    /// Searches the gaps of the regions of a chunk from `slot` on down.
    fn search_chunk(&self, group: usize, chunk: usize, slot: usize, start: u64, size: u64) -> Search {
        let here = &self.groups[group].chunks[chunk];
        let mut largest = 0;
        for slot in (0..=slot).rev() {
            let top = here.starts[slot];
            if top <= start {
                return Search::Found(None);
            }
            let end = match slot.checked_sub(1) {
                Some(below) => here.regions[below].end,
                None => self.end_before(Position::at(group, chunk, 0)),
            };
            let bottom = end.max(start);
            if bottom < top && top - bottom >= size {
                return Search::Found(Some(top - size));
            }
            largest = largest.max(top - end);
        }
        Search::Nothing(largest)
    }
}

/// What a search of some gaps came to.
enum Search {
    /// The search is over: there, or nowhere.
    Found(Option<u64>),
    /// It is none of these, the largest of which is so large.
    Nothing(u64),
}
