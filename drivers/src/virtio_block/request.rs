//! Transfers cut into requests: what of a transfer one request of the device can do.

use arrayvec::ArrayVec;
use faultline_mm::{MAX_SEGMENTS, Segment};
use x86_64::PhysAddr;

/// What the device takes in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pieces of memory.
    pub pieces: usize,
    /// Bytes of each.
    pub piece_length: u32,
}

/// Memory that is contiguous, and whose bytes follow those of the piece before it on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub length: u32,
}

/// The pieces of a request.
pub type Pieces = ArrayVec<Piece, MAX_SEGMENTS>;

/// The longest request that begins with the first of these segments: its pieces, and how many of the segments are in it.
/// It ends where the next segment does not follow on the device. Segments that follow each other in memory too are one
/// piece.
pub fn cut(segments: &[Segment], limits: Limits) -> (Pieces, usize) {
    let mut pieces = Pieces::new();
    let mut sector = segments.first().map_or(0, |segment| segment.sector);
    for (index, segment) in segments.iter().enumerate() {
        let start = segment.frame.start_address() + u64::from(segment.offset);
        let length = u32::from(segment.length);
        if segment.sector != sector {
            return (pieces, index);
        }
        let is_full = pieces.len() == limits.pieces.min(MAX_SEGMENTS);
        match pieces.last_mut() {
            Some(last)
                if last.start + u64::from(last.length) == start && last.length + length <= limits.piece_length =>
            {
                last.length += length;
            }
            _ if is_full => return (pieces, index),
            _ => pieces.push(Piece { start, length }),
        }
        sector = segment.end();
    }
    (pieces, segments.len())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use x86_64::structures::paging::PhysFrame;

    use super::*;

    const WIDE: Limits = Limits {
        pieces: 64,
        piece_length: u32::MAX,
    };

    fn page(sector: u64, frame: u64) -> Segment {
        Segment::page(sector, PhysFrame::containing_address(PhysAddr::new(frame * 4096)))
    }

    fn lengths(cut: &(Pieces, usize)) -> (Vec<u32>, usize) {
        (cut.0.iter().map(|piece| piece.length).collect(), cut.1)
    }

    #[test]
    fn neighbours_in_memory_are_one_piece() {
        let segments = [page(0, 5), page(8, 6), page(16, 9)];
        assert_eq!(lengths(&cut(&segments, WIDE)), ([8192, 4096].into(), 3));
        assert_eq!(cut(&segments, WIDE).0[0].start, PhysAddr::new(5 * 4096));
    }

    #[test]
    fn a_gap_on_the_device_ends_a_request() {
        let segments = [page(0, 5), page(16, 6), page(24, 7)];
        assert_eq!(lengths(&cut(&segments, WIDE)), ([4096].into(), 1));
        assert_eq!(lengths(&cut(&segments[1..], WIDE)), ([8192].into(), 2));
    }

    #[test]
    fn parts_of_frames_are_joined_where_they_touch() {
        let half = |sector, offset| Segment {
            offset,
            length: 2048,
            ..page(sector, 5)
        };
        assert_eq!(lengths(&cut(&[half(0, 0), half(4, 2048)], WIDE)), ([4096].into(), 2));
        assert_eq!(
            lengths(&cut(&[half(0, 2048), half(4, 0)], WIDE)),
            ([2048, 2048].into(), 2)
        );
    }

    #[test]
    fn the_limits_of_the_device_end_pieces_and_requests() {
        let segments = [page(0, 5), page(8, 6), page(16, 7)];
        let narrow = Limits {
            pieces: 1,
            piece_length: 8192,
        };
        assert_eq!(lengths(&cut(&segments, narrow)), ([8192].into(), 2));
        assert_eq!(lengths(&cut(&segments[2..], narrow)), ([4096].into(), 1));
    }
}
