//! The cooperative executor of Faultline: every kernel activity and every user thread is a task here.
//!
//! The crate is `no_std` and knows no hardware. What it needs from the machine stands in one trait, [`Hooks`]: a clock,
//! the index of the current CPU and a way to wake another one. Everything else runs, and is proven, on the host.
//!
//! # Protocol
//!
//! * A **task** is a future in a slot of a slab. Slots are never freed, so a waker may outlive its task; a slot is
//!   named by its index and a generation that is bumped when the slot is freed. `task/state.rs` has the state
//!   diagram.
//! * A **waker** is one word: the address of the slot with the generation in the address bits that carry no
//!   information. Cloning and dropping it do nothing; there is no reference count and no allocation. A wake of a task
//!   that is gone changes nothing (see [`TaskId`] for the one exception, which is harmless).
//! * **Wake** sets the task's *enqueued* bit; whoever sets it pushes the task on the inbox of its CPU and class. A task
//!   is in at most one queue and at most once, and its queue link lies in its slot: a queue cannot overflow, and a wake
//!   neither allocates, nor locks, nor polls. It may come from an interrupt handler or another CPU at any time.
//! * **Poll** clears the enqueued bit first, so a wake during the poll queues the task again.
//! * **Turn**: [`Executor::turn`] fires due timers and polls tasks, highest [`Class`] first, until nothing is runnable or each
//!   class has used its share ([`Shares`]). No class starves. Inside a class the order is first-in first-out, except for
//!   [`Class::User`]:
//! * **User** tasks share the CPU by *time*: whoever has run least is next and has a time slice, of which waiting takes
//!   nothing unless another task was polled meanwhile; who wakes up is preferred within a bound. `fair.rs` has the rules.
//! * **Idle**: when a turn reports [`Turn::idle`], the CPU disables interrupts, asks [`Executor::has_work`] again and
//!   halts only if there is none (`cli; check; sti; hlt`). A wake between the turn and the halt is therefore seen.
//!
//! # From an interrupt handler
//!
//! A handler may wake a task (by a [`Waker`](core::task::Waker) that it has, or through a lock-free cell such as
//! `AtomicWaker` of `futures-util`) and call [`Executor::advance_timers`]. Everything else belongs to tasks: the
//! [`Semaphore`], the [`WaitQueue`], the [`Lock`] and the wait-for graph are behind short spin locks.
//!
//! # Classes that keep their promise
//!
//! Who awaits a [`JoinHandle`], or declares by [`Resource::wait`] that it waits for something that another task holds,
//! lends that task its class for as long as it waits. [`Executor::wait_for`] declares a wait for something that no task
//! holds. [`Executor::waits`] prints who waits for what since when, and the
//! cycles.
//!
//! # Several CPUs
//!
//! Each CPU has its run queues and timers, and a task stays on the CPU it was spawned on, unless [`Config::balance`] lets
//! idle CPUs have tasks of the user class that wait elsewhere (`give.rs`). Wakers and join handles work from everywhere; a
//! CPU that sleeps, or that has work of a higher class than it may be running, is notified through [`Hooks::notify`].
//!
//! # How it is checked
//!
//! ```text
//! cargo test -p faultline-executor
//! RUSTFLAGS="--cfg loom" cargo test --release -p faultline-executor --test loom
//! MIRIFLAGS="-Zmiri-ignore-leaks" cargo +nightly miri test -p faultline-executor
//! cargo run --profile kernel -p faultline-executor --example cost     # instructions; needs Valgrind
//! cargo bench -p faultline-executor                                   # time
//! cargo run -- executor                                               # instructions in the kernel
//! ```
//!
//! (Executors live for ever by design, hence the flag for Miri.)
//!
//! # Example
//!
//! ```
//! use faultline_executor::{Class, Config, Executor, Hooks, yield_now};
//!
//! struct Host;
//! impl Hooks for Host {
//!     fn now(&self) -> u64 {
//!         0
//!     }
//! }
//!
//! let executor = Executor::new(Config::default(), Host);
//! let task = executor.spawn("answer", Class::User, async {
//!     yield_now().await;
//!     42
//! })?;
//! while !executor.turn(0).idle {}
//! assert_eq!(task.try_join().unwrap(), Ok(42));
//! # Ok::<(), faultline_executor::SpawnError>(())
//! ```
#![no_std]

extern crate alloc;

mod class;
mod config;
mod cpu;
mod end;
mod executor;
mod fair;
mod give;
mod hooks;
mod join;
mod keyed;
mod lock;
mod queue;
mod semaphore;
mod slab;
mod spawn;
mod stats;
mod sync;
mod task;
mod time;
mod turn;
mod wait_queue;
mod waiters;
mod waits;
mod yielding;

pub use class::{Class, Shares};
pub use config::{Config, SpawnError};
pub use executor::Executor;
pub use hooks::{Hooks, TaskEvent};
pub use join::{JoinError, JoinHandle};
pub use keyed::{Key, Keyed, KeyedQueues, Requeued};
pub use lock::{Lock, LockGuard};
pub use semaphore::{Acquire, AcquireError, Permit, Semaphore, Share};
pub use stats::Statistics;
pub use task::TaskId;
pub use time::{Elapsed, Sleep, Timeout, Timers};
pub use turn::Turn;
pub use wait_queue::{HoldsQueue, WaitQueue, WaitQueued};
pub use waits::{Event, Held, Resource, Wait, WaitGraph, Waiting};
pub use yielding::{YieldNow, yield_now};
