//! The user class is fair in time: shares, turns, preference for who has waited, and its bounds. The clock is the test's.
#![cfg(not(loom))]

mod common;

use std::pin::Pin;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::task::Waker;

use common::{Steps, TestExecutor, own_waker, park, run, with};
use faultline_executor::{Class, yield_now};

/// A turn.
const SLICE: u64 = 1_000;

fn executor() -> TestExecutor {
    with(|config| config.slice = SLICE as u32)
}

/// What a task has used of the CPU.
type Used = Arc<AtomicU64>;

/// What all tasks of a test have in common.
#[derive(Clone)]
struct World {
    executor: TestExecutor,
    stop: Arc<AtomicBool>,
    steps: Steps,
}

impl World {
    fn new() -> Self {
        Self {
            executor: executor(),
            stop: Arc::default(),
            steps: Steps::default(),
        }
    }

    /// Lets a task use the CPU.
    fn work(&self, used: &Used, time: u64) {
        used.fetch_add(time, Relaxed);
        self.executor.hooks().advance(time);
    }

    /// A task that computes all the time and is interrupted each `poll`.
    fn spinner(&self, poll: u64) -> Used {
        let (world, used) = (self.clone(), Used::default());
        let count = used.clone();
        self.spawn("spinner", async move {
            while !world.stop.load(Relaxed) {
                world.work(&count, poll);
                world.executor.end_turn_soon();
                pause(&world).await;
            }
        });
        used
    }

    /// A service of page faults that takes `cost` for each, and is called by [`Service::fault`].
    fn service(&self, cost: u64) -> Service {
        let service = Service {
            faults: Arc::default(),
            own: Arc::default(),
        };
        let (world, faults, own) = (self.clone(), service.faults.clone(), service.own.clone());
        let served = async move {
            *own.lock().unwrap() = Some(own_waker().await);
            loop {
                park().await;
                let next = faults.lock().unwrap().pop();
                if let Some((waker, used)) = next {
                    world.work(&used, cost);
                    world.executor.wake_next(waker);
                }
            }
        };
        self.executor
            .spawn("service", Class::FaultService, served)
            .unwrap()
            .detach();
        run(self.executor);
        service
    }

    /// A task that faults all the time; it runs for `poll` between two faults.
    fn faulting(&self, service: &Service, poll: u64) -> Used {
        let (world, service, used) = (self.clone(), service.clone(), Used::default());
        let count = used.clone();
        self.spawn("faulting", async move {
            while !world.stop.load(Relaxed) {
                world.work(&count, poll);
                service.fault(&count).await;
            }
        });
        used
    }

    /// A task that sleeps for `sleep`, works for `work`, and notes how late it was at the most.
    fn sleeper(&self, sleep: u64, work: u64) -> (Used, Arc<AtomicU64>) {
        let (world, used, late) = (self.clone(), Used::default(), Arc::new(AtomicU64::new(0)));
        let (count, worst) = (used.clone(), late.clone());
        self.spawn("sleeper", async move {
            let timers = world.executor.timers();
            while !world.stop.load(Relaxed) {
                let due = timers.now() + sleep;
                timers.sleep_until(due).await;
                worst.fetch_max(timers.now() - due, Relaxed);
                world.work(&count, work);
            }
        });
        (used, late)
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(name, Class::User, future).unwrap().detach();
    }

    /// Turns until that much time has passed; time that nobody uses passes by itself.
    fn run_for(&self, time: u64) {
        let end = self.executor.hooks().advance(0) + time;
        loop {
            let turn = self.executor.turn(0);
            let now = self.executor.hooks().advance(0);
            if now >= end {
                return;
            }
            if turn.idle {
                let next = turn.next_deadline.map_or(end, |deadline| deadline.min(end));
                self.executor.hooks().advance(next - now);
            }
        }
    }

