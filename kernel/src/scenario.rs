//! A run: programs are started, the executor turns until the last of them is gone, and the books are checked.
//!
//! The frame account is taken before the first program and after the last. In a correct run every frame that was free
//! before is free after: page tables, mapped pages and whatever a fault had in flight are back. The report says so, and
//! how each program ended, on a port of its own.

#![allow(
    clippy::disallowed_types,
    reason = "it runs before the first program, or without one"
)]

use core::convert::Infallible;
use core::fmt;
use core::ops::RangeInclusive;

use faultline_drivers::exit::Exit;
use faultline_executor::{Class, yield_now};
use faultline_mm::frame::FrameAccount;
use faultline_mm::{Direction, MemoryStats};
use faultline_trace::FaultClass;
use x86_64::PhysAddr;

use crate::arch::smp;
use crate::config::{Config, Input, PollTime, SelfTest, ServiceTurn};
use crate::console::{self, Channel};
use crate::exec::ExecError;
use crate::exec::stack::Arguments;
use crate::exec::strings::Strings;
use crate::heap::inject::Failures;
use crate::machine::{executor, longest_poller, memory};
use crate::process::{ExitStatus, Pid, peaks, start, tree};
use crate::report::Report;
use crate::startup::{String, Vec};
use crate::syscall::{Errno, information};
use crate::{
    arch, audit, block, cpus, exec, executor_costs, floor, fs, heap, ipc, net, output, selftest, shortage, statistics,
    swap, terminal, time, tracing,
};

/// How long the task that zeroes frames sleeps when the pool is full, in nanoseconds: twice as long each time, so that an
/// idle machine stays idle.
const POOL_PAUSES: RangeInclusive<u64> = 2_000_000..=1_000_000_000;

/// Frames of files that were cut off or removed that are given back between two turns.
const GIVEN_BACK: usize = 256;

/// How often, and for how many nanoseconds each time, an idle machine without programs waits for a disk that still has
/// something to do. It is a number of times because the clock of a machine that counts instructions goes on at once where the
/// machine is idle: the host has its turn each time.
const LAST_WAITS: u32 = 2000;
const LAST_WAIT: u64 = 1_000_000;

/// A program of the run.
struct Program {
    path: String,
    state: State,
}

enum State {
    Running(Pid),
    Ended {
        status: ExitStatus,
        error: Option<ExecError>,
        faults: (u64, u64),
    },
    Refused(Errno),
}

/// What is known when the last program is gone.
struct Outcome {
    programs: Vec<Program>,
    before: FrameAccount,
    after: FrameAccount,
    /// Frames that the heap had before and after; pinned ones.
    heap_frames: [u64; 2],
    duration: u64,
    polls: PollTime,
    heap_failures: Failures,
}

/// Runs the configured programs to their ends, writes the report and ends the machine.
pub fn run(config: &Config, archive: &'static [u8], archive_at: Option<PhysAddr>) -> ! {
    information::seed_random(config.seed);
    fs::directory::set_key(information::mix(config.seed ^ u64::from_le_bytes(*b"director")));
    block::start(config, archive);
    swap::start();
    fs::tree::install(archive, archive_at);
    exec::placement::set_seed(config.seed);
    tracing::start(config);
    spawn_services(config);
    if config.executor_tasks > 0 {
        executor_costs::measure(config.executor_tasks);
    }
    match config.input {
        Input::None => {}
        Input::Pipe => fs::input::start(),
        Input::Terminal => terminal::start(config.window),
    }
    mount_disk();
    let (before, heap_before) = (memory().account(), heap::frames());
    ::log::info!("{before}");
    if config.heap > 0 {
        heap::set_limit(config.heap << 10);
    }
    shortage::start();
    net::rights::start();
    if config.processes {
        peaks::start();
    }
    let began = time::now();
    if config.selftest == Some(SelfTest::Stall) {
        selftest::stall();
    }
    cpus::release();
    let mut programs = start_programs(config);
    if config.selftest == Some(SelfTest::LeakFrame) {
        core::mem::forget(memory().frames().allocate(arch::cpu::index()));
    }
    heap::inject::arm(config.heap_failures);
    drive(config, &mut programs);
    heap::inject::disarm();
    let duration = time::now() - began;
    memory().leave_spaces();
    cpus::stop_for_good();
    // What the programs wrote to files is not needed any more; it is in frames, which have to be free then.
    net::rights::clear();
    ipc::clear();
    fs::tree::clear();
    while memory().give_back_left(GIVEN_BACK) {}
    tracing::finish();
    if config.audit > 0 {
        audit::conclude();
    }
    let after = memory().account();
    ::log::info!("{after}");
    let outcome = Outcome {
        programs,
        before,
        after,
        heap_frames: [heap_before, heap::frames()],
        duration,
        polls: config.polls,
        heap_failures: config.heap_failures,
    };
    output::finish();
    summarise(&outcome);
    console::with_writer(Channel::Report, |port| {
        if report(&outcome, port).is_err() {
            ::log::error!("the report could not be written");
        }
    });
    crate::end(Exit::Orderly)
}

