//! Tasks that wait for something that has a name: many wait queues in one table, as futexes need them.
//!
//! A [`KeyedQueues`] has a fixed number of buckets. In each lie the waiters whose keys hash to it, in *groups*: the waiters
//! of one key, the oldest first. A bucket is a list of the heads of its groups, and a group is a ring, so that finding a key
//! takes a step for each *key* in the bucket, and waking or moving takes one for each waiter woken or moved, however many
//! others wait.
//!
//! A waiter is in its group from its first poll on; as with [`WaitQueue`](crate::WaitQueue), who waits for a condition gets
//! in first and looks then. Waiters lie in the waiting futures: waiting allocates nothing. A waiter is moved to another key
//! under the locks of both buckets, the lower one taken first; which bucket a waiter is in is therefore known for certain
//! only under the lock of that bucket.
//!
//! Wakers run under the lock of a bucket: they must be those of tasks, which neither poll nor call back. So this is not for
//! interrupt handlers.

use core::{
    fmt,
    future::Future,
    marker::PhantomPinned,
    pin::Pin,
    ptr,
    task::{Context, Poll, Waker},
};

use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, UnsafeCell};

/// What waiters are named by.
pub trait Key: Copy + Eq {
    /// A number whose high bits differ between keys; who chooses keys must not know it.
    fn hash(&self) -> u64;
}

/// Wait queues by key; the module explains them.
pub struct KeyedQueues<K, const BUCKETS: usize>([Mutex<Bucket<K>>; BUCKETS]);

/// The groups of a bucket.
struct Bucket<K> {
    first: *mut Node<K>,
}

// SAFETY: the nodes are reached under the lock of the bucket, and hold wakers, which are `Send`.
unsafe impl<K: Send> Send for Bucket<K> {}

/// One waiter.
struct Node<K> {
    key: K,
    /// The bucket of the key; changed under the locks of the old and the new one.
    bucket: AtomicU32,
    /// Which wakes it takes.
    mask: u32,
    state: State,
    waker: Option<Waker>,
    /// The ring of the group.
    next: *mut Node<K>,
    previous: *mut Node<K>,
    /// Of the head of a group: its neighbours in the bucket.
    next_group: *mut Node<K>,
    previous_group: *mut Node<K>,
}

/// Where a waiter is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In no group.
    Out,
    /// In a group, at its head.
    Head,
    /// In a group.
    Queued,
    /// Taken out by a wake.
    Woken,
}

/// What a requeue does, as seen under the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// How many were woken.
    pub woken: u32,
    /// How many were moved.
    pub moved: u32,
}

impl<K: Key> Bucket<K> {
    const fn new() -> Self {
        Self { first: ptr::null_mut() }
    }

    /// The head of a group.
    ///
    /// # Safety
    /// The nodes of the bucket are valid, and the caller's: it holds the lock.
    unsafe fn find(&self, key: &K) -> *mut Node<K> {
        let mut head = self.first;
        // SAFETY: the contract.
        unsafe {
            while !head.is_null() && (*head).key != *key {
                head = (*head).next_group;
            }
        }
        head
    }

    /// Puts a node at the end of its group.
    ///
    /// # Safety
    /// As for `find`; the node is in no group, and stays valid and in place while it is in this one.
    unsafe fn push(&mut self, node: *mut Node<K>) {
        // SAFETY: the contract.
        unsafe {
            let head = self.find(&(*node).key);
            if head.is_null() {
                (*node).next = node;
                (*node).previous = node;
                self.add_head(node, self.first, ptr::null_mut());
                return;
            }
            let last = (*head).previous;
            (*node).next = head;
            (*node).previous = last;
            (*last).next = node;
            (*head).previous = node;
            (*node).state = State::Queued;
        }
    }

    /// Makes a node the head of its group, between two groups.
    ///
    /// # Safety
    /// As for `push`.
    unsafe fn add_head(&mut self, node: *mut Node<K>, next: *mut Node<K>, previous: *mut Node<K>) {
        // SAFETY: the contract.
        unsafe {
            (*node).state = State::Head;
            (*node).next_group = next;
            (*node).previous_group = previous;
            self.link_groups(previous, node);
            self.link_groups(node, next);
        }
    }

