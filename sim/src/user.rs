//! User threads: what each step of a script does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use faultline_executor::{Class, yield_now};
use faultline_mm::{Access, FaultError, FaultInfo, FaultOutcome, FaultResult, PAGE_SIZE, PageError, PageRange};
use faultline_probe as probe;
use x86_64::VirtAddr;

use crate::calls;
use crate::cpu::{Reason, give_way};
use crate::machine::second_word;
use crate::model::{DISK_PAGES, Verdicts, disk_value};
use crate::script::Step;
use crate::swap;
use crate::world::{Vas, World, address_of, fail, world};

/// Counts one thread of a process; the last one that goes takes the space along.
struct Member(usize);

impl Drop for Member {
    fn drop(&mut self) {
        let world = world();
        let process = self.0;
        let last = {
            let space = &mut world.spaces.borrow_mut()[process];
            space.threads -= 1;
            space.threads == 0
        };
        if last {
            world.end_process(process);
        }
    }
}

impl World {
    /// Starts a thread of the script, if it was not started before.
    pub fn start_thread(&self, process: usize, thread: usize) {
        let Some(found) = self
            .script
            .processes
            .get(process)
            .and_then(|process| process.threads.get(thread))
        else {
            return;
        };
        if self.handles.borrow().contains_key(&(process, thread)) {
            return;
        }
        self.spaces.borrow_mut()[process].threads += 1;
        let mut future = Box::pin(run_thread(process, thread, Member(process)));
        let future = poll_fn(move |context| {
            if world().cancelled.borrow().contains(&(process, thread)) {
                fail(format!(
                    "thread {thread} of process {process} is polled although it was cancelled"
                ));
            }
            future.as_mut().poll(context)
        });
        match self.executor.spawn_on(found.cpu, "thread", Class::User, future) {
            Ok(handle) => {
                self.handles.borrow_mut().insert((process, thread), handle);
            }
            Err(error) => fail(format!("a thread could not be spawned: {error}")),
        }
    }

    /// Ends a thread, wherever it is.
    pub fn kill(&self, process: usize, thread: usize) {
        let handle = self.handles.borrow_mut().remove(&(process, thread));
        if let Some(handle) = handle {
            handle.cancel();
            self.cancelled.borrow_mut().insert((process, thread));
            self.handles.borrow_mut().insert((process, thread), handle);
        }
    }

    /// The last thread of a process has gone: its space goes.
    pub fn end_process(&self, process: usize) {
        let vas = self.spaces.borrow_mut()[process].vas.take();
        if let Some(vas) = vas {
            self.note(|| format!("process {process} ends"));
            drop(vas);
            self.spaces.borrow_mut()[process].place = (0, 0);
            let pages = &mut self.model.borrow_mut().spaces[process];
            *pages = crate::model::Pages::new();
            pages.gone = true;
        }
    }

    /// Takes the interrupts that are due on this CPU.
    pub fn take_interrupts(&self) {
        let cpu = &self.cpus[self.current.get()];
        if cpu.flush_asked.replace(false) {
            self.note(|| "interrupt: flush".to_owned());
            self.memory().acknowledge();
        }
        self.disk.answer();
        self.swap_disk.answer();
    }

    /// Whether an interrupt is due on a CPU.
    pub fn has_interrupt(&self, cpu: usize) -> bool {
        self.cpus[cpu].flush_asked.get() || self.next_answer().is_some_and(|due| due <= self.clock.get())
    }
}

/// How a stretch of user mode ended.
enum Left {
    Done,
    Fault,
    Interrupt,
}

/// One access of user mode, which is entered unless the last access has left this CPU in it.
fn run_user(process: usize, vas: &Vas, page: usize, access: Access, value: u64) -> Left {
    let world = world();
    if !world.cpus[world.current.get()].user.get() {
        world.memory().switch_to(vas);
        world.cpus[world.current.get()].user.set(true);
        world.check_reachable();
    }
    if world.settling.get() {
        give_way(Reason::User);
    }
    probe::point();
    let lateness = world.settings().lateness;
    let left = if world.has_interrupt(world.current.get()) && !world.random.borrow_mut().chance(lateness, 8) {
        Left::Interrupt
    } else if world.access(process, page, access, value) {
        Left::Done
    } else {
        Left::Fault
    };
    if !matches!(left, Left::Done) || world.random.borrow_mut().chance(1, 4) {
        leave_user();
    }
    left
}

