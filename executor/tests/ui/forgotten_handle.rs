//! A spawned task is awaited, cancelled or detached; it is not forgotten.
#![deny(unused_must_use)]

use faultline_executor::{Class, Config, Executor, Hooks, SpawnError};

struct Host;

impl Hooks for Host {
    fn now(&self) -> u64 {
        0
    }
}

fn main() -> Result<(), SpawnError> {
    let executor = Executor::new(Config::default(), Host);
    executor.spawn("task", Class::User, async {})?;
    Ok(())
}
