//! Where the metadata comes from.

/// Bytes of a device that are read as one: a read never crosses a multiple of this.
pub const UNIT: u64 = 4096;

/// A device, or a cache before one.
pub trait Source: Sync {
    /// Why it could not be read.
    type Error: Send;

    /// Shows `with` the `length` bytes from `at` on. They never cross a multiple of [`UNIT`]. Many reads in a row may be
    /// answered at once; letting others run in between is up to the source.
    ///
    /// # Errors
    /// The device could not be read there, or has no such bytes.
    fn read<T: Send>(
        &self,
        at: u64,
        length: usize,
        with: impl FnOnce(&[u8]) -> T + Send,
    ) -> impl Future<Output = Result<T, Self::Error>> + Send;
}