    /// Has two heads follow each other; null is an end of the bucket.
    ///
    /// # Safety
    /// As for `find`.
    unsafe fn link_groups(&mut self, previous: *mut Node<K>, next: *mut Node<K>) {
        // SAFETY: the contract.
        unsafe {
            match previous.as_mut() {
                Some(previous) => previous.next_group = next,
                None => self.first = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous_group = previous;
            }
        }
    }

    /// Takes a node out of its group, if it is in one.
    ///
    /// # Safety
    /// As for `find`; the node is in this bucket or in none.
    unsafe fn leave(&mut self, node: *mut Node<K>) {
        // SAFETY: the contract.
        unsafe {
            let state = (*node).state;
            if state != State::Head && state != State::Queued {
                return;
            }
            (*node).state = State::Out;
            let (next, previous) = ((*node).next, (*node).previous);
            (*previous).next = next;
            (*next).previous = previous;
            if state == State::Head {
                let (next_group, previous_group) = ((*node).next_group, (*node).previous_group);
                if next == node {
                    self.link_groups(previous_group, next_group);
                } else {
                    self.add_head(next, next_group, previous_group);
                }
            }
        }
    }

    /// Wakes up to `most` waiters of a key that take a wake with this mask, the oldest first.
    ///
    /// # Safety
    /// As for `find`.
    unsafe fn wake(&mut self, key: &K, most: u32, mask: u32) -> u32 {
        // SAFETY: the contract; a node that leaves is valid until its state is `Woken` and the lock is gone.
        unsafe {
            let head = self.find(key);
            if head.is_null() {
                return 0;
            }
            let (mut node, last, mut woken) = (head, (*head).previous, 0);
            while woken < most {
                let (next, is_last) = ((*node).next, node == last);
                if (*node).mask & mask != 0 {
                    self.leave(node);
                    let waker = (*node).waker.take();
                    (*node).state = State::Woken;
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    woken += 1;
                }
                if is_last {
                    break;
                }
                node = next;
            }
            woken
        }
    }
}

impl<K: Key, const BUCKETS: usize> KeyedQueues<K, BUCKETS> {
    /// Queues without waiters.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { Mutex::new(Bucket::new()) }; BUCKETS])
    }

    /// Queues without waiters.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(core::array::from_fn(|_| Mutex::new(Bucket::new())))
    }

    fn bucket(key: &K) -> u32 {
        // The high bits, scaled: any number of buckets will do.
        ((u128::from(key.hash()) * BUCKETS as u128) >> 64) as u32
    }

    fn lock(&self, bucket: u32) -> MutexGuard<'_, Bucket<K>> {
        self.0[bucket as usize].lock()
    }

    /// Waits for one wake of the key, with a mask that has a bit in common with this one, that comes after the first poll.
    pub fn wait(&self, key: K, mask: u32) -> Keyed<'_, K, BUCKETS> {
        Keyed {
            queues: self,
            started: false,
            node: UnsafeCell::new(Node {
                key,
                bucket: AtomicU32::new(Self::bucket(&key)),
                mask,
                state: State::Out,
                waker: None,
                next: ptr::null_mut(),
                previous: ptr::null_mut(),
                next_group: ptr::null_mut(),
                previous_group: ptr::null_mut(),
            }),
            _pinned: PhantomPinned,
        }
    }

    /// Wakes up to `most` waiters of a key whose masks have a bit in common with `mask`, the oldest first; returns how many.
    pub fn wake(&self, key: &K, most: u32, mask: u32) -> u32 {
        let mut bucket = self.lock(Self::bucket(key));
        // SAFETY: the lock is held, and nodes in a bucket are valid: they leave before their future goes.
        unsafe { bucket.wake(key, most, mask) }
    }

    /// Asks `check` under the locks of both keys; if it agrees, wakes up to `most` waiters of `from` and moves up to
    /// `most_moved` others to `to`, the oldest first.
    ///
    /// # Errors
    /// What `check` returned; nobody was woken or moved.
    pub fn requeue<E>(
        &self,
        from: &K,
        to: &K,
        most: u32,
        most_moved: u32,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<Requeued, E> {
        let (source, target) = (Self::bucket(from), Self::bucket(to));
        let mut lower = self.lock(source.min(target));
        let mut upper = (source != target).then(|| self.lock(source.max(target)));
        check()?;
        let mut result = Requeued { woken: 0, moved: 0 };
        // SAFETY: 1. both locks are held; 2. nodes in a bucket are valid: they leave before their future goes.
        unsafe {
            let mut buckets = [Some(&mut *lower), upper.as_deref_mut()];
            if source > target {
                buckets.swap(0, 1);
            }
            let [Some(old), mut new] = buckets else {
                return Ok(result);
            };
            result.woken = old.wake(from, most, u32::MAX);
            if from == to {
                // They are where they are to be.
                let head = old.find(from);
                let mut node = head;
                while !node.is_null() && result.moved < most_moved {
                    result.moved += 1;
                    node = (*node).next;
                    if node == head {
                        break;
                    }
                }
                return Ok(result);
            }
            while result.moved < most_moved {
                let node = old.find(from);
                if node.is_null() {
                    break;
                }
                old.leave(node);
                (*node).key = *to;
                (*node).bucket.store(target, Ordering::Release);
                match &mut new {
                    Some(new) => new.push(node),
                    None => old.push(node),
                }
                result.moved += 1;
            }
        }
        Ok(result)
    }
}

