//! Wait queues by key.
#![cfg(not(loom))]

mod common;

use std::sync::Arc;

use common::{Steps, TestExecutor, executor, run};
use faultline_executor::{Class, JoinHandle, Key, KeyedQueues, Requeued};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Name(u32);

impl Key for Name {
    /// The names below 10 are in one bucket.
    fn hash(&self) -> u64 {
        if self.0 < 10 { 0 } else { u64::from(self.0) << 60 }
    }
}

type Queues = Arc<KeyedQueues<Name, 4>>;

fn waiter(executor: TestExecutor, steps: &Steps, queues: &Queues, key: u32, mask: u32, name: &str) -> JoinHandle<()> {
    let (log, queues, name) = (steps.clone(), queues.clone(), name.to_owned());
    executor
        .spawn("waiter", Class::User, async move {
            queues.wait(Name(key), mask).await;
            log.push(name);
        })
        .unwrap()
}

fn requeue(queues: &Queues, from: u32, to: u32, most: u32, moved: u32) -> (u32, u32) {
    let Requeued { woken, moved } = queues
        .requeue(&Name(from), &Name(to), most, moved, || Ok::<(), ()>(()))
        .unwrap();
    (woken, moved)
}

#[test]
fn a_wake_is_for_its_key_and_mask_and_in_order() {
    let (executor, steps, queues) = (executor(), Steps::default(), Queues::default());
    let names = [
        (1, 1, "a"),
        (2, 3, "b"),
        (1, 2, "c"),
        (1, 3, "d"),
        (2, 1, "e"),
        (1, 1, "f"),
    ];
    let _handles = names.map(|(key, mask, name)| waiter(executor, &steps, &queues, key, mask, name));
    run(executor);
    assert_eq!(queues.wake(&Name(3), 9, u32::MAX), 0);
    assert_eq!(queues.wake(&Name(1), 2, 2), 2);
    run(executor);
    assert_eq!(steps.take(), ["c", "d"]);
    assert_eq!(queues.wake(&Name(1), 1, 1), 1);
    run(executor);
    assert_eq!(steps.take(), ["a"]);
    assert_eq!(queues.wake(&Name(2), 9, u32::MAX), 2);
    assert_eq!(queues.wake(&Name(1), 9, u32::MAX), 1);
    run(executor);
    assert_eq!(steps.take(), ["b", "e", "f"]);
}

#[test]
fn who_is_cancelled_leaves_its_group_whole_wherever_it_was() {
    for gone in 0..4 {
        let (executor, steps, queues) = (executor(), Steps::default(), Queues::default());
        let handles = ["a", "b", "c", "d"].map(|name| waiter(executor, &steps, &queues, 1, 1, name));
        let _others = [2, 3].map(|key| waiter(executor, &steps, &queues, key, 1, "other"));
        run(executor);
        handles[gone].cancel();
        run(executor);
        assert_eq!(queues.wake(&Name(1), u32::MAX, 1), 3);
        run(executor);
        let mut left = vec!["a", "b", "c", "d"];
        left.remove(gone);
        assert_eq!(steps.take(), left);
        assert_eq!(queues.wake(&Name(2), 9, 1) + queues.wake(&Name(3), 9, 1), 2);
        run(executor);
    }
}

#[test]
fn a_requeue_wakes_moves_and_keeps_the_order() {
    // In one bucket, from a lower to a higher one, and back.
    for (from, to) in [(1, 2), (1, 10), (10, 1)] {
        let (executor, steps, queues) = (executor(), Steps::default(), Queues::default());
        let names = ["a", "b", "c", "d"];
        let handles = names.map(|name| waiter(executor, &steps, &queues, from, 1, name));
        let _there = waiter(executor, &steps, &queues, to, 1, "there");
        run(executor);
        let refused = queues.requeue(&Name(from), &Name(to), 1, 1, || Err("no"));
        assert_eq!(refused, Err("no"));
        assert_eq!(requeue(&queues, from, to, 1, 2), (1, 2));
        run(executor);
        assert_eq!(steps.take(), ["a"]);
        // Who was moved is found by its new key, also when it goes.
        handles[1].cancel();
        run(executor);
        assert_eq!(queues.wake(&Name(to), 9, 1), 2);
        run(executor);
        assert_eq!(steps.take(), ["there", "c"]);
        assert_eq!(requeue(&queues, from, from, 0, 9), (0, 1));
        assert_eq!(queues.wake(&Name(from), 9, 1), 1);
        run(executor);
        assert_eq!(steps.take(), ["d"]);
    }
}