fn spawn_services(config: &Config) {
    let class = match config.service {
        ServiceTurn::First => Class::FaultService,
        ServiceTurn::Last => Class::Idle,
    };
    let served = executor().spawn("fault service", class, memory().fault_service());
    served.expect("the first task has room").detach();
    let reclaimed = executor().spawn("reclaim", Class::Device, memory().reclaimer());
    reclaimed.expect("the first tasks have room").detach();
    let taken_apart = executor().spawn("teardown", Class::User, memory().teardown());
    taken_apart.expect("the second task has room").detach();
    if config.audit > 0 {
        let audited = executor().spawn("audit", Class::User, audit::run(config.audit * 1_000_000));
        audited.expect("the fourth task has room").detach();
    }
    if config.zero_pool {
        let zeroed = executor().spawn("frame zeroing", Class::Idle, zero_frames());
        zeroed.expect("the third task has room").detach();
    }
}

/// Keeps the pool of zeroed frames filled, one frame a poll.
async fn zero_frames() -> Infallible {
    use faultline_mm::Platform;

    let (memory, cpu) = (memory(), arch::cpu::index());
    let mut pause = *POOL_PAUSES.start();
    loop {
        match memory.frames().take_for_zeroing(cpu) {
            Some(frame) => {
                memory.platform().zero_frame(frame.frame());
                memory.frames().put_zeroed(frame);
                pause = *POOL_PAUSES.start();
                yield_now().await;
            }
            None => {
                time::sleep_until(time::now() + pause).await;
                pause = (2 * pause).min(*POOL_PAUSES.end());
            }
        }
    }
}

fn start_programs(config: &Config) -> Vec<Program> {
    let start = |program: &crate::config::Program| {
        let state = arguments_of(program, &config.environment)
            .and_then(start::program)
            .map_or_else(State::Refused, State::Running);
        if let State::Running(pid) = &state {
            terminal::adopt(*pid);
        }
        Program {
            path: program.path.clone(),
            state,
        }
    };
    config.programs.iter().map(start).collect()
}

/// What a configured program is started with.
fn arguments_of(program: &crate::config::Program, environment: &[Vec<u8>]) -> Result<Arguments, Errno> {
    let mut arguments = Arguments {
        path: faultline_fallible::Vec::try_from_slice(program.path.as_bytes())?,
        script: faultline_fallible::Vec::new(),
        arguments: Strings::new()?,
        environment: Strings::new()?,
    };
    for argument in &program.arguments {
        arguments.arguments.push(argument)?;
    }
    if program.arguments.is_empty() {
        arguments.arguments.push(program.path.as_bytes())?;
    }
    for variable in environment {
        arguments.environment.push(variable)?;
    }
    Ok(arguments)
}