    /// Ends all tasks that know of the end.
    fn end(&self) {
        self.stop.store(true, Relaxed);
        let deadline = self.executor.hooks().advance(1_000_000);
        self.run_for(deadline);
    }
}

#[derive(Clone)]
struct Service {
    faults: Arc<Mutex<Vec<(Waker, Used)>>>,
    own: Arc<Mutex<Option<Waker>>>,
}

impl Service {
    async fn fault(&self, used: &Used) {
        let waker = own_waker().await;
        self.faults.lock().unwrap().push((waker, used.clone()));
        self.own.lock().unwrap().as_ref().unwrap().wake_by_ref();
        park().await;
    }
}

/// What a thread does that was interrupted: it goes on, if it may.
async fn pause(world: &World) {
    let waker = own_waker().await;
    world.executor.wake_next(waker);
    park().await;
}

fn share(used: &Used, time: u64) -> f64 {
    used.load(Relaxed) as f64 / time as f64
}

#[test]
fn spinners_share_the_cpu_equally_however_often_they_are_interrupted() {
    let world = World::new();
    let used = [10, 70, 300, 1_000, 2_500].map(|poll| world.spinner(poll));
    const TIME: u64 = 500_000;
    world.run_for(TIME);
    for used in &used {
        assert!((0.19..0.21).contains(&share(used, TIME)), "{}", share(used, TIME));
    }
    world.end();
}

#[test]
fn a_faulting_task_gets_its_share_beside_spinners_and_a_spinner_beside_faulting_tasks() {
    for spinners in [1, 4, 63] {
        let world = World::new();
        let service = world.service(3);
        let spinners: Vec<_> = (0..spinners).map(|_| world.spinner(250)).collect();
        let faulting = world.faulting(&service, 2);
        let time = 40 * SLICE * (spinners.len() as u64 + 1);
        world.run_for(time);
        let fair = 1.0 / (spinners.len() + 1) as f64;
        let got = share(&faulting, time) / fair;
        assert!(
            (0.9..1.1).contains(&got),
            "{got} of its share beside {} spinners",
            spinners.len()
        );
        world.end();
    }
    let world = World::new();
    let service = world.service(3);
    let faulting: Vec<_> = (0..63).map(|_| world.faulting(&service, 2)).collect();
    let spinner = world.spinner(250);
    let time = 40 * SLICE * 64;
    world.run_for(time);
    let got = share(&spinner, time) * 64.0;
    assert!((0.9..1.1).contains(&got), "{got} of its share beside 63 faulting tasks");
    let shares = faulting.iter().map(|used| share(used, time) * 64.0);
    let (least, most) = shares.fold((f64::MAX, 0f64), |(least, most), one| (least.min(one), most.max(one)));
    assert!(least > 0.9 && most < 1.1, "{least} to {most}");
    world.end();
}

#[test]
fn a_sleeper_is_on_time_beside_spinners_and_faulting_tasks() {
    let world = World::new();
    let service = world.service(3);
    for _ in 0..20 {
        world.faulting(&service, 2);
        world.spinner(50);
    }
    let (_, late) = world.sleeper(1_500, 10);
    world.run_for(200 * SLICE);
    // A turn of the executor polls 32 users at the most: here that many faults, or a spinner until its interrupt.
    let late = late.load(Relaxed);
    assert!(late <= 32 * 5 + 50, "{late} late");
    world.end();
}

#[test]
fn a_thousand_nappers_stop_nobody() {
    let world = World::new();
    let spinner = world.spinner(50);
    let nappers: Vec<_> = (0..100).map(|_| world.sleeper(10, 5).0).collect();
    let (_, late) = world.sleeper(20 * SLICE, 1);
    const TIME: u64 = 500 * SLICE;
    world.run_for(TIME);
    // The nappers want 33 times the CPU. The spinner gets at least what each of them gets.
    let most = nappers.iter().map(|used| used.load(Relaxed)).max().unwrap();
    let spun = spinner.load(Relaxed);
    assert!(
        spun >= most * 9 / 10 && spun >= TIME / 102 * 9 / 10,
        "{spun}, a napper {most}"
    );
    assert!(late.load(Relaxed) <= 3 * SLICE, "{} late", late.load(Relaxed));
    world.end();
}