/// The kernel runs again.
fn leave_user() {
    let world = world();
    world.cpus[world.current.get()].user.set(false);
}

/// Watches a fault for as long as it lives.
struct Watched(u64);

impl Watched {
    fn possible(self) -> Verdicts {
        let verdicts = world().unwatch(self.0);
        core::mem::forget(self);
        verdicts
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        world().unwatch(self.0);
    }
}

/// What a fault that was not refused says of its page.
const fn meaning(outcome: FaultOutcome) -> Verdicts {
    match outcome {
        FaultOutcome::Retry => Verdicts(Verdicts::FINE.0 | Verdicts::BEYOND_END.0),
        FaultOutcome::Resolved(_) | FaultOutcome::Read(_) | FaultOutcome::Spurious => Verdicts::FINE,
    }
}

/// Whether a fault's result is one that its space could give meanwhile.
fn check_result(what: &str, result: Result<Verdicts, FaultError>, possible: Verdicts) {
    let world = world();
    world.count(|counts| counts.faults += 1);
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(FaultError::NoRegion { .. }) => Verdicts::NO_REGION,
        Err(FaultError::Protection { .. }) => Verdicts::PROTECTION,
        Err(FaultError::BeyondEnd { .. }) => Verdicts::BEYOND_END,
        Err(FaultError::SpaceGone { .. }) => Verdicts::GONE,
        Err(FaultError::ReadFailed { .. }) if world.settings().disk_errors > 0 => return,
        Err(_) => Verdicts::OTHER,
    };
    if !possible.meets(verdict) {
        fail(format!(
            "{what} ended with {result:?}, which the space never said ({possible:?})"
        ));
    }
}

/// Accesses a page as user mode does: access, fault, access again.
async fn touch(process: usize, vas: &Vas, page: usize, access: Access) {
    let value = world().model.borrow_mut().fresh_value();
    let mut faults = 0;
    let changes =
        || world().generation(process) + world().spaces.borrow()[process].changes + world().physical.taken.get();
    let before = changes();
    loop {
        match run_user(process, vas, page, access, value) {
            Left::Done => return,
            Left::Interrupt => {
                world().take_interrupts();
                if world().random.borrow_mut().chance(1, 2) {
                    yield_now().await;
                }
                continue;
            }
            Left::Fault => {}
        }
        faults += 1;
        if faults > 12 + 4 * (changes() - before) {
            fail(format!(
                "{access} of page {page} of process {process} has faulted {faults} times"
            ));
        }
        let watched = Watched(world().watch(process, page, 1, access));
        let result = vas.handle_page_fault(FaultInfo::user(address_of(page), access)).await;
        let possible = watched.possible();
        check_result("a fault", result.map(meaning), possible);
        if result.is_err() {
            return;
        }
        settled(process, vas).await;
    }
}

/// Begins a fault and drops it.
async fn abandon(process: usize, vas: &Vas, page: usize) {
    let watched = Watched(world().watch(process, page, 1, Access::Write));
    let mut fault = Box::pin(vas.handle_page_fault(FaultInfo::user(address_of(page), Access::Write)));
    let result: Poll<FaultResult> = poll_fn(|context| Poll::Ready(fault.as_mut().poll(context))).await;
    let possible = watched.possible();
    if let Poll::Ready(result) = result {
        check_result("a fault", result.map(meaning), possible);
        return;
    }
    let choice = world().random.borrow_mut().below(3);
    match choice {
        0 => {}
        1 => yield_now().await,
        // It waits for something else when the fault is served, which somebody may have joined.
        _ => {
            drop(fault);
            world().executor.timers().sleep(1).await;
        }
    }
}

async fn populate(process: usize, vas: &Vas, page: usize, count: usize) {
    let start = VirtAddr::new(address_of(page));
    let Ok(range) = PageRange::covering(start, count as u64 * 4096) else {
        return;
    };
    let watched = Watched(world().watch(process, page, count, Access::Write));
    let result = vas.populate(range, Access::Write).await;
    let possible = watched.possible();
    check_result("populate", result.map(|()| Verdicts::FINE), possible);
}

