//! What must hold whenever every CPU is in user mode or halted, and what must be left when all is over.

use faultline_mm::{Access, Entry, FrameState};

use crate::model::Origin;
use crate::script::WINDOW_PAGES;
use crate::world::{World, address_of, fail};

impl World {
    /// Nobody is inside the kernel: frames are conserved, every entry is in a region and allows no more than it, every
    /// page holds what was written last, every fault in flight has a slot, and nobody waits in a circle.
    pub fn check_settled(&self) {
        let memory = self.memory();
        let account = memory.account();
        if !account.is_conserved() {
            fail(format!("frames are not conserved: {account}"));
        }
        let (slots, faults) = (memory.faults_in_flight(), self.open_faults.borrow().len());
        if slots != faults {
            fail(format!("{slots} fault slots are in use for {faults} faults"));
        }
        self.executor
            .waits()
            .for_each_cycle(|cycle| fail(format!("tasks wait in a circle: {cycle:?}")));
        for process in 0..self.script.processes.len() {
            let root = {
                let spaces = self.spaces.borrow();
                spaces[process].vas.as_ref().map(|_| spaces[process].root)
            };
            if let Some(root) = root
                && !self.model.borrow().spaces[process].gone
            {
                self.check_space(process, root);
            }
        }
        self.check_slots();
    }

    fn check_space(&self, process: usize, root: u32) {
        for page in 0..WINDOW_PAGES {
            let Some((entry, physical, writable)) = self.physical.leaf(root, address_of(page)) else {
                continue;
            };
            let frame = (physical / 4096) as u32;
            let Some(record) = self.model.borrow().page(process, page) else {
                fail(format!(
                    "page {page} of process {process} has frame {frame} and no region"
                ));
            };
            for access in [Access::Read, Access::Write, Access::Execute] {
                if entry.allows(access) && !record.protection.allows(access) {
                    fail(format!(
                        "{access} of page {page} of process {process} would go through: {entry:?}, and its region \
                         allows {}",
                        record.protection
                    ));
                }
            }
            if !matches!(
                self.physical.state(frame),
                Some(FrameState::Mapped | FrameState::Pinned)
            ) {
                fail(format!(
                    "page {page} of process {process} has frame {frame}, which nobody maps"
                ));
            }
            let alone = !matches!(record.origin, Origin::Shared(_));
            let count = self.memory().frames().mapping_count(entry.frame());
            if alone && writable && entry.has(Entry::WRITABLE) && !entry.has(Entry::HUGE) && count != 1 {
                fail(format!(
                    "page {page} of process {process} is writable, and its frame {frame} is mapped {count} times"
                ));
            }
            self.check_value(process, page, record, physical);
        }
    }

    /// All threads have ended, and every space is gone: what is left is what was there before.
    pub fn check_end(&self, pinned: u64) {
        let memory = self.memory();
        if memory.faults_in_flight() != 0 {
            fail(format!("{} fault slots are still in use", memory.faults_in_flight()));
        }
        if let Some((fault, _)) = self.open_faults.borrow().first_key_value() {
            fail(format!("fault {fault} was never answered"));
        }
        let account = match memory.frames().audit() {
            Ok(account) => account,
            Err(error) => fail(format!("the frames do not agree with their account: {error}")),
        };
        let left = (
            account.mapped,
            account.page_tables,
            account.quarantined,
            account.reserved,
        );
        if left != (0, 0, 0, 0) || account.pinned != pinned {
            fail(format!("frames were lost: {account}"));
        }
        if self.executor.live_tasks() != 0 {
            fail(format!("{} tasks are still alive", self.executor.live_tasks()));
        }
    }

    /// Drops the pages of the file on the disk that nothing maps, if somebody waits for memory; says whether some were.
    pub fn drop_cache(&self) -> bool {
        let memory = self.memory();
        // Where there is a reclaimer, it does that.
        if memory.faults_waiting_for_memory() + memory.page_ins_waiting() == 0 || self.settings().swap > 0 {
            return false;
        }
        let before = memory.stats().object_drops;
        if let Some(object) = self.on_disk.borrow().clone() {
            memory.drop_clean_pages(&object, 0..u64::MAX);
        }
        memory.stats().object_drops > before
    }

    /// Every CPU is halted and nothing will wake one: whether that is the end, and if not, why. Returns a process that
    /// has to go because memory is out.
    pub fn check_stuck(&self) -> Option<usize> {
        for cpu in 0..self.cpus.len() {
            if self.executor.has_work(cpu) {
                fail(format!("CPU {cpu} sleeps although a task of its is runnable"));
            }
        }
        let memory = self.memory();
        let waiting = memory.faults_waiting_for_memory() + memory.page_ins_waiting();
        if waiting > 0 {
            if memory.frames().available_for_faults() > 0 {
                fail(format!(
                    "{waiting} faults wait for memory although {} frames are free for them",
                    memory.frames().available_for_faults()
                ));
            }
            let reclaim = memory.reclaim_state();
            if self.settings().swap > 0 && !reclaim.is_hopeless() {
                fail(format!(
                    "{waiting} faults wait for memory and the reclaimer sleeps: {reclaim:?}"
                ));
            }
            let spaces = self.spaces.borrow();
            let alive: Vec<usize> = (0..spaces.len()).filter(|&space| spaces[space].threads > 0).collect();
            drop(spaces);
            if !alive.is_empty() {
                return Some(self.random.borrow_mut().pick(&alive));
            }
        }
        let mut waits = String::new();
        self.executor
            .waits()
            .for_each(|wait| waits += &format!("; {} waits", wait.waiter));
        fail(format!(
            "nothing will ever run again, and {} threads have not ended ({} faults in flight, {waiting} wait for \
             memory){waits}",
            self.handles
                .borrow()
                .values()
                .filter(|handle| !handle.is_finished())
                .count(),
            memory.faults_in_flight(),
        ));
    }
}