impl<K: Key, const BUCKETS: usize> Default for KeyedQueues<K, BUCKETS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, const BUCKETS: usize> fmt::Debug for KeyedQueues<K, BUCKETS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedQueues")
    }
}

/// The future of [`KeyedQueues::wait`].
#[must_use = "futures do nothing unless polled"]
pub struct Keyed<'a, K: Key, const BUCKETS: usize> {
    queues: &'a KeyedQueues<K, BUCKETS>,
    /// Has been polled.
    started: bool,
    node: UnsafeCell<Node<K>>,
    _pinned: PhantomPinned,
}

// SAFETY: the node is touched under the lock of its bucket, and holds a waker, which is `Send`.
unsafe impl<K: Key + Send, const BUCKETS: usize> Send for Keyed<'_, K, BUCKETS> {}
// SAFETY: a shared `Keyed` touches the node under the lock of its bucket only.
unsafe impl<K: Key + Send, const BUCKETS: usize> Sync for Keyed<'_, K, BUCKETS> {}

impl<K: Key, const BUCKETS: usize> fmt::Debug for Keyed<'_, K, BUCKETS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

impl<K: Key, const BUCKETS: usize> Keyed<'_, K, BUCKETS> {
    /// The bucket that the node is in.
    fn lock(&self) -> MutexGuard<'_, Bucket<K>> {
        // SAFETY: the node is valid, and `bucket` is atomic and never borrowed exclusively.
        let load = || self.node.with(|node| unsafe { (*node).bucket.load(Ordering::Acquire) });
        loop {
            let index = load();
            let bucket = self.queues.lock(index);
            // A requeue changes it under the lock that is held now.
            if load() == index {
                return bucket;
            }
        }
    }

    /// Whether it was woken.
    pub fn is_woken(&self) -> bool {
        let _bucket = self.lock();
        // SAFETY: the node is ours under the lock.
        self.node.with(|node| unsafe { (*node).state == State::Woken })
    }
}

impl<K: Key, const BUCKETS: usize> Future for Keyed<'_, K, BUCKETS> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: nothing is moved out of the future.
        let this = unsafe { self.get_unchecked_mut() };
        let mut bucket = this.lock();
        let is_first = !this.started;
        // SAFETY: the node is ours under the lock. It is pinned with the future, and `drop` takes it out of its group.
        let is_over = this.node.with_mut(|node| unsafe {
            if is_first {
                bucket.push(node);
            }
            let is_over = matches!((*node).state, State::Woken | State::Out);
            if !is_over {
                match &mut (*node).waker {
                    Some(registered) => registered.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
            }
            is_over
        });
        drop(bucket);
        this.started = true;
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<K: Key, const BUCKETS: usize> Drop for Keyed<'_, K, BUCKETS> {
    fn drop(&mut self) {
        if self.started {
            let mut bucket = self.lock();
            // SAFETY: the node is ours under the lock, and was only ever in these queues.
            self.node.with_mut(|node| unsafe { bucket.leave(node) });
        }
    }
}
