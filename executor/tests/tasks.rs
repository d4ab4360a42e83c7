//! The life of a task, step by step.
#![cfg(not(loom))]

mod common;

use std::sync::{Arc, Mutex};

use common::{OnDrop, Steps, executor, own_waker, park, run, with};
use faultline_executor::{Class, JoinError, SpawnError, yield_now};

#[test]
fn a_task_is_first_polled_by_the_next_turn_and_its_output_is_joined() {
    let (executor, steps) = (executor(), Steps::default());
    let log = steps.clone();
    let handle = executor
        .spawn("task", Class::User, async move {
            log.push("polled");
            7
        })
        .unwrap();
    steps.push("spawned");
    let turn = executor.turn(0);
    assert_eq!((turn.polls, turn.idle, turn.next_deadline), (1, true, None));
    assert_eq!(steps.take(), ["spawned", "polled"]);
    assert_eq!(handle.try_join().unwrap(), Ok(7));
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn yield_lets_the_others_of_the_class_run_first() {
    let (executor, steps) = (executor(), Steps::default());
    for name in ["a", "b", "c"] {
        let log = steps.clone();
        executor
            .spawn(name, Class::Device, async move {
                for round in 0..3 {
                    log.push(format!("{name}{round}"));
                    yield_now().await;
                }
            })
            .unwrap()
            .detach();
    }
    run(executor);
    assert_eq!(steps.take(), ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]);
    assert_eq!(executor.statistics(0).polls, [0, 12, 0, 0]);
}

#[test]
fn the_highest_class_goes_first_also_when_it_is_woken_meanwhile() {
    let (executor, steps) = (executor(), Steps::default());
    let service_waker = Arc::new(Mutex::new(None));
    for class in Class::ALL.into_iter().rev() {
        let (log, slot) = (steps.clone(), service_waker.clone());
        executor
            .spawn(class.name(), class, async move {
                log.push(class.name());
                if class == Class::FaultService {
                    *slot.lock().unwrap() = Some(own_waker().await);
                    park().await;
                    log.push("served");
                }
                if class == Class::User {
                    slot.lock().unwrap().take().unwrap().wake();
                    yield_now().await;
                    log.push("resumed");
                }
            })
            .unwrap()
            .detach();
    }
    run(executor);
    assert_eq!(
        steps.take(),
        ["fault-service", "device", "user", "served", "resumed", "idle"]
    );
}

#[test]
fn wakes_before_a_poll_count_once_and_a_wake_during_a_poll_polls_again() {
    let (executor, steps) = (executor(), Steps::default());
    let (log, shared) = (steps.clone(), Arc::new(Mutex::new(None)));
    let waker = shared.clone();
    executor
        .spawn("task", Class::User, async move {
            *waker.lock().unwrap() = Some(own_waker().await);
            for step in ["first", "second", "third"] {
                log.push(step);
                if step == "second" {
                    waker.lock().unwrap().as_ref().unwrap().wake_by_ref();
                }
                park().await;
            }
        })
        .unwrap()
        .detach();
    run(executor);
    assert_eq!(steps.take(), ["first"]);
    let waker = shared.lock().unwrap().clone().unwrap();
    waker.wake_by_ref();
    waker.wake_by_ref();
    waker.wake_by_ref();
    run(executor);
    assert_eq!(steps.take(), ["second", "third"]);
}

#[test]
fn a_stale_waker_does_nothing_also_when_its_slot_is_used_again() {
    let executor = with(|config| config.capacity = 1);
    let shared = Arc::new(Mutex::new(None));
    let waker = shared.clone();
    let handle = executor.spawn("old", Class::User, async move {
        *waker.lock().unwrap() = Some(own_waker().await);
    });
    let old = handle.as_ref().unwrap().id();
    handle.unwrap().detach();
    run(executor);
    let stale = shared.lock().unwrap().take().unwrap();
    stale.wake_by_ref();
    assert!(!executor.has_work(0));

    // The free list is last-in first-out, so the slot is used again at once.
    let handle = executor.spawn("new", Class::User, park()).unwrap();
    assert_eq!(
        (handle.id().index(), handle.id().generation()),
        (old.index(), old.generation() + 1)
    );
    run(executor);
    stale.wake();
    assert!(!executor.has_work(0));
    handle.cancel();
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Err(JoinError::Cancelled));
}

#[test]
fn cancelling_drops_the_future_in_the_next_turn() {
    let (executor, steps) = (executor(), Steps::default());
    let log = steps.clone();
    let handle = executor
        .spawn("task", Class::User, async move {
            let _clean_up = OnDrop(log.clone(), "cleaned up");
            log.push("polled");
            park().await;
            log.push("not reached");
        })
        .unwrap();
    run(executor);
    handle.cancel();
    steps.push("cancel asked");
    assert!(!handle.is_finished());
    run(executor);
    assert_eq!(steps.take(), ["polled", "cancel asked", "cleaned up"]);
    assert_eq!(handle.try_join().unwrap(), Err(JoinError::Cancelled));
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn cancelling_a_finished_task_keeps_its_output() {
    let executor = executor();
    let handle = executor.spawn("task", Class::User, async { 1 }).unwrap();
    run(executor);
    handle.cancel();
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Ok(1));
}