/// Polls a future whose last hold of the space's lock is its effect; `apply` changes the model in the same instant.
async fn with_effect<T>(process: usize, future: impl Future<Output = T>, apply: impl FnOnce(&T)) -> T {
    let mut future = pin!(future);
    let mut apply = Some(apply);
    poll_fn(|context| {
        let cpu = &world().cpus[world().current.get()];
        cpu.calling.set(Some(process));
        let poll = future.as_mut().poll(context);
        if let (Poll::Ready(output), Some(apply)) = (&poll, apply.take_if(|_| poll.is_ready())) {
            apply(output);
        }
        cpu.go_on();
        poll
    })
    .await
}

/// The kernel reads or writes a whole page for a system call.
async fn copy(process: usize, vas: &Vas, page: usize, write: bool) {
    let access = if write { Access::Write } else { Access::Read };
    let value = world().model.borrow_mut().fresh_value();
    let watched = Watched(world().watch(process, page, 1, access));
    let address = address_of(page);
    let mut bytes = vec![0; 4096];
    let result = if write {
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[4088..].copy_from_slice(&second_word(value).to_le_bytes());
        with_effect(process, vas.write_user(address, &bytes), |result| {
            let world = world();
            let root = world.spaces.borrow()[process].root;
            if result.is_ok()
                && let Some(content) = world.model.borrow_mut().write(process, page, value)
                && let Some((_, physical, _)) = world.physical.leaf(root, address)
            {
                world.renumber(physical, content);
            }
        })
        .await
    } else {
        with_effect(process, vas.read_user(address, &mut bytes), |result| {
            let world = world();
            let record = world.model.borrow().page(process, page);
            if let (Ok(()), Some(record)) = (result, record) {
                let root = world.spaces.borrow()[process].root;
                if let Some((_, physical, _)) = world.physical.leaf(root, address) {
                    world.check_value(process, page, record, physical);
                }
            }
        })
        .await
    };
    let possible = watched.possible();
    let result = result.map(|()| Verdicts::FINE).map_err(|error| error.cause);
    check_result("a copy", result, possible);
}

/// What a thread that has left user mode waits for before it enters it again, after a fault or a call: no CPU uses what was
/// taken away until now.
async fn settled(process: usize, vas: &Vas) {
    if world().cpus[world().current.get()].user.get() {
        return;
    }
    let generation = world().generation(process);
    if let Some(flushed) = vas.unflushed() {
        flushed.await;
    }
    let mut spaces = world().spaces.borrow_mut();
    spaces[process].flushed = spaces[process].flushed.max(generation);
}

/// The kernel's share of a system call that waits for a flush.
async fn flushed(process: usize, vas: &Vas) {
    let generation = world().generation(process);
    vas.flushed(generation).await;
    let mut spaces = world().spaces.borrow_mut();
    spaces[process].flushed = spaces[process].flushed.max(generation);
}

/// Flushes everything: no CPU uses a translation from before, of whatever space.
async fn flush_everywhere() {
    let processes = 0..world().script.processes.len();
    let generations: Vec<u64> = processes.map(|process| world().generation(process)).collect();
    let memory = world().memory();
    let number = memory.flush_everywhere();
    memory.flushed_everywhere(number).await;
    for (space, generation) in world().spaces.borrow_mut().iter_mut().zip(generations) {
        space.flushed = space.flushed.max(generation);
    }
}

/// The kernel reads a page of the file on the disk.
async fn read_file(page: usize) {
    let memory = world().memory();
    let Some(object) = world().on_disk.borrow().clone() else {
        return;
    };
    let page = page as u64 % u64::from(DISK_PAGES);
    loop {
        let mut bytes = [0; 8];
        match object.read(memory, page * PAGE_SIZE, &mut bytes) {
            Ok(_) => {
                let (found, expected) = (u64::from_le_bytes(bytes), disk_value(page as u32));
                if found != expected {
                    fail(format!(
                        "page {page} of the file on the disk is {found:#x}, not {expected:#x}"
                    ));
                }
                return;
            }
            Err(PageError::NotResident { .. }) => {}
            Err(error) => fail(format!("a file on the disk can't be read: {error}")),
        }
        match memory.page_in(&object, page).await {
            Ok(()) => {}
            Err(_) if world().settings().disk_errors > 0 => return,
            Err(error) => fail(format!("a page can't be brought in: {error}")),
        }
    }
}