/// Turns the executor until every program, and everything that it started, is gone.
fn drive(config: &Config, programs: &mut [Program]) {
    let (executor, cpu) = (executor(), arch::cpu::index());
    let mut shortage = shortage::Watch::default();
    let (mut seen, mut waits) = (0, 0);
    loop {
        let turn = executor.turn(cpu);
        let some_left = memory().give_back_left(GIVEN_BACK);
        tracing::drain_between_turns(turn.idle);
        let ended = tree::roots_ended();
        if ended != seen {
            seen = ended;
            if config.selftest == Some(SelfTest::LatePanic) {
                selftest::fail(SelfTest::LatePanic);
            }
            programs.iter_mut().for_each(collect);
        }
        let mut until = None;
        if tree::process_count() == 0 && memory().ending_spaces() == 0 {
            if block::is_idle() {
                return;
            }
            // What was read ahead for a program that is gone is still under way, or never ends.
            waits += u32::from(turn.idle);
            if waits == LAST_WAITS {
                block::give_up_busy();
            }
            until = Some(time::now() + LAST_WAIT);
        }
        shortage.look(turn.idle);
        match some_left {
            true => arch::let_interrupts_in(),
            false => cpus::rest(&turn, until),
        }
    }
}

/// Mounts the file system on a disk, if there is one, before the first program could look for it.
fn mount_disk() {
    if block::all().is_empty() {
        return;
    }
    let mounted = executor().spawn("mount", Class::User, fs::mount::start());
    let mounted = mounted.expect("one of the first tasks has room");
    loop {
        let turn = executor().turn(arch::cpu::index());
        // Before the CPU rests: after the last turn nothing may be left that would wake it.
        if mounted.is_finished() {
            return;
        }
        cpus::rest(&turn, None);
    }
}

/// Takes note of a program's end.
fn collect(program: &mut Program) {
    let State::Running(pid) = program.state else { return };
    let Some(process) = tree::find_process(pid) else { return };
    let Some(status) = tree::reap_root(pid) else { return };
    let used = process.totals().and(process.child_totals());
    let faults = (used.minor_faults, used.major_faults);
    program.state = State::Ended {
        status,
        error: process.start_error.get().copied(),
        faults,
    };
}

fn summarise(outcome: &Outcome) {
    for program in &outcome.programs {
        match &program.state {
            State::Running(_) => {}
            State::Refused(errno) => ::log::error!("{}: could not be started ({errno:?})", program.path),
            State::Ended { error: Some(error), .. } => ::log::error!("{}: {error}", program.path),
            State::Ended {
                status: ExitStatus::Exited(code),
                ..
            } => {
                ::log::info!("{}: exit status {code}", program.path);
            }
            State::Ended {
                status: ExitStatus::Killed(signal),
                ..
            } => {
                ::log::info!("{}: ended by signal {}", program.path, signal.number());
            }
        }
    }
    ::log::info!(
        "a timer interrupt waited {} us at most",
        arch::alarm::longest_delay() / 1000
    );
    let slots = memory().swap_stats().used;
    if slots > 0 {
        ::log::error!("{slots} swap slots are in use, and nobody is left to use them");
    }
    if !is_conserved(outcome) {
        ::log::error!("the frame equation is broken: {} frames are missing", missing(outcome));
    }
}

fn is_conserved(outcome: &Outcome) -> bool {
    outcome.before.is_conserved() && outcome.after.is_conserved() && outcome.before.total == outcome.after.total
}

/// Frames that were available before, or the heap's, and are neither after.
fn missing(outcome: &Outcome) -> i64 {
    let [before, after] = outcome.heap_frames;
    (outcome.before.available() + before) as i64 - (outcome.after.available() + after) as i64
}

