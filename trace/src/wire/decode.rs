//! The decoder: bytes in pieces of any size in, frames out, whatever the bytes are.

use alloc::vec::Vec;
use core::fmt;

use super::{
    Attachment, Body, CRC, Header, MAX_ATTACHMENT, MAX_HEADER, MAX_RECORDS, RECORD, VERSION, checksum, trailer,
};
use crate::Category;
use crate::event::Event;

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The start of a stream.
    Start {
        /// The rate of the time-stamp counter.
        counter_hz: u64,
        /// The counter when tracing began.
        time: u64,
        /// The categories that are on.
        categories: Category,
        /// How many CPUs there are.
        cpus: u16,
    },
    /// Events of one CPU.
    Events {
        /// The CPU.
        cpu: u16,
        /// How many events of this CPU came before, lost ones not counted.
        first: u64,
        /// How many events of this CPU were lost before.
        lost: u64,
        /// The events whose records are whole.
        events: Vec<Event>,
    },
    /// What a recorder has attached.
    Attachment {
        /// What it is.
        kind: Attachment,
        /// The bytes.
        content: Vec<u8>,
    },
    /// The orderly end.
    End {
        /// How many events there were in all.
        events: u64,
        /// How many events were lost in all.
        lost: u64,
    },
}

/// What was wrong with a stream so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Bytes that belong to no frame.
    pub skipped: u64,
    /// Frames whose header was read but not their payload.
    pub frames: u64,
    /// Frames that are missing by their numbers, the damaged ones among them.
    pub missing: u64,
    /// Records that are no events.
    pub records: u64,
}

impl Damage {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes outside of frames, {} frames damaged, {} missing, {} records damaged",
            self.skipped, self.frames, self.missing, self.records
        )
    }
}

/// A stream of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownVersion(pub u8);

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the trace has version {} of the format; this tool reads version {VERSION}",
            self.0
        )
    }
}

impl core::error::Error for UnknownVersion {}

/// Reads frames out of a stream.
///
/// Any bytes whatever are read without a panic, in time that grows with their number: each byte is looked at as part of a
/// header [`MAX_HEADER`] times at most.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    damage: Damage,
    next_frame: Option<u32>,
}

/// What stands at a place of the stream.
enum Found {
    /// A header of so many bytes.
    Header(Header, usize),
    /// A header of another version.
    Version(u8),
    /// No header.
    Nothing,
    /// Too few bytes to say.
    More,
}

impl Decoder {
    /// A decoder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes to the end of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Says that no more bytes will come.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What was wrong so far.
    #[must_use]
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// The next frame; none if more bytes are needed, or, after [`Decoder::end`], if there is no more.
    ///
    /// # Errors
    /// The stream has another version. What follows may be read, but nothing says that it means the same.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, UnknownVersion> {
        loop {
            let rest = &self.bytes[self.at..];
            if rest.is_empty() {
                return Ok(None);
            }
            match find(rest, self.ended) {
                Found::More => return Ok(None),
                Found::Version(version) => {
                    self.skip(1);
                    return Err(UnknownVersion(version));
                }
                Found::Nothing => {
                    let next = rest[1..].iter().position(|&byte| byte == 0);
                    self.skip(next.map_or(rest.len(), |next| next + 1));
                }
                Found::Header(header, length) => {
                    let whole = length + header.body.follows();
                    if rest.len() < whole {
                        if !self.ended {
                            return Ok(None);
                        }
                        self.bad_frame(length);
                        continue;
                    }
                    let payload = length..length + header.body.payload();
                    let closed = header.body.follows() == 0 || rest[payload.end..whole] == trailer(header.frame);
                    if !closed {
                        self.bad_frame(length);
                        continue;
                    }
                    let mut records = 0;
                    let frame = read(header.body, &rest[payload], &mut records);
                    self.at += whole;
                    self.damage.records += records;
                    match frame {
                        Some(frame) => {
                            self.count(header.frame);
                            return Ok(Some(frame));
                        }
                        None => self.damage.frames += 1,
                    }
                }
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        self.damage.skipped += bytes as u64;
    }

    /// Goes on after a header whose payload is not there.
    fn bad_frame(&mut self, length: usize) {
        self.at += length;
        self.damage.frames += 1;
    }

    /// Notices gaps in the numbers. A recording that was put together from two has a number again, which is no gap.
    fn count(&mut self, frame: u32) {
        let expected = self.next_frame.unwrap_or(0);
        self.damage.missing += u64::from(frame.saturating_sub(expected));
        self.next_frame = Some(frame.wrapping_add(1));
    }
}

/// Looks for a header at the front of `bytes`.
fn find(bytes: &[u8], ended: bool) -> Found {
    if bytes[0] != 0 {
        return Found::Nothing;
    }
    let window = &bytes[1..bytes.len().min(MAX_HEADER)];
    let Some(length) = window.iter().position(|&byte| byte == 0) else {
        return if bytes.len() < MAX_HEADER && !ended {
            Found::More
        } else {
            Found::Nothing
        };
    };
    let mut plain = [0; MAX_HEADER];
    let Ok(report) = cobs::decode(&window[..length], &mut plain) else {
        return Found::Nothing;
    };
    let decoded = report.frame_size();
    let Some(fields) = decoded.checked_sub(4).filter(|&fields| fields > 0) else {
        return Found::Nothing;
    };
    let (fields, check) = plain[..decoded].split_at(fields);
    if CRC.checksum(fields).to_le_bytes() != check {
        return Found::Nothing;
    }
    if fields[0] != VERSION {
        return Found::Version(fields[0]);
    }
    match postcard::take_from_bytes::<Header>(fields) {
        Ok((header, [])) if is_sound(&header.body) => Found::Header(header, length + 2),
        _ => Found::Nothing,
    }
}

fn is_sound(body: &Body) -> bool {
    match body {
        Body::Events { count, times, .. } => (1..=MAX_RECORDS).contains(count) && times.0 <= times.1,
        Body::Attachment { length, .. } => *length <= MAX_ATTACHMENT,
        Body::Start { .. } | Body::End { .. } => true,
    }
}

/// Reads a whole frame; none if its payload is not what its header says. Counts the damaged records.
fn read(body: Body, payload: &[u8], damaged: &mut u64) -> Option<Frame> {
    Some(match body {
        Body::Start {
            counter_hz,
            time,
            categories,
            cpus,
        } => Frame::Start {
            counter_hz,
            time,
            categories: Category::from_bits_truncate(categories),
            cpus,
        },
        Body::End { events, lost } => Frame::End { events, lost },
        Body::Attachment { kind, check, .. } => {
            if checksum(payload) != check {
                return None;
            }
            Frame::Attachment {
                kind,
                content: payload.to_vec(),
            }
        }
        Body::Events {
            cpu,
            count,
            first,
            lost,
            times,
            check,
        } => {
            if check.is_some_and(|check| checksum(payload) != check) {
                return None;
            }
            let mut events = Vec::with_capacity(count as usize);
            let mut earliest = times.0;
            let (records, _) = payload.as_chunks::<RECORD>();
            for record in records {
                let event = Event::from_record(record);
                match event.filter(|event| event.cpu == cpu && (earliest..=times.1).contains(&event.time)) {
                    Some(event) => {
                        earliest = event.time;
                        events.push(event);
                    }
                    None => *damaged += 1,
                }
            }
            Frame::Events {
                cpu,
                first,
                lost,
                events,
            }
        }
    })
}

// A header is one COBS block, so its first byte never says "no zero follows".
const _: () = assert!(MAX_HEADER < 255);
