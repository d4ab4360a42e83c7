//! An event as 48 bytes, little-endian, in the order of its fields.

#[cfg(feature = "decode")]
use crate::Kind;
use crate::event::Event;

/// Bytes of a record.
pub const RECORD: usize = 48;

// The bytes of a record are those of an `Event` in the memory of a little-endian machine.
const _: () = {
    assert!(size_of::<Event>() == RECORD);
    assert!(core::mem::offset_of!(Event, time) == 0);
    assert!(core::mem::offset_of!(Event, kind) == 8);
    assert!(core::mem::offset_of!(Event, cpu) == 10);
    assert!(core::mem::offset_of!(Event, task) == 12);
    assert!(core::mem::offset_of!(Event, space) == 16);
    assert!(core::mem::offset_of!(Event, fault) == 24);
    assert!(core::mem::offset_of!(Event, a) == 32);
    assert!(core::mem::offset_of!(Event, b) == 40);
};

impl Event {
    /// The event as a record.
    #[must_use]
    pub fn to_record(&self) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&self.time.to_le_bytes());
        record[8..10].copy_from_slice(&(self.kind as u16).to_le_bytes());
        record[10..12].copy_from_slice(&self.cpu.to_le_bytes());
        record[12..16].copy_from_slice(&self.task.to_le_bytes());
        record[16..24].copy_from_slice(&self.space.to_le_bytes());
        record[24..32].copy_from_slice(&self.fault.to_le_bytes());
        record[32..40].copy_from_slice(&self.a.to_le_bytes());
        record[40..].copy_from_slice(&self.b.to_le_bytes());
        record
    }

    /// Reads a record; none if it has no known kind.
    #[cfg(feature = "decode")]
    #[must_use]
    pub fn from_record(record: &[u8; RECORD]) -> Option<Self> {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&record[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let head = word(8);
        Some(Self {
            time: word(0),
            kind: Kind::try_from(head as u16).ok()?,
            cpu: (head >> 16) as u16,
            task: (head >> 32) as u32,
            space: word(16),
            fault: word(24),
            a: word(32),
            b: word(40),
        })
    }
}