fn report(outcome: &Outcome, port: &mut dyn fmt::Write) -> fmt::Result {
    let mut report = Report::begin(port);
    report.line("programs", outcome.programs.len());
    for (index, program) in outcome.programs.iter().enumerate() {
        report_program(&mut report, index, program);
    }
    report_faults(&mut report, &memory().stats());
    report_frames(&mut report, outcome);
    let bytes = start::thread_bytes();
    report.line("thread.bytes", bytes.total());
    report.line("thread.future_bytes", bytes.future);
    report.line("thread.record_bytes", bytes.record);
    report.line("thread.fpu_bytes", arch::fpu::area_size());
    report.line("fault.bytes", memory().waiting_fault_bytes());
    report.line("fault.transfer_bytes", faultline_mm::Transfers::SINGLE_BYTES);
    let heap = heap::usage();
    report.line("heap.size", heap.held);
    report.line("heap.used", heap.used);
    report.line("heap.accounts", heap.accounts);
    if outcome.heap_failures != Failures::default() {
        let (counted, failed) = heap::inject::counts();
        report.line("heap.allocations", counted);
        report.line("heap.failed", failed);
    }
    let (processes, threads) = tree::started();
    report.line("processes.started", processes);
    report.line("threads.started", threads);
    if peaks::is_on() {
        let (peaks, left_out) = peaks::all();
        for (index, peak) in peaks.iter().flatten().enumerate() {
            report.line(format_args!("process.{index}"), peak);
        }
        report.line("processes.left_out", left_out);
    }
    let counted = statistics::read();
    report.line("syscalls", counted.syscalls);
    report.line("switches", counted.switches);
    report.line("cpus", smp::count());
    report.line("cpus.moved", counted.moved);
    report.line("cpus.interrupts", smp::interrupts());
    for cpu in 0..smp::count() {
        let polls = executor().statistics(cpu).polls;
        report.line(format_args!("cpu.{cpu}.polls"), polls.iter().sum::<u64>());
    }
    let (saves, loads) = arch::fpu::counts();
    report.line("fpu.saves", saves);
    report.line("fpu.loads", loads);
    report.line("ticks", counted.ticks);
    report.line("ticks.total", arch::alarm::interrupts());
    report.line("interrupts.longest_off_ns", arch::alarm::longest_delay());
    let turns = || (0..smp::count()).map(|cpu| executor().statistics(cpu));
    report.line("polls", turns().flat_map(|turns| turns.polls).sum::<u64>());
    report.line("polls.stalls", turns().map(|turns| turns.stalls).sum::<u64>());
    let longest = turns().map(|turns| turns.longest_poll).max();
    let longest = arch::clock::to_nanoseconds(longest.unwrap_or(0).into());
    report.line("polls.longest_ns", longest);
    if outcome.polls == PollTime::Kernel {
        report.line("polls.longest_kernel_ns", longest);
    }
    let (name, tid) = longest_poller();
    report.line("polls.longest_task", format_args!("{name}, thread {tid}"));
    report.line("interrupts.spurious", arch::interrupts::spurious_count());
    report.line("interrupts.nmi", arch::kernel_trap::nmi_count());
    if let (checks @ 1.., errors) = audit::counts() {
        report.line("audit.checks", checks);
        report.line("audit.errors", errors);
    }
    for (step, cost) in floor::steps() {
        report.line(format_args!("floor.{step}"), cost);
    }
    if let Some(costs) = executor_costs::get() {
        report.line("executor.tasks", costs.tasks);
        report.line("executor.bytes_per_task", costs.bytes_per_task);
        for (step, cost) in [
            ("spawn", costs.spawn),
            ("wake", costs.wake),
            ("pair", costs.pair),
            ("empty_turn", costs.empty_turn),
            ("latency_few", costs.latency_few),
            ("latency_many", costs.latency_many),
        ] {
            report.line(format_args!("executor.{step}"), cost);
        }
    }
    report_disks(&mut report);
    report_swap(&mut report);
    let (victims, named) = shortage::victims();
    report.line("victims", victims);
    for (index, victim) in named.iter().flatten().enumerate() {
        report.line(format_args!("victim.{index}"), victim);
    }
    report.line("time.ns", outcome.duration);
    report.end()
}

fn report_program(report: &mut Report<'_>, index: usize, program: &Program) {
    let mut line = |key: &str, value: &dyn fmt::Display| report.line(format_args!("program.{index}.{key}"), value);
    line("path", &program.path);
    match &program.state {
        State::Ended { status, error, faults } => {
            line("status", &status.to_shell_status());
            if let ExitStatus::Killed(signal) = status {
                line("signal", &signal.number());
            }
            if let Some(error) = error {
                line("error", error);
            }
            line("faults.minor", &faults.0);
            line("faults.major", &faults.1);
        }
        State::Running(_) | State::Refused(_) => {
            line("status", &126);
            line("error", &"the kernel has no memory for it");
        }
    }
}

