//! The place where a task lives.

use core::{mem::MaybeUninit, task::Waker};

use super::{FutureTable, State, TaskId};
use crate::{
    Class,
    cpu::Cpu,
    sync::{AtomicPtr, UnsafeCell},
};

/// How many bytes of future (and of output, in the same place) a slot holds; larger ones are boxed.
pub(crate) const INLINE: usize = 112;

/// The inline storage. Aligned for everything that is at most [`STORAGE_ALIGN`] aligned.
#[repr(C, align(16))]
pub(crate) struct Storage(pub(crate) MaybeUninit<[u8; INLINE]>);

/// The alignment of [`Storage`].
pub(crate) const STORAGE_ALIGN: usize = align_of::<Storage>();

/// One slot of the slab. It is never freed, so `&'static Slot` is how everybody refers to a task; what they may touch
/// is decided by [`State`].
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Who may do what.
    pub(crate) state: State,
    /// The next task of the inbox or queue that this one is in. Written by whoever set `ENQUEUED`, until the push;
    /// then by the CPU that owns the queue.
    pub(crate) next: AtomicPtr<Slot>,
    /// The waker that polls hand out. Written by `spawn`, read while the task is `LIVE`.
    pub(crate) waker: UnsafeCell<MaybeUninit<Waker>>,
    /// The functions that know the type of the future. Written by `spawn`, read by whoever holds a reference.
    pub(crate) table: UnsafeCell<MaybeUninit<&'static FutureTable>>,
    /// The CPU that runs the task. Written by `spawn`, read by whoever holds a reference.
    pub(crate) home: UnsafeCell<MaybeUninit<&'static Cpu>>,
    /// The name of the task. Written by `spawn`, read by whoever holds a reference.
    pub(crate) name: UnsafeCell<&'static str>,
    /// The waker of the task that awaits the join handle; `State` says who may touch it.
    pub(crate) joiner: UnsafeCell<Option<Waker>>,
    /// The index of this slot in the slab.
    pub(crate) index: u32,
    /// The class that the task was spawned with.
    pub(crate) base: UnsafeCell<Class>,
    /// The future, then its output, or the box that holds them.
    pub(crate) storage: UnsafeCell<Storage>,
}

// SAFETY: every field is atomic, constant, or a cell whose one owner at a time is decided by `state`, as the fields say.
unsafe impl Sync for Slot {}

impl Slot {
    /// A free slot.
    pub(crate) fn new(index: u32) -> Self {
        Self {
            state: State::new(),
            next: AtomicPtr::new(core::ptr::null_mut()),
            waker: UnsafeCell::new(MaybeUninit::uninit()),
            table: UnsafeCell::new(MaybeUninit::uninit()),
            home: UnsafeCell::new(MaybeUninit::uninit()),
            name: UnsafeCell::new(""),
            joiner: UnsafeCell::new(None),
            index,
            base: UnsafeCell::new(Class::Idle),
            storage: UnsafeCell::new(Storage(MaybeUninit::uninit())),
        }
    }

    /// The address of the slot, as the queues keep it.
    #[inline(always)]
    pub(crate) fn as_ptr(&'static self) -> *mut Slot {
        core::ptr::from_ref(self).cast_mut()
    }

    /// The id of the task that lives here now.
    pub(crate) fn id(&self) -> TaskId {
        TaskId::new(self.index, self.state.generation())
    }

    /// The functions that know the type of the future.
    ///
    /// # Safety
    /// The caller holds one of the references that `State` lists.
    #[inline(always)]
    pub(crate) unsafe fn table(&self) -> &'static FutureTable {
        // SAFETY: `spawn` wrote it before the first reference existed, and nobody writes it while there is one.
        self.table.with(|table| unsafe { (*table).assume_init() })
    }

    /// The CPU that runs the task.
    ///
    /// # Safety
    /// The caller holds one of the references that `State` lists.
    #[inline(always)]
    pub(crate) unsafe fn home(&self) -> &'static Cpu {
        // SAFETY: as in `table`.
        self.home.with(|home| unsafe { (*home).assume_init() })
    }

    /// The name of the task.
    ///
    /// # Safety
    /// The caller holds one of the references that `State` lists.
    pub(crate) unsafe fn name(&self) -> &'static str {
        // SAFETY: as in `table`.
        self.name.with(|name| unsafe { *name })
    }
}
