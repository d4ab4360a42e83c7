//! Little-endian fields of a structure, none of which is read beyond its end.

/// The bytes of a structure on the device.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// `N` bytes from `offset` on; zeros if the structure is too short for them.
    #[must_use]
    pub fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        let bytes = self.0.get(offset..).and_then(|bytes| bytes.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    /// One byte.
    #[must_use]
    pub fn u8(self, offset: usize) -> u8 {
        let [byte] = self.array(offset);
        byte
    }

    /// Two bytes.
    #[must_use]
    pub fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    /// A number whose upper half stands elsewhere.
    #[must_use]
    pub fn wide(self, low: usize, high: usize) -> u64 {
        u64::from(self.u32(low)) | u64::from(self.u32(high)) << 32
    }

    /// What follows `offset`; nothing if the structure is too short.
    #[must_use]
    pub fn from(self, offset: usize) -> Fields<'a> {
        Fields(self.0.get(offset..).unwrap_or_default())
    }
}