#[test]
fn a_task_awaits_another_and_gets_its_output() {
    let (executor, steps) = (executor(), Steps::default());
    let (log, inner) = (steps.clone(), steps.clone());
    executor
        .spawn("outer", Class::User, async move {
            let handle = executor
                .spawn("inner", Class::User, async move {
                    yield_now().await;
                    inner.push("inner ends");
                    String::from("output")
                })
                .unwrap();
            log.push("outer waits");
            log.push(handle.await.unwrap());
        })
        .unwrap()
        .detach();
    run(executor);
    assert_eq!(steps.take(), ["outer waits", "inner ends", "output"]);
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn an_output_nobody_wants_is_dropped_by_whoever_is_last() {
    let (executor, steps) = (executor(), Steps::default());
    let log = steps.clone();
    let detached = executor
        .spawn(
            "detached",
            Class::User,
            async move { OnDrop(log, "dropped by the turn") },
        )
        .unwrap();
    detached.detach();
    run(executor);
    assert_eq!(steps.take(), ["dropped by the turn"]);
    let log = steps.clone();
    let handle = executor
        .spawn(
            "handle",
            Class::User,
            async move { OnDrop(log, "dropped by the handle") },
        )
        .unwrap();
    run(executor);
    assert_eq!(steps.take(), Vec::<String>::new());
    drop(handle);
    assert_eq!(steps.take(), ["dropped by the handle"]);
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn large_futures_and_outputs_are_boxed() {
    let executor = executor();
    let large = [7u8; 4096];
    let handle = executor
        .spawn("large", Class::User, async move {
            yield_now().await;
            large
        })
        .unwrap();
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Ok(large));

    #[repr(align(128))]
    struct Aligned;
    let handle = executor.spawn("aligned", Class::User, async { Aligned }).unwrap();
    run(executor);
    assert!(handle.try_join().unwrap().is_ok());
}

#[test]
fn a_full_slab_is_an_error_and_drops_the_future() {
    let (executor, steps) = (with(|config| config.capacity = 64), Steps::default());
    let handles: Vec<_> = (0..64)
        .map(|_| executor.spawn("task", Class::User, park()).unwrap())
        .collect();
    let guard = OnDrop(steps.clone(), "dropped");
    let refused = executor.spawn("too many", Class::User, async move { drop(guard) });
    assert_eq!(refused.unwrap_err(), SpawnError::Full { capacity: 64 });
    assert_eq!(steps.take(), ["dropped"]);
    assert_eq!(
        executor.spawn_on(1, "nowhere", Class::User, async {}).unwrap_err(),
        SpawnError::NoSuchCpu { cpu: 1 }
    );
    handles[5].cancel();
    run(executor);
    drop(handles);
    executor
        .spawn("now there is room", Class::User, async {})
        .unwrap()
        .detach();
}

#[test]
fn a_panic_ends_the_task_and_leaves_the_executor_usable() {
    let executor = executor();
    let handle = executor
        .spawn("task", Class::User, async { panic!("in the task") })
        .unwrap();
    let other = executor.spawn("other", Class::User, async { 1 }).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    assert!(std::panic::catch_unwind(|| run(executor)).is_err());
    std::panic::set_hook(hook);
    assert_eq!(executor.current(), None);
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Err::<(), _>(JoinError::Panicked));
    assert_eq!(other.try_join().unwrap(), Ok(1));
}

#[test]
fn an_output_that_panics_when_it_is_dropped_ends_its_task_all_the_same() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the output");
        }
    }
    let executor = executor();
    let task = async move {
        // Woken during its last poll, too.
        own_waker().await.wake();
        Bomb
    };
    executor.spawn("task", Class::User, task).unwrap().detach();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    assert!(std::panic::catch_unwind(|| run(executor)).is_err());
    std::panic::set_hook(hook);
    run(executor);
    assert_eq!(executor.live_tasks(), 0);
}

#[test]
fn current_names_the_polled_task() {
    let executor = executor();
    let handle = executor
        .spawn("task", Class::User, async { executor.current() })
        .unwrap();
    let id = handle.id();
    assert_eq!(executor.current(), None);
    run(executor);
    assert_eq!(handle.try_join().unwrap(), Ok(Some(id)));
    assert_eq!(executor.current(), None);
}

#[test]
#[should_panic(expected = "a turn of this CPU is under way")]
fn a_task_must_not_turn() {
    let executor = executor();
    executor
        .spawn("task", Class::User, async {
            let _ = executor.turn(0);
        })
        .unwrap()
        .detach();
    run(executor);
}
