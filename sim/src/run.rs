//! Runs one world from its start to its end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use corosensei::stack::DefaultStack;
use faultline_executor::{Config, Executor, Shares};
use faultline_probe as probe;

use crate::coverage::Coverage;
use crate::cpu::{self, Fiber, Reason};
use crate::machine::Virtual;
use crate::script::Script;
use crate::setup::{set_up, tear_down};
use crate::world::{Counts, World, world};

/// Bytes of a virtual CPU's stack.
const STACK: usize = 256 << 10;

/// Runs of a CPU after which a world has failed to make progress.
const STEPS: u64 = 400_000;

/// What came of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// What was counted.
    pub counts: Counts,
    /// What was covered.
    pub coverage: Coverage,
    /// What happened, if it was recorded.
    pub events: Vec<String>,
}

/// What a thread of the host keeps from one world to the next.
#[derive(Default)]
struct Bench {
    stacks: Vec<DefaultStack>,
    /// An executor lives for ever, so one is used again and again: for each number of CPUs.
    executors: BTreeMap<(usize, bool), &'static Executor<Virtual>>,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::default();
}

fn stack() -> DefaultStack {
    let kept = BENCH.with_borrow_mut(|bench| bench.stacks.pop());
    kept.unwrap_or_else(|| DefaultStack::new(STACK).expect("memory for a stack"))
}

fn keep(stack: DefaultStack) {
    BENCH.with_borrow_mut(|bench| bench.stacks.push(stack));
}

fn executor(cpus: usize, balance: bool) -> &'static Executor<Virtual> {
    BENCH.with_borrow_mut(|bench| {
        *bench.executors.entry((cpus, balance)).or_insert_with(|| {
            let config = Config {
                cpus,
                balance,
                capacity: 64,
                reserve: 64,
                // Small, so that turns end within a world.
                shares: Shares::new(8, 8, 8, 8),
                stall: u32::MAX,
                ..Config::default()
            };
            Executor::new(config, Virtual)
        })
    })
}

/// Whether this thread can run another world: a panic of the code that was tested has not been seen on it.
#[must_use]
pub fn is_fit() -> bool {
    !cpu::has_panicked()
}

/// Runs a script. The same script always gives the same outcome.
///
/// Must not be called on a thread that is not [fit](is_fit).
#[must_use]
pub fn run(script: &Arc<Script>, record: bool) -> Outcome {
    assert!(is_fit(), "a virtual CPU has panicked on this thread");
    cpu::install_panic_hook();
    let cpus = script.settings.cpus;
    let world = Box::new(World::new(
        Arc::clone(script),
        executor(cpus, script.settings.balance),
        record,
    ));
    let (start, length) = world.physical.watched();
    probe::install(cpu::HOOKS, start, length);
    world.enter(|| {
        let mut fibers = Vec::new();
        if supervise(set_up) {
            fibers = (0..cpus)
                .map(|cpu| cpu::fiber(stack(), Some(cpu), move || run_cpu(cpu)))
                .collect();
            if run_fibers(&mut fibers) {
                supervise(tear_down);
            }
        }
        fibers.into_iter().for_each(|fiber| keep(cpu::end(fiber)));
    });
    probe::uninstall();
    let failure = world.failure.take();
    if failure.is_some() {
        // What it left in the executor is anybody's guess.
        BENCH.with_borrow_mut(|bench| bench.executors.remove(&(cpus, script.settings.balance)));
    }
    let outcome = Outcome {
        counts: world.counts.get(),
        coverage: world.coverage.take(),
        events: world.events.take().unwrap_or_default(),
        failure,
    };
    if outcome.failure.is_some() {
        abandon(*world);
    }
    outcome
}

/// Frees what can be freed of a world that has failed: its physical memory. The rest refers to itself and is leaked.
fn abandon(world: World) {
    let World {
        physical,
        spaces,
        handles,
        service,
        shared,
        file,
        on_disk,
        disk,
        swap_disk,
        ..
    } = world;
    drop(physical);
    core::mem::forget((spaces, handles, service, shared, file, on_disk, disk, swap_disk));
}

fn supervise(body: fn()) -> bool {
    let (stack, fine) = cpu::supervise(stack(), body);
    keep(stack);
    fine
}

/// What a CPU does: turns, for ever.
fn run_cpu(cpu: usize) {
    let world = world();
    let state = &world.cpus[cpu];
    loop {
        state.notified.set(false);
        world.take_interrupts();
        state.polls.set(0);
        let turn = world.executor.turn(cpu);
        state.deadline.set(turn.next_deadline);
        if turn.idle && !world.executor.has_work(cpu) && !world.has_interrupt(cpu) && !state.notified.get() {
            state.halted.set(true);
            cpu::give_way(Reason::Halted);
        } else {
            cpu::give_way(Reason::Turned);
        }
    }
}

