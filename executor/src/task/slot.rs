//! The place where a task lives.

use core::{
    mem::MaybeUninit,
    task::{Context, Waker},
};

use super::{FutureTable, PollFunction, State, TaskId, state::generation_of};
use crate::{
    Class, fair,
    queue::ClassQueue,
    sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, UnsafeCell},
    waits::Edge,
};

/// How many bytes of future (and of output, in the same place) a slot holds; larger ones are boxed.
pub(crate) const INLINE: usize = 48;

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
    waker: UnsafeCell<MaybeUninit<Waker>>,
    /// The function that polls the future: a [`PollFunction`]. `spawn` writes it; it is replaced when the task is to be
    /// cancelled, so that a poll needs no test for that.
    ///
    /// Relaxed: `spawn` publishes it with the task. Who cancels writes it before it sets `ENQUEUED`, a poll reads it after
    /// it has cleared `ENQUEUED`.
    pub(crate) poll: AtomicPtr<()>,
    /// The other functions that know the type of the future. Written by `spawn`, read by whoever holds a reference.
    pub(crate) table: UnsafeCell<MaybeUninit<&'static FutureTable>>,
    /// The run queue of the task: its CPU and its effective class. Written by `spawn`, and when the class changes; read
    /// by whoever holds a reference.
    ///
    /// Relaxed: a waker reads it after it has set `ENQUEUED`, and who changes the class writes it before it looks at
    /// `ENQUEUED`, both in a read-modify-write of the state. So either the waker sees the new queue, or the other sees
    /// that the task is in a queue, and moves it.
    pub(crate) queue: AtomicPtr<ClassQueue>,
    /// The name of the task. Written by `spawn`, read by whoever holds a reference.
    pub(crate) name: UnsafeCell<&'static str>,
    /// The waker of the task that awaits the join handle; `State` says who may touch it.
    pub(crate) joiner: UnsafeCell<Option<Waker>>,
    /// The index of this slot in the slab.
    pub(crate) index: u32,
    /// The class that the task was spawned with: its number.
    base: AtomicU32,
    /// How many waiters lend their class to the task: 16 bits for each class, the highest class lowest. Changed under
    /// the lock of the wait-for graph.
    pub(crate) lent: AtomicU64,
    /// The virtual time of the task; [`fair`] has its meaning. Written by `spawn`, then by the CPU that runs the
    /// task.
    pub(crate) virtual_time: AtomicU64,
    /// The CPUs that the task may move to, as a bit set.
    pub(crate) allowed: AtomicU64,
    /// What the task waits for, the newest first: a list under the lock of the wait-for graph.
    pub(crate) waits: UnsafeCell<*mut Edge>,
    /// That the owner of the join handle waits for this task; under the lock of the wait-for graph.
    pub(crate) joined: UnsafeCell<MaybeUninit<Edge>>,
    /// The context for polls, with `waker`. Written by `spawn`; a poll has it while the task is `LIVE`. It is made once,
    /// so that a poll need not do it; what a future does to its context, it does to itself only.
    context: UnsafeCell<MaybeUninit<Context<'static>>>,
    /// The future, then its output, or the box that holds them.
    pub(crate) storage: UnsafeCell<Storage>,
}

// SAFETY: every field is atomic, constant, or a cell whose one owner at a time is decided by `state`, as the fields say.
unsafe impl Sync for Slot {}
// SAFETY: as above. A slot is only ever shared; this is for the containers that say so by `Send`.
unsafe impl Send for Slot {}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Eq for Slot {}

impl Slot {
    /// A free slot.
    pub(crate) fn new(index: u32) -> Self {
        Self {
            state: State::new(),
            next: AtomicPtr::new(core::ptr::null_mut()),
            waker: UnsafeCell::new(MaybeUninit::uninit()),
            poll: AtomicPtr::new(core::ptr::null_mut()),
            table: UnsafeCell::new(MaybeUninit::uninit()),
            queue: AtomicPtr::new(core::ptr::null_mut()),
            name: UnsafeCell::new(""),
            joiner: UnsafeCell::new(None),
            index,
            base: AtomicU32::new(0),
            lent: AtomicU64::new(0),
            virtual_time: AtomicU64::new(fair::NEW),
            allowed: AtomicU64::new(u64::MAX),
            waits: UnsafeCell::new(core::ptr::null_mut()),
            joined: UnsafeCell::new(MaybeUninit::uninit()),
            context: UnsafeCell::new(MaybeUninit::uninit()),
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
        self.id_at(self.state.load())
    }

    /// The id of the task with this state word.
    pub(crate) fn id_at(&self, state: u64) -> TaskId {
        TaskId::new(self.index, generation_of(state))
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

    /// Whether the task may run on a CPU.
    pub(crate) fn may_run_on(&self, cpu: usize) -> bool {
        self.allowed.load(Ordering::Relaxed) & (1 << cpu) != 0
    }

    /// The class that the task was spawned with.
    pub(crate) fn base(&self) -> Class {
        Class::ALL[self.base.load(Ordering::Relaxed) as usize % Class::COUNT]
    }

    /// Sets the class of a new task, and that it has not run. The caller owns the slot.
    #[inline(always)]
    pub(crate) fn set_base(&self, class: Class) {
        self.base.store(class as u32, Ordering::Relaxed);
        self.lent.store(0, Ordering::Relaxed);
        self.virtual_time.store(fair::NEW, Ordering::Relaxed);
        self.allowed.store(u64::MAX, Ordering::Relaxed);
    }

    /// Sets the waker that polls hand out.
    ///
    /// # Safety
    /// The slot came from the free list and is the caller's. The waker needs no dropping.
    #[inline(always)]
    pub(crate) unsafe fn set_waker(&'static self, waker: Waker) {
        // SAFETY: the cells are the caller's. The waker stays in place, and is written again only for the next task, whose
        // context is written after it.
        unsafe {
            let waker: &'static Waker = self.waker.with_mut(|place| (*place).write(waker));
            self.context
                .with_mut(|context| (*context).write(Context::from_waker(waker)));
        }
    }

    /// Calls `f` with the context for a poll.
    ///
    /// # Safety
    /// This is the poll of a task that is `LIVE` and not `DONE`.
    #[inline(always)]
    pub(crate) unsafe fn with_context<R>(&'static self, f: impl FnOnce(&mut Context<'_>) -> R) -> R {
        // SAFETY: `spawn` wrote the context, and it is the running poll's.
        self.context
            .with_mut(|context| f(unsafe { (*context).assume_init_mut() }))
    }

    /// Sets the function that polls the future.
    #[inline(always)]
    pub(crate) fn set_poll(&self, function: PollFunction) {
        self.poll.store(function as *mut (), Ordering::Relaxed);
    }

    /// The function that polls the future.
    ///
    /// # Safety
    /// The caller holds one of the references that `State` lists.
    #[inline(always)]
    pub(crate) unsafe fn poll(&self) -> PollFunction {
        // SAFETY: `spawn` wrote a function of this type before the first reference existed, and only such are written.
        unsafe { core::mem::transmute::<*mut (), PollFunction>(self.poll.load(Ordering::Relaxed)) }
    }

    /// The run queue of the task.
    ///
    /// # Safety
    /// The caller holds one of the references that `State` lists.
    #[inline(always)]
    pub(crate) unsafe fn queue(&self) -> &'static ClassQueue {
        // SAFETY: `spawn` wrote it before the first reference existed; queues live as long as their executor, for ever.
        unsafe { &*self.queue.load(Ordering::Relaxed) }
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
