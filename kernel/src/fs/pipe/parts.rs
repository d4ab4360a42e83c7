//! The pages of a pipe by themselves, for calls that move them from one pipe to another (`splice`, `tee`).

use super::super::page::Page;
use super::{Pipe, Put, State};

/// Some bytes in a page.
#[derive(Debug)]
pub struct Part {
    pub(super) page: Page,
    pub(super) start: u16,
    pub(super) end: u16,
    /// A write by itself: what does not fit in the buffer of its read is dropped.
    pub(super) is_packet: bool,
}

/// What a [`Pipe::pop`] came to.
#[derive(Debug)]
pub enum Pop {
    /// The oldest bytes.
    Part(Part),
    /// There is nothing.
    Empty,
    /// There is nothing, and no writer is left.
    End,
    /// There is no frame for a part of a page.
    NoMemory,
}

impl Part {
    /// The first `length` bytes of a page.
    #[must_use]
    pub const fn new(page: Page, length: usize) -> Self {
        Self {
            page,
            start: 0,
            end: length as u16,
            is_packet: false,
        }
    }

    /// A copy of up to `most` of its bytes.
    fn try_copy(&self, most: usize) -> Option<Self> {
        let mut page = Page::new(true).ok()?;
        let bytes = self.bytes();
        let length = bytes.len().min(most);
        page.bytes_mut()[..length].copy_from_slice(&bytes[..length]);
        Some(Self {
            is_packet: self.is_packet,
            ..Self::new(page, length)
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.page.bytes()[usize::from(self.start)..usize::from(self.end)]
    }

    /// The first `count` bytes are done.
    pub fn advance(&mut self, count: usize) {
        self.start += count as u16;
    }
}

impl State {
    /// The first of the pages, or a copy of the first `most` bytes of it.
    fn pop_part(&mut self, most: usize) -> Option<Part> {
        let first = self.parts.front_mut()?;
        let length = first.bytes().len();
        if length <= most {
            let part = self.parts.pop_front()?;
            self.is_starved = false;
            self.bytes -= length;
            return Some(part);
        }
        let part = first.try_copy(most)?;
        first.advance(most);
        self.bytes -= most;
        Some(part)
    }
}

impl Pipe {
    /// Takes the oldest bytes, of one page and up to `most`. Who does not use all of them puts the rest
    /// [back](Self::put_back).
    pub fn pop(&self, most: usize) -> Pop {
        let mut state = self.state.lock();
        if state.parts.is_empty() {
            return if state.writers > 0 { Pop::Empty } else { Pop::End };
        }
        let had_room = state.has_room();
        let Some(part) = state.pop_part(most) else {
            return Pop::NoMemory;
        };
        let (made_room, is_left) = (!had_room && state.has_room(), state.bytes > 0);
        drop(state);
        if made_room {
            self.writers.wake_one();
            self.write_polls.wake_all();
        }
        if is_left {
            self.readers.wake_one();
        }
        Pop::Part(part)
    }

    /// Puts back what was not used of a page, in front of everything else.
    pub fn put_back(&self, part: Part) {
        let length = part.bytes().len();
        let mut state = self.state.lock();
        // Its place was there; without memory for one in its stead the bytes are lost, as nobody is left to be told.
        if state.parts.try_push_front(part).is_ok() {
            state.bytes += length;
        }
        drop(state);
        self.readers.wake_one();
        self.read_polls.wake_all();
    }

    /// Adds a page.
    ///
    /// # Errors
    /// [`Put`] that says why not, with the page.
    pub fn push(&self, part: Part) -> Result<(), (Part, Put)> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err((part, Put::Broken));
        }
        if !state.has_room() {
            return Err((part, Put::Full));
        }
        if state.parts.try_reserve(1).is_err() {
            return Err((part, Put::NoMemory));
        }
        let (was_empty, length) = (state.bytes == 0, part.bytes().len());
        // There is room.
        let _ = state.parts.push_within_capacity(part);
        state.bytes += length;
        let has_room = state.has_room();
        drop(state);
        if was_empty {
            self.readers.wake_one();
        }
        self.read_polls.wake_all();
        if has_room {
            self.writers.wake_one();
        }
        Ok(())
    }

    /// A copy of the page that is `skip` pages behind the oldest; up to `most` bytes of it.
    ///
    /// # Errors
    /// There is no frame.
    pub fn copy_of(&self, skip: usize, most: usize) -> Result<Option<Part>, Put> {
        let state = self.state.lock();
        match state.parts.get(skip) {
            None => Ok(None),
            Some(part) => part.try_copy(most).map(Some).ok_or(Put::NoMemory),
        }
    }
}
