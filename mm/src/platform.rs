//! The seam between address spaces and the machine they run on.
//!
//! Everything that this crate asks of hardware is in [`Platform`]: reach physical memory, name the current CPU, drop
//! translations, load a root. The kernel implements it with `mov cr3` and `invlpg`; host tests implement it with a
//! buffer and a modelled TLB.

use faultline_trace::Kind;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

/// The largest number of CPUs that address spaces keep track of.
pub const MAX_CPUS: usize = 8;

/// Process-context identifier of a root (Intel SDM volume 3, section 4.10.1); 0 where tagging is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcid(pub u16);

/// The machine under the address spaces.
///
/// # Safety
///
/// Implementors promise:
/// 1. [`phys_to_virt`](Platform::phys_to_virt) returns a pointer that is valid for reads and writes of the whole 4 KiB
///    frame around every address that the frame allocator was given, for as long as the platform lives, and two
///    different physical addresses never alias.
/// 2. [`cpu`](Platform::cpu) is below [`MAX_CPUS`] and stays the same while the caller does not await.
/// 3. After [`invalidate_page`](Platform::invalidate_page) or a [`load_root`](Platform::load_root) with `keep ==
///    false`, this CPU answers no access from a translation that the call covers.
pub unsafe trait Platform: Sized + Send + Sync + 'static {
    /// Where physical address `address` can be read and written.
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8;

    /// Index of the CPU that runs the caller.
    fn cpu(&self) -> usize;

    /// Drops this CPU's translations of the page that holds `address`, for the root that is loaded, and the
    /// paging-structure caches that lead to it (`invlpg`).
    fn invalidate_page(&self, address: VirtAddr);

    /// Loads `root` under `pcid`; keeps what is cached under that PCID if `keep`, else drops all of it.
    fn load_root(&self, root: PhysFrame, pcid: Pcid, keep: bool);

    /// How many PCIDs may be used on each CPU; 0 where the processor has none.
    fn pcids(&self) -> u16 {
        0
    }

    /// Asks every CPU in the bit set `cpus` to call [`Memory::acknowledge`](crate::Memory::acknowledge) soon.
    fn shootdown(&self, cpus: u64) {
        let _ = cpus;
    }

    /// Fills a frame with zeros.
    #[inline]
    fn zero_frame(&self, frame: PhysFrame) {
        // SAFETY: 1. the pointer is valid for 4096 bytes by the trait's first promise; 2. the caller owns the frame,
        // which no page-table entry maps yet, so nobody reads it concurrently.
        unsafe { self.phys_to_virt(frame.start_address()).write_bytes(0, 4096) }
    }

    /// Fills `count` frames that follow each other with zeros.
    #[inline]
    fn zero_frames(&self, first: PhysFrame, count: u32) {
        for frame in PhysFrame::range(first, first + u64::from(count)) {
            self.zero_frame(frame);
        }
    }

    /// Copies the content of one frame to another.
    #[inline]
    fn copy_frame(&self, from: PhysFrame, to: PhysFrame) {
        let (from, to) = (
            self.phys_to_virt(from.start_address()),
            self.phys_to_virt(to.start_address()),
        );
        // SAFETY: 1. both are valid for 4096 bytes and do not alias by the trait's first promise; 2. the caller owns
        // `to`; 3. `from` is mapped read-only wherever it is mapped, and the caller holds a reference to it.
        unsafe { from.copy_to_nonoverlapping(to, 4096) }
    }

    /// Whether events of this kind are recorded: one test, so that what an event says is worked out only if it is.
    #[inline(always)]
    fn traces(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// Records an event of which [`traces`](Self::traces) has just said that it is to be recorded.
    #[inline(always)]
    fn record(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        self.trace(kind, space, fault, a, b);
    }

    /// Records an event; must cost one test when the category of `kind` is off.
    #[inline(always)]
    fn trace(&self, kind: Kind, space: u64, fault: u64, a: u64, b: u64) {
        let _ = (kind, space, fault, a, b);
    }
}
