//! The wire format: how a kernel's events reach the host, and how a recording keeps them.
//!
//! A stream is a row of *frames*. A frame is a header, and for some kinds a payload and a trailer:
//!
//! ```text
//! 00  COBS( postcard(Header) ‖ CRC-32 of it )  00   payload   trailer
//! ```
//!
//! The header is a few dozen bytes: postcard for its fields, a CRC-32 over them, and COBS, so that no zero is inside and a
//! zero on each side marks it. The payload of [`Body::Events`] is the events as they lie in the kernel's memory, 48 bytes
//! each: the kernel hands its ring to the device as it is, and neither copies nor encodes an event. The trailer says that
//! no byte of the payload was lost or added.
//!
//! A reader that lost its place looks for the next zero after which a header decodes and its CRC holds. A damaged header
//! costs its frame, a damaged record in a kernel's frame costs that record. A recorder adds a CRC over the payload
//! ([`Body::Events::check`]); then a damaged payload costs its frame, and no damage goes unnoticed.
//!
//! `docs/trace.md` describes the format for other readers.

#[cfg(feature = "decode")]
mod decode;
mod record;

use crc::{CRC_32_ISO_HDLC, Crc};
use postcard::ser_flavors::{Cobs, Slice};
use serde::{Deserialize, Serialize};

#[cfg(feature = "decode")]
pub use decode::{Damage, Decoder, Frame, UnknownVersion};
pub use record::RECORD;

/// The version of the format; a reader refuses any other.
pub const VERSION: u8 = 1;

/// Bytes that an encoded header takes at most, both zeros included.
pub const MAX_HEADER: usize = 96;

/// Records that a frame holds at most.
pub const MAX_RECORDS: u32 = 1 << 16;

/// Bytes that the payload of an attachment takes at most.
pub const MAX_ATTACHMENT: u32 = 1 << 28;

/// Bytes of the trailer.
pub const TRAILER: usize = 8;

/// The CRC of headers: that of Ethernet and zip.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The same CRC with larger tables, for payloads.
#[cfg(feature = "decode")]
static PAYLOAD_CRC: Crc<u32, crc::Table<16>> = Crc::<u32, crc::Table<16>>::new(&CRC_32_ISO_HDLC);

/// The CRC-32 of a payload.
#[cfg(feature = "decode")]
#[must_use]
pub fn checksum(payload: &[u8]) -> u32 {
    PAYLOAD_CRC.checksum(payload)
}

/// What a frame starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u8,
    /// The number of the frame in its stream, from 0.
    pub frame: u32,
    /// What the frame is.
    pub body: Body,
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The first frame of a stream. No payload.
    Start {
        /// The rate of the time-stamp counter.
        counter_hz: u64,
        /// The counter when tracing began.
        time: u64,
        /// The categories that are on, as [`Category::bits`](crate::Category::bits).
        categories: u32,
        /// How many CPUs there are.
        cpus: u16,
    },
    /// A part of the events of one CPU, in their order.
    Events {
        /// The CPU.
        cpu: u16,
        /// How many records the payload has.
        count: u32,
        /// How many events of this CPU came before the first of these, lost ones not counted.
        first: u64,
        /// How many events of this CPU were lost before the first of these.
        lost: u64,
        /// The time of the first and of the last record.
        times: (u64, u64),
        /// The CRC-32 of the payload. A kernel does not compute it; a recorder adds it.
        check: Option<u32>,
    },
    /// Something that the recorder knows; the payload is its text.
    Attachment {
        /// What it is.
        kind: Attachment,
        /// Bytes of the payload.
        length: u32,
        /// The CRC-32 of the payload.
        check: u32,
    },
    /// The stream ends here as it should. No payload.
    End {
        /// How many events there were in all.
        events: u64,
        /// How many events were lost in all.
        lost: u64,
    },
}

/// What a recorder can attach to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// The kernel's report, as it wrote it.
    Report,
    /// Names of addresses: one `SPACE ADDRESS NAME` a line, both numbers hexadecimal.
    Symbols,
    /// What was run and how: one `NAME VALUE` a line.
    About,
}

impl Body {
    /// Bytes of the payload, without the trailer.
    #[must_use]
    pub const fn payload(&self) -> usize {
        match self {
            Self::Start { .. } | Self::End { .. } => 0,
            Self::Events { count, .. } => *count as usize * RECORD,
            Self::Attachment { length, .. } => *length as usize,
        }
    }

    /// Bytes that follow the header: payload and trailer.
    #[must_use]
    pub const fn follows(&self) -> usize {
        match self {
            Self::Start { .. } | Self::End { .. } => 0,
            _ => self.payload() + TRAILER,
        }
    }
}

/// Writes the header of frame number `frame` with its zeros to the front of `to`, and returns how many bytes that took.
///
/// # Panics
/// If `to` is shorter than [`MAX_HEADER`].
#[must_use]
pub fn encode_header(frame: u32, body: Body, to: &mut [u8]) -> usize {
    let header = Header {
        version: VERSION,
        frame,
        body,
    };
    to[0] = 0;
    let cobs = Cobs::try_new(Slice::new(&mut to[1..])).expect("there is room for the header");
    let checked = postcard::ser_flavors::crc::CrcModifier::new(cobs, CRC.digest());
    let encoded = postcard::serialize_with_flavor(&header, checked).expect("there is room for the header");
    1 + encoded.len()
}

/// The trailer of frame number `frame`.
#[must_use]
pub const fn trailer(frame: u32) -> [u8; TRAILER] {
    let [a, b, c, d] = frame.to_le_bytes();
    [b'F', b'L', b'E', b'N', a, b, c, d]
}
