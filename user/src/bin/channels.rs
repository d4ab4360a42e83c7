//! Eight threads of Rust's standard library: mutexes, a condition variable, channels, a barrier, thread-local data, and
//! panics that are caught.

use std::cell::Cell;
use std::panic;
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock, mpsc};
use std::thread;

use faultline_user::{fail, word};

const THREADS: usize = 8;
const MESSAGES: usize = 500;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

fn main() {
    let (sender, receiver) = mpsc::channel();
    let sums = Arc::new(Mutex::new([0_u64; THREADS]));
    let shared = Arc::new(RwLock::new(vec![0_u64; 1000]));
    let turn = Arc::new((Mutex::new(0), Condvar::new()));
    let barrier = Arc::new(Barrier::new(THREADS));
    // The messages of the panics are not wanted among the output.
    panic::set_hook(Box::new(|_| {}));
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let (sender, sums, shared) = (sender.clone(), sums.clone(), shared.clone());
            let (turn, barrier) = (turn.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                for message in 0..MESSAGES {
                    let value = word(index as u64, message);
                    sender.send((index, value)).unwrap_or_else(|error| fail(error));
                    sums.lock().unwrap_or_else(|error| fail(error))[index] ^= value;
                    shared.write().unwrap_or_else(|error| fail(error))[message] ^= value;
                    OWN.with(|own| own.set(own.get().wrapping_add(value)));
                }
                let own = OWN.with(Cell::get);
                let caught = panic::catch_unwind(|| {
                    if index % 2 == 1 {
                        panic!("thread {index}");
                    }
                    index
                });
                // One after the other, in order.
                let (next, changed) = &*turn;
                let mut next = next.lock().unwrap_or_else(|error| fail(error));
                while *next != index {
                    next = changed.wait(next).unwrap_or_else(|error| fail(error));
                }
                println!("thread {index}: own {own:016x}, panicked: {}", caught.is_err());
                *next += 1;
                changed.notify_all();
                drop(next);
                if index == THREADS - 1 {
                    panic!("the last one ends so");
                }
            })
        })
        .collect();
    drop(sender);
    let mut received = [0_u64; THREADS];
    let mut count = 0;
    for (index, value) in receiver {
        received[index] ^= value;
        count += 1;
    }
    let ended: Vec<bool> = threads.into_iter().map(|thread| thread.join().is_ok()).collect();
    println!("received {count} messages; joined {ended:?}");
    if received != *sums.lock().unwrap_or_else(|error| fail(error)) {
        fail("what was received is not what was sent");
    }
    let all = shared.read().unwrap_or_else(|error| fail(error));
    println!("together {:016x}", all.iter().fold(0, |sum, value| sum ^ value));
}
