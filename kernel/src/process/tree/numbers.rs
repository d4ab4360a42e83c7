//! Who has which number.
//!
//! Processes, threads, process groups and sessions have numbers of one kind: the first thread of a process has the number
//! of the process, and a group or a session that of the process that made it. An entry holds who has a number now; the
//! number is free again when nobody has it any more.
//!
//! Entries lie in chunks, which are allocated when a number in them is given out and freed when the last one is free. So
//! looking up a number is a step, whatever the number, and nothing grows with how many were given out before.

use faultline_fallible::{Arc, Vec};

use crate::process::{Pid, Process, Thread};

/// One more than the highest number, as Linux's default for a small machine.
pub const END: u32 = 32_768;

/// The lowest number that is given out again after the highest.
const FIRST_AGAIN: u32 = 300;

/// Numbers in a chunk.
const CHUNK: usize = 64;

/// Who has a number.
#[derive(Default)]
pub(super) struct Entry {
    /// The thread of that number.
    pub(super) thread: Option<Arc<Thread>>,
    /// The process of that number, until it is reaped.
    pub(super) process: Option<Arc<Process>>,
    /// The process that made the group of that number, while anybody is in it; its record has the list.
    pub(super) leader: Option<Arc<Process>>,
    /// How many groups are in the session of that number.
    pub(super) groups: u32,
    /// It was given out to somebody who has not come yet.
    reserved: bool,
}

impl Entry {
    fn is_free(&self) -> bool {
        let nobody = self.thread.is_none() && self.process.is_none() && self.leader.is_none();
        nobody && self.groups == 0 && !self.reserved
    }
}

struct Chunk {
    /// All entries, or none while every number is free.
    entries: Vec<Entry>,
    /// How many numbers are taken.
    taken: usize,
}

/// No number is free, or there is no memory for its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// Every number is taken.
    NoneFree,
    /// The heap is full.
    OutOfMemory,
}

pub(super) struct Numbers {
    chunks: [Chunk; END as usize / CHUNK],
    last: u32,
}

impl Numbers {
    pub(super) const EMPTY: Self = Self {
        chunks: [const {
            Chunk {
                entries: Vec::new(),
                taken: 0,
            }
        }; END as usize / CHUNK],
        last: 0,
    };

    /// Who has `number`.
    pub(super) fn get(&self, number: u32) -> Option<&Entry> {
        self.chunks
            .get(number as usize / CHUNK)?
            .entries
            .get(number as usize % CHUNK)
    }

    /// The next number that is free, marked as reserved.
    pub(super) fn reserve(&mut self) -> Result<u32, NumberError> {
        let mut number = self.last;
        // Once around, chunk by chunk where they are full.
        for _ in 0..END as usize / CHUNK + 2 * CHUNK {
            number = if number + 1 >= END { FIRST_AGAIN } else { number + 1 };
            let chunk = &mut self.chunks[number as usize / CHUNK];
            if chunk.taken == CHUNK {
                number |= CHUNK as u32 - 1;
                continue;
            }
            if chunk.entries.is_empty() {
                let entries = &mut chunk.entries;
                entries
                    .try_resize_with(CHUNK, Entry::default)
                    .map_err(|_| NumberError::OutOfMemory)?;
            }
            let entry = &mut chunk.entries[number as usize % CHUNK];
            if entry.is_free() {
                entry.reserved = true;
                chunk.taken += 1;
                self.last = number;
                return Ok(number);
            }
        }
        Err(NumberError::NoneFree)
    }

    /// Changes who has `number`, which somebody has or has reserved. Returns what `change` returns.
    pub(super) fn change<T>(&mut self, number: u32, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let chunk = self.chunks.get_mut(number as usize / CHUNK)?;
        let entry = chunk.entries.get_mut(number as usize % CHUNK)?;
        let was_free = entry.is_free();
        let result = change(entry);
        match (was_free, entry.is_free()) {
            (true, false) => chunk.taken += 1,
            (false, true) => chunk.taken -= 1,
            _ => {}
        }
        if chunk.taken == 0 {
            chunk.entries = Vec::new();
        }
        Some(result)
    }

    /// The reservation of `number` is over.
    pub(super) fn unreserve(&mut self, number: u32) {
        self.change(number, |entry| entry.reserved = false);
    }

    /// The first process with a number above `last`, reaped ones excluded.
    pub(super) fn process_above(&self, last: Pid) -> Option<&Arc<Process>> {
        let mut number = last as usize + 1;
        while number < END as usize {
            let chunk = &self.chunks[number / CHUNK];
            if chunk.entries.is_empty() {
                number = (number / CHUNK + 1) * CHUNK;
                continue;
            }
            if let Some(process) = &chunk.entries[number % CHUNK].process {
                return Some(process);
            }
            number += 1;
        }
        None
    }
}
