//! What a turn reports says whether the CPU may sleep.
#![deny(unused_must_use)]

use faultline_executor::{Config, Executor, Hooks};

struct Host;

impl Hooks for Host {
    fn now(&self) -> u64 {
        0
    }
}

fn main() {
    Executor::new(Config::default(), Host).turn(0);
}
