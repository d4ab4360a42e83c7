//! What a thread leaves to others when it ends, or runs another program: the futexes that it holds, and the word that
//! says that it is there.
//!
//! However a thread ends, by `exit`, by the end of its process or by a signal, the robust futexes that it holds are
//! marked as orphaned and a waiter of each is woken, so that a lock in shared memory survives its owner; and if it was
//! cloned with `CLONE_CHILD_CLEARTID` and its memory has other users, its word is set to 0 and a waiter woken, so that it
//! can be joined.
//!
//! The words are user memory, whose pages may have to come first. That is waited for, with one exception: while faults
//! wait for memory, a thread of a process that ends does not wait with them. Its end is what may give memory back.

use core::pin::pin;
use core::sync::atomic::Ordering;
use faultline_fallible::Arc;

use faultline_executor::yield_now;

use super::Thread;
use crate::machine::{Space, memory};
use crate::syscall::{self, Call, Outcome, futex, user};
use crate::time;

/// Most robust futexes that are looked at, as on Linux.
const MOST: usize = 2048;

/// After how many of them others run.
const TURN: usize = 64;

/// How long a thread that ends waits before it looks whether memory is short, in nanoseconds.
const GLANCE: u64 = 10_000_000;

/// What is left to do.
#[derive(Clone, Copy)]
struct Rest {
    /// Head of the list of robust futexes; 0 for none.
    list: u64,
    /// The word to set to 0; 0 for none.
    word: u64,
}

/// Does what can be done at once, which usually is everything; returns the rest. Without room for it in the kernel heap,
/// the rest is left undone.
pub fn begin(thread: &Arc<Thread>, space: &Arc<Space>) -> Option<Call> {
    let mut rest = Rest {
        list: thread.robust_list.swap(0, Ordering::Relaxed),
        word: thread.clear_child_tid.swap(0, Ordering::Relaxed),
    };
    // The thread's future and the record of its process hold the space. If nobody else does, nobody can look.
    if thread.process.thread_count() <= 1 && Arc::strong_count(space) <= 2 {
        rest.word = 0;
    }
    if rest.list != 0 && is_empty(space, rest.list) {
        rest.list = 0;
    }
    // The futexes come first: who joins the thread finds them orphaned.
    if rest.list == 0 && rest.word != 0 && futex::clear_and_wake_now(space, rest.word) {
        rest.word = 0;
    }
    if rest.list == 0 && rest.word == 0 {
        return None;
    }
    syscall::boxed(|| finish(thread.clone(), space.clone(), rest)).ok()
}

/// Whether a list of robust futexes can be read at once and has nothing in it.
fn is_empty(space: &Space, head: u64) -> bool {
    let mut words = [[0; 8]; 3];
    let read = space.try_read_user(head, words.as_flattened_mut());
    let [first, _, pending] = words.map(u64::from_le_bytes);
    read && first == head && pending == 0
}

async fn finish(thread: Arc<Thread>, space: Arc<Space>, rest: Rest) -> Outcome {
    let mut work = pin!(async {
        if rest.list != 0 {
            orphan_all(&thread, &space, rest.list).await;
        }
        if rest.word != 0 {
            futex::clear_and_wake(&space, rest.word).await;
        }
    });
    while time::timeout(time::now() + GLANCE, work.as_mut()).await.is_err() {
        if thread.process.ending().is_some() && memory().faults_waiting_for_memory() > 0 {
            break;
        }
    }
    Outcome::Return(Ok(0))
}

/// Marks the robust futexes that the thread holds as orphaned. A list that can't be read ends where that is found.
async fn orphan_all(thread: &Thread, space: &Space, head: u64) {
    // The head: the first entry, the offset of a futex from its entry, the entry that is being taken or given up.
    let Ok([mut entry, offset, pending]) = user::read_words(space, head).await else {
        return;
    };
    let tid = thread.tid();
    let futex = |entry: u64| (entry & !1).wrapping_add(offset);
    for count in 1..=MOST {
        if entry & !1 == head {
            break;
        }
        // Whoever is woken may take the entry out of its list.
        let next = user::read_words(space, entry & !1).await;
        if entry & !1 != pending & !1 && futex::orphan(space, futex(entry), tid, false).await.is_err() {
            return;
        }
        let Ok([next]) = next else { return };
        entry = next;
        if count.is_multiple_of(TURN) {
            yield_now().await;
        }
    }
    if pending != 0 {
        let _ = futex::orphan(space, futex(pending), tid, true).await;
    }
}
