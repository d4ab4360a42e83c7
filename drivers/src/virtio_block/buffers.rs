//! The buffers of a request, as the queue wants them: slices, although nobody reads a byte of them here.

use core::ptr::NonNull;

use arrayvec::ArrayVec;
use faultline_mm::{Direction, MAX_SEGMENTS};
use x86_64::PhysAddr;

use super::request::Piece;

/// The buffers of a request.
pub struct Buffers {
    direction: Direction,
    header: Option<NonNull<[u8]>>,
    status: Option<NonNull<[u8]>>,
    pieces: ArrayVec<NonNull<[u8]>, MAX_SEGMENTS>,
}

/// A header or a status, and the pieces.
const BUFFERS: usize = MAX_SEGMENTS + 1;

/// No buffer that the device reads.
pub const NO_INPUTS: [&[u8]; BUFFERS] = [&[]; BUFFERS];

/// No buffer that it writes.
pub fn no_outputs<'a>() -> [&'a mut [u8]; BUFFERS] {
    core::array::from_fn(|_| <&mut [u8]>::default())
}

impl Buffers {
    /// Of a request with this header, whose length is given, and this status byte.
    pub fn new(
        direction: Direction,
        (header, length): (*mut u8, usize),
        status: *mut u8,
        pieces: &[Piece],
        memory: fn(PhysAddr) -> NonNull<u8>,
    ) -> Self {
        let raw = |start: NonNull<u8>, length| NonNull::slice_from_raw_parts(start, length);
        let own = |pointer: *mut u8, length| NonNull::new(pointer).map(|pointer| raw(pointer, length));
        Self {
            direction,
            header: own(header, length),
            status: own(status, 1),
            pieces: pieces
                .iter()
                .map(|piece| raw(memory(piece.start), piece.length as usize))
                .collect(),
        }
    }

    /// Lists what the device reads, and what it writes. Returns how many there are of each.
    pub fn split<'a>(
        &'a mut self,
        inputs: &mut [&'a [u8]; BUFFERS],
        outputs: &mut [&'a mut [u8]; BUFFERS],
    ) -> [usize; 2] {
        let (mut read, mut written) = (0, 0);
        // SAFETY: 1. header, status and frames are valid for ever; 2. the references live until the queue has noted their
        // addresses, or forgotten them, while nobody else has the driver, and no two overlap that one of them could change;
        // 3. the queue reads no byte of them, and neither does a driver of the memory (`Hal`).
        unsafe {
            let mut input = |buffer: &'a NonNull<[u8]>| {
                inputs[read] = buffer.as_ref();
                read += 1;
            };
            let mut output = |buffer: &'a mut NonNull<[u8]>| {
                outputs[written] = buffer.as_mut();
                written += 1;
            };
            self.header.iter().for_each(&mut input);
            match self.direction {
                Direction::Read => self.pieces.iter_mut().for_each(&mut output),
                Direction::Write => self.pieces.iter().for_each(&mut input),
            }
            self.status.iter_mut().for_each(&mut output);
        }
        [read, written]
    }
}