#[test]
fn a_long_sleep_is_not_saved_up() {
    let world = World::new();
    let spinner = world.spinner(50);
    let (clone, used) = (world.clone(), Used::default());
    let count = used.clone();
    world.spawn("sleeper", async move {
        clone.executor.timers().sleep(100 * SLICE).await;
        while !clone.stop.load(Relaxed) {
            clone.work(&count, 50);
            pause(&clone).await;
        }
    });
    world.run_for(100 * SLICE);
    let before = spinner.load(Relaxed);
    world.run_for(10 * SLICE);
    // It is preferred for half a slice and what is left of a turn, and has its fair half after that.
    let spun = spinner.load(Relaxed) - before;
    assert!((3_500..=5_500).contains(&spun), "the spinner had {spun} of 10,000");
    world.end();
}

#[test]
fn a_task_that_always_goes_on_in_a_new_child_gains_nothing() {
    fn chain(world: World, used: Used) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            for _ in 0..19 {
                world.work(&used, 50);
                pause(&world).await;
            }
            if !world.stop.load(Relaxed) {
                world.spawn("next", chain(world.clone(), used));
            }
        })
    }
    let world = World::new();
    let spinner = world.spinner(50);
    let used = Used::default();
    world.spawn("first", chain(world.clone(), used.clone()));
    const TIME: u64 = 200 * SLICE;
    world.run_for(TIME);
    let got = share(&spinner, TIME);
    assert!((0.45..0.6).contains(&got), "the spinner had {got}");
    world.end();
}

#[test]
fn a_parent_that_waits_for_each_child_does_not_wait_behind_whole_turns() {
    let world = World::new();
    let spinner = world.spinner(50);
    let clone = world.clone();
    let ended = Arc::new(AtomicU64::new(0));
    let count = ended.clone();
    world.spawn("parent", async move {
        let used = Used::default();
        for _ in 0..100 {
            clone.work(&used, 5);
            let (inner, used) = (clone.clone(), used.clone());
            let child = clone
                .executor
                .spawn("child", Class::User, async move { inner.work(&used, 15) });
            child.unwrap().await.unwrap();
        }
        let now = clone.executor.timers().now();
        count.store(now, Relaxed);
    });
    world.run_for(20 * SLICE);
    // 100 times 20 are two slices: twice that, beside a spinner, and one turn before it is fair.
    let ended = ended.load(Relaxed);
    assert!(ended > 0 && ended <= 6 * SLICE, "ended at {ended}");
    assert!(spinner.load(Relaxed) > 0);
    world.end();
}

#[test]
fn the_turn_of_a_task_is_taken_up_again_after_a_sleeper() {
    let world = World::new();
    let clone = world.clone();
    world.spawn("sleeper", async move {
        clone.executor.timers().sleep_until(SLICE / 2).await;
        clone.steps.push("sleeper");
    });
    run(world.executor);
    for name in ["a", "b"] {
        let clone = world.clone();
        world.spawn(name, async move {
            for _ in 0..10 {
                clone.steps.push(name);
                clone.work(&Used::default(), SLICE / 8);
                clone.executor.end_turn_soon();
                pause(&clone).await;
            }
        });
    }
    world.run_for(3 * SLICE);
    let steps = world.steps.take();
    let (a, b) = (vec!["a"; 4], vec!["b"; 8]);
    let expected = [a.clone(), vec!["sleeper"], a, b, vec!["a"; 2], vec!["b"; 2]].concat();
    assert_eq!(steps, expected);
}