fn report_faults(report: &mut Report<'_>, stats: &MemoryStats) {
    report.line("faults.total", stats.total_served());
    report.line("faults.in_flight", memory().faults_in_flight());
    let times = statistics::fault_times();
    for class in FaultClass::ALL {
        let (count, key) = (stats.served[class as usize], class.name());
        report.line(format_args!("faults.{key}"), count);
        let (timed, ticks) = times[class as usize];
        if let Some(each) = ticks.checked_div(timed) {
            report.line(format_args!("faults.{key}.tsc"), ticks);
            report.line(format_args!("faults.{key}.tsc_each"), each);
        }
    }
    for (key, value) in [
        ("coalesced", stats.coalesced),
        ("spurious", stats.spurious),
        ("denied", stats.denied),
        ("stale", stats.stale),
        ("cancelled", stats.cancelled),
        ("memory_waits", stats.memory_waits),
        ("queue_waits", stats.slot_waits),
        ("device_waits", stats.device_waits),
        ("around", stats.around),
        ("ahead", stats.ahead),
        ("pool_hits", stats.pool_hits),
    ] {
        report.line(format_args!("faults.{key}"), value);
    }
    for (key, value) in [
        ("bumps", stats.tlb_bumps),
        ("flush_all", stats.tlb_flushes),
        ("flush_page", stats.tlb_pages),
        ("skipped", stats.tlb_skips),
    ] {
        report.line(format_args!("tlb.{key}"), value);
    }
}

/// What the swap area did, if there is one.
fn report_swap(report: &mut Report<'_>) {
    let Some(disk) = swap::area() else { return };
    report.line("swap.disk", disk.device.name());
    let (stats, counted) = (memory().swap_stats(), memory().stats());
    for (key, value) in [
        ("slots", stats.slots.into()),
        ("leaked", stats.used.into()),
        ("cached", stats.cached.into()),
        ("reads", stats.reads),
        ("writes", stats.writes),
        ("read_ahead", stats.read_ahead),
        ("errors", stats.errors),
        ("batches", counted.batches_written),
        ("scanned", counted.pages_scanned),
        ("reclaimed", counted.pages_reclaimed),
        ("rounds", counted.reclaim_rounds),
    ] {
        report.line(format_args!("swap.{key}"), value);
    }
}

fn report_disks(report: &mut Report<'_>) {
    for disk in block::all() {
        let (name, tally) = (disk.device.name(), disk.tally);
        for (key, value) in [
            ("reads", tally.transfers(Direction::Read)),
            ("bytes_read", tally.bytes(Direction::Read)),
            ("writes", tally.transfers(Direction::Write)),
            ("bytes_written", tally.bytes(Direction::Write)),
            ("errors", tally.errors()),
            ("most_at_once", tally.most()),
            ("in_flight", tally.in_flight()),
        ] {
            report.line(format_args!("disk.{name}.{key}"), value);
        }
    }
}

fn report_frames(report: &mut Report<'_>, outcome: &Outcome) {
    report.line("frames.total", outcome.before.total);
    for (when, account) in [("before", &outcome.before), ("after", &outcome.after)] {
        for (state, count) in [
            ("free", account.free),
            ("cached", account.cached),
            ("zeroed", account.zeroed),
            ("reserved", account.reserved),
            ("mapped", account.mapped),
            ("page_tables", account.page_tables),
            ("pinned", account.pinned),
            ("quarantined", account.quarantined),
        ] {
            report.line(format_args!("frames.{state}.{when}"), count);
        }
    }
    report.line("frames.leaked", missing(outcome));
    report.line(
        "frames.equation",
        if is_conserved(outcome) { "holds" } else { "broken" },
    );
}
