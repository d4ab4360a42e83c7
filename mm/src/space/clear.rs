//! The end of a space, and its beginning anew.

use crate::sync::atomic::Ordering;

use super::VirtualAddressSpace;
use crate::address::{PageRange, USER_END};
use crate::fault::slot;
use crate::platform::Platform;
use crate::region::Alone;
use crate::space::Layout;
use crate::tlb::Change;

impl<P: Platform> VirtualAddressSpace<P> {
    /// Unmaps every region; frames and tables below the top one are freed. Faults in flight become stale: their waiters
    /// get the region error. The break goes back to the start of the heap. Idempotent.
    pub fn clear(&self) {
        let mut inner = self.lock();
        let mut change = Change::new();
        let regions = core::mem::take(&mut inner.regions);
        inner.guards.clear();
        for (range, _) in regions.iter() {
            self.clear_entries(&mut inner, range, Alone::EVERYTHING, &mut change);
        }
        self.revoke_side(&mut inner, PageRange::new_unchecked(0, USER_END));
        // A table goes with the last region in its span: the tables below it are gone by then.
        let next = regions.iter().skip(1).map(|(range, _)| range.start());
        for ((range, _), next) in regions.iter().zip(next.chain([u64::MAX])) {
            self.free_tables(&mut inner, range, Alone::below(next), &mut change);
        }
        inner.layout.heap_end = inner.layout.heap_start;
        self.finish(&mut inner, change);
        debug_assert!(inner.side == slot::NONE);
    }

    /// As [`clear`](Self::clear), and resets the layout to its default: for `execve`.
    pub fn clear_user_space(&self) {
        self.clear();
        self.lock().layout = Layout::default();
    }

    /// Ends the space: everything that [`clear`](Self::clear) does, and the top table too. A CPU that has it loaded
    /// loads the kernel's own root first; what other CPUs may still use is quarantined until they have left.
    /// Idempotent. Later faults get [`FaultError::SpaceGone`](crate::FaultError::SpaceGone).
    pub fn destroy(&self) {
        self.clear();
        let mut inner = self.lock();
        let Some(root) = inner.root else { return };
        self.set_root(&mut inner, None);
        let mut change = Change::new();
        change.all();
        self.release_table(&mut inner, root, false);
        let _owner = self.memory.give_up_slot(&mut inner);
        // A CPU that has the old root loaded leaves it: this one here, others when they are asked to flush.
        self.finish(&mut inner, change);
        drop(inner);
        self.memory.forget(self.core());
        let mut inner = self.lock();
        self.release_quarantine(&mut inner);
    }

    /// Whether the space has a top table.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.page_table_root.load(Ordering::Relaxed) != 0
    }
}