#[test]
fn a_task_that_passes_lets_the_others_go_first() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        let clone = world.clone();
        world.spawn(name, async move {
            for _ in 0..3 {
                clone.steps.push(name);
                clone.executor.pass();
                pause(&clone).await;
            }
        });
    }
    run(world.executor);
    assert_eq!(world.steps.take(), ["a", "b", "c", "a", "b", "c", "a", "b", "c"]);
}

#[test]
fn tasks_that_yield_get_on_even_if_no_time_passes() {
    let world = World::new();
    let clone = world.clone();
    world.spawn("waits", async move {
        while !clone.stop.load(Relaxed) {
            yield_now().await;
        }
    });
    let clone = world.clone();
    world.spawn("sets", async move { clone.stop.store(true, Relaxed) });
    for _ in 0..4 {
        let _ = world.executor.turn(0);
    }
    assert_eq!(world.executor.live_tasks(), 0);
}

#[test]
fn a_raised_task_leaves_the_order_of_the_class_wherever_it_waits() {
    let world = World::new();
    // Ten that wait in the calendar, then somebody of a higher class waits for the last of them.
    let mut last = None;
    for index in 0..10 {
        let clone = world.clone();
        let task = world.executor.spawn("user", Class::User, async move {
            clone.work(&Used::default(), 2 * SLICE);
            clone.executor.end_turn_soon();
            yield_now().await;
            clone.steps.push(format!("user{index}"));
        });
        last = Some(task.unwrap());
    }
    for _ in 0..5 {
        let _ = world.executor.turn(0);
    }
    assert!(world.steps.take().is_empty());
    let (clone, last) = (world.clone(), last.unwrap());
    let device = async move {
        last.await.unwrap();
        clone.steps.push("device");
    };
    world.executor.spawn("device", Class::Device, device).unwrap().detach();
    run(world.executor);
    let steps = world.steps.take();
    let device = steps.iter().position(|step| step == "device");
    assert_eq!(steps.len(), 11, "{steps:?}");
    assert!(device.unwrap() <= 2, "{steps:?}");
    assert_eq!(world.executor.live_tasks(), 0);
}

#[test]
fn user_code_is_always_interrupted_within_a_slice_and_by_the_next_deadline() {
    let world = World::new();
    let service = world.service(3);
    // User code that nothing but the machine's interrupt ends.
    let endless: Vec<_> = (0..3)
        .map(|_| {
            let (clone, used) = (world.clone(), Used::default());
            let count = used.clone();
            world.spawn("endless", async move {
                let machine = clone.executor.hooks();
                while !clone.stop.load(Relaxed) {
                    let (now, alarm) = (machine.advance(0), machine.alarm.swap(0, Relaxed));
                    assert!(alarm != 0 && alarm <= now + SLICE, "at {now} the alarm is {alarm}");
                    clone.work(&count, alarm.saturating_sub(now).max(1));
                    clone.executor.end_turn_soon();
                    pause(&clone).await;
                }
            });
            used
        })
        .collect();
    let faulting = world.faulting(&service, 7);
    let (_, late) = world.sleeper(777, 20);
    let clone = world.clone();
    world.spawn("forks", async move {
        while !clone.stop.load(Relaxed) {
            let inner = clone.clone();
            let child = async move {
                inner.work(&Used::default(), 130);
                yield_now().await;
            };
            let child = clone.executor.spawn("child", Class::User, child).unwrap();
            clone.executor.timers().sleep(450).await;
            child.await.unwrap();
        }
    });
    const TIME: u64 = 300 * SLICE;
    world.run_for(TIME);
    let used: Vec<_> = endless
        .iter()
        .chain([&faulting])
        .map(|used| share(used, TIME))
        .collect();
    let (least, most) = used
        .iter()
        .fold((1f64, 0f64), |(least, most), one| (least.min(*one), most.max(*one)));
    assert!(least > 0.15 && most < least * 1.15, "{used:?}");
    assert!(late.load(Relaxed) <= SLICE / 2, "{} late", late.load(Relaxed));
    world.end();
}
