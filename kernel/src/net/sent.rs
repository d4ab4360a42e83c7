//! What a socket has sent and nobody has received yet.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of a socket that are in the inboxes of others, and who wants to know when there are fewer.
#[derive(Default)]
pub struct Sent {
    bytes: AtomicUsize,
    /// Somebody found no room. Set before the last look, so that no end of a shortage is missed.
    is_wanted: AtomicBool,
}

impl Sent {
    /// Counts `cost` bytes more, if there are fewer than `most`.
    pub fn add(&self, cost: usize, most: usize) -> bool {
        let add = |bytes| (bytes < most).then_some(bytes + cost);
        let added = |bytes: &AtomicUsize| bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok();
        if added(&self.bytes) {
            return true;
        }
        self.is_wanted.store(true, Ordering::SeqCst);
        added(&self.bytes)
    }

    /// Counts `cost` bytes less; says whether somebody waits for that.
    pub fn remove(&self, cost: usize, most: usize) -> bool {
        self.bytes.fetch_sub(cost, Ordering::SeqCst);
        self.has_room(most) && self.is_wanted.swap(false, Ordering::SeqCst)
    }

    /// Whether there is room worth a wake: three quarters, as on Linux.
    pub fn is_writable(&self, most: usize) -> bool {
        if self.has_room(most) {
            return true;
        }
        self.is_wanted.store(true, Ordering::SeqCst);
        self.has_room(most)
    }

    /// Bytes that are on their way.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn has_room(&self, most: usize) -> bool {
        self.bytes.load(Ordering::SeqCst) * 4 <= most
    }
}
