//! The guard of a lock does not live across an await.

use faultline_executor::{Class, Config, Executor, Hooks, Lock, yield_now};

struct Host;

impl Hooks for Host {
    fn now(&self) -> u64 {
        0
    }
}

static LOCK: Lock<u32> = Lock::new(0);

fn main() {
    let executor = Executor::new(Config::default(), Host);
    let task = async {
        let mut guard = LOCK.lock();
        yield_now().await;
        *guard += 1;
    };
    let _handle = executor.spawn("task", Class::User, task);
}
