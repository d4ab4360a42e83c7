//! A task outlives the function that spawns it: it borrows nothing from there.

use faultline_executor::{Class, Config, Executor, Hooks};

struct Host;

impl Hooks for Host {
    fn now(&self) -> u64 {
        0
    }
}

fn main() {
    let executor = Executor::new(Config::default(), Host);
    let text = String::from("text");
    let _handle = executor.spawn("task", Class::User, async { text.len() });
}