async fn run_thread(process: usize, thread: usize, _member: Member) {
    let script = Arc::clone(&world().script);
    for &step in &script.processes[process].threads[thread].steps {
        let Some(vas) = world().vas(process) else { return };
        world().note(|| format!("process {process} thread {thread}: {step}"));
        if !matches!(step, Step::Read { .. } | Step::Write { .. } | Step::Execute { .. }) {
            leave_user();
        }
        perform(process, &vas, step).await;
        settled(process, &vas).await;
    }
    leave_user();
}

async fn perform(process: usize, vas: &Arc<Vas>, step: Step) {
    match step {
        Step::Read { page } => touch(process, vas, page, Access::Read).await,
        Step::Write { page } => touch(process, vas, page, Access::Write).await,
        Step::Execute { page } => touch(process, vas, page, Access::Execute).await,
        Step::Abandon { page } => abandon(process, vas, page).await,
        Step::CopyIn { page } => copy(process, vas, page, false).await,
        Step::CopyOut { page } => copy(process, vas, page, true).await,
        Step::Populate { page, count } => populate(process, vas, page, count).await,
        Step::Fork { process: child } => {
            if calls::fork(process, vas, child) {
                // A sibling on another CPU may write through what it has cached until then, and the child would see it.
                flushed(process, vas).await;
                world().start_thread(child, 0);
            }
        }
        Step::Start { thread } => world().start_thread(process, thread),
        Step::Kill { process, thread } => world().kill(process, thread),
        Step::Flushed => flushed(process, vas).await,
        Step::FlushEverywhere => flush_everywhere().await,
        Step::ReadFile { page } => read_file(page).await,
        Step::Discard { page } => {
            let memory = world().memory();
            let Some(object) = world().on_disk.borrow().clone() else {
                return;
            };
            let page = page as u64 % u64::from(DISK_PAGES);
            memory.drop_clean_pages(&object, 0..u64::from(DISK_PAGES));
            world().disk.discard(page as u32, || object.punch(page, page + 1));
        }
        Step::Yield => yield_now().await,
        Step::Sleep { ticks } => world().executor.timers().sleep(ticks).await,
        Step::FailAllocation { after } => {
            world().failing.set(true);
            world().memory().frames().fail_once_after(after);
        }
        Step::Await { turn } => {
            while world().turn.get() < turn {
                world().executor.timers().sleep(1).await;
            }
        }
        Step::Advance => world().turn.set(world().turn.get() + 1),
        Step::Drain => world().memory().frames().drain_caches(true),
        Step::Pool { frames } => {
            world().memory().frames().set_zeroed_target(frames);
            world().start_zeroing();
        }
        Step::PageOut { .. }
        | Step::Cold { .. }
        | Step::Free { .. }
        | Step::WillNeed { .. }
        | Step::SwapOn
        | Step::SwapOff => swap::perform(process, vas, step).await,
        _ => calls::perform(process, vas, step),
    }
}

impl World {
    /// Starts the task that zeroes spare frames when nothing else runs.
    pub fn start_zeroing(&self) {
        let task = async {
            for _ in 0..16 {
                let memory = world().memory();
                let Some(frame) = memory.frames().take_for_zeroing(world().current.get()) else {
                    return;
                };
                world().zero(frame.address().as_u64());
                memory.frames().put_zeroed(frame);
                yield_now().await;
            }
        };
        match self.executor.spawn("zeroing", Class::Idle, task) {
            Ok(handle) => handle.detach(),
            Err(error) => fail(format!("a task could not be spawned: {error}")),
        }
    }

    fn zero(&self, address: u64) {
        for word in (address..address + 4096).step_by(8) {
            self.physical.word(word).store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