/// The CPUs that can run now.
fn ready(world: &World) -> Vec<usize> {
    let now = world.clock.get();
    let awake = |cpu: usize| {
        let state = &world.cpus[cpu];
        let due = state.deadline.get().is_some_and(|deadline| deadline <= now);
        if state.halted.get() && (due || state.notified.get() || world.has_interrupt(cpu)) {
            state.halted.set(false);
        }
        !state.halted.get() && !state.spins.get()
    };
    (0..world.cpus.len()).filter(|&cpu| awake(cpu)).collect()
}

/// When something happens by itself.
fn next_event(world: &World) -> Option<u64> {
    let timers = world.cpus.iter().filter_map(|cpu| cpu.deadline.get());
    timers.chain(world.next_answer()).min()
}

/// Lets the CPUs run until all threads have ended. False if something was wrong.
fn run_fibers(fibers: &mut [Fiber]) -> bool {
    let world = world();
    loop {
        let ready = ready(world);
        if ready.is_empty() {
            if world.cpus.iter().any(|cpu| cpu.spins.get()) {
                return wrong(world, "every CPU that runs waits for a lock");
            }
            if is_over(world) {
                return true;
            }
            match next_event(world) {
                Some(due) => world.clock.set(due.max(world.clock.get() + 1)),
                None if !supervise(unblock) => return false,
                None => {}
            }
            continue;
        }
        if world.random.borrow_mut().chance(1, 48) {
            if !settle(fibers) || is_settled(world) && !supervise(check) {
                return false;
            }
            continue;
        }
        speculate(world);
        let (cpu, points) = world.chooser.borrow_mut().choose(&ready);
        if !step(fibers, cpu, points) {
            return false;
        }
    }
}

/// Runs a CPU once. False if something was wrong.
fn step(fibers: &mut [Fiber], cpu: usize, points: u32) -> bool {
    let world = world();
    world.count(|counts| counts.steps += 1);
    world.clock.set(world.clock.get() + 1);
    if world.counts.get().steps > STEPS {
        return wrong(world, "the world comes to no end");
    }
    let before = world.unlocks.get();
    let reason = cpu::resume(&mut fibers[cpu], cpu, points);
    // Who waits for a lock looks again when one was released.
    if world.unlocks.get() != before {
        world.cpus.iter().for_each(|cpu| cpu.spins.set(false));
    }
    world.cpus[cpu].spins.set(reason == Some(Reason::Spins));
    if reason == Some(Reason::Preempted) {
        world.chooser.borrow_mut().preempted(world.cpus.len());
    }
    reason.is_some_and(|reason| reason != Reason::Failed)
}

fn wrong(world: &World, message: &str) -> bool {
    world.failure.borrow_mut().get_or_insert_with(|| message.to_owned());
    false
}

fn is_settled(world: &World) -> bool {
    world.cpus.iter().all(cpu::Cpu::is_settled)
}

/// Lets every CPU go on until it is in user mode or halted, if that comes soon. False if something was wrong.
fn settle(fibers: &mut [Fiber]) -> bool {
    let world = world();
    world.settling.set(true);
    for _ in 0..64 {
        let unsettled = (0..fibers.len()).find(|&cpu| !world.cpus[cpu].is_settled() && !world.cpus[cpu].spins.get());
        let Some(cpu) = unsettled else { break };
        if !step(fibers, cpu, u32::MAX) {
            return false;
        }
    }
    world.settling.set(false);
    true
}

fn check() {
    world().check_settled();
}

/// Some CPU walks its tables on its own.
fn speculate(world: &World) {
    let mut random = world.random.borrow_mut();
    if !random.chance(world.settings().speculation, 16) {
        return;
    }
    let cpu = random.index(world.cpus.len());
    let page = match random.below(3) {
        0 => random.index(16),
        1 => 512 + random.index(16),
        _ => random.index(crate::script::WINDOW_PAGES),
    };
    drop(random);
    if world.tlbs.borrow()[cpu].root > 1 {
        let before = world.current.replace(cpu);
        world.with_tlb(|tlb, view, random| tlb.walk(view, crate::world::address_of(page), random));
        world.current.set(before);
    }
}

fn is_over(world: &World) -> bool {
    world.handles.borrow().values().all(|handle| handle.is_finished())
        && world.executor.live_tasks() == world.service.borrow().len()
        && world.memory().faults_in_flight() == 0
        && world.next_answer().is_none()
        && world.memory().reclaim_state().leaving == 0
        && !world.memory().has_unflushed_pages()
}

/// Nothing runs any more: perhaps memory is out, and a process has to go.
fn unblock() {
    let world = world();
    world.check_settled();
    if world.drop_cache() {
        world.cpus[0].notified.set(true);
        return;
    }
    let Some(victim) = world.check_stuck() else { return };
    world.note(|| format!("memory is out: process {victim} goes"));
    world.count(|counts| counts.victims += 1);
    for thread in 0..world.script.processes[victim].threads.len() {
        world.kill(victim, thread);
    }
    // The supervisor runs as CPU 0, which is not notified of what it does itself.
    world.cpus[0].notified.set(true);
}
