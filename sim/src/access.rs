//! Accesses of user mode: through the TLB, compared with the page tables and the model.

use faultline_mm::{Access, FrameState};

use crate::machine::second_word;
use crate::script::WINDOW_PAGES;
use crate::tlb::Translation;
use crate::world::{World, address_of, fail};

impl World {
    /// Whether user mode may go on with a translation that the tables do not say any more: its flush is under way.
    fn is_excused(&self, process: usize) -> bool {
        let spaces = self.spaces.borrow();
        let space = &spaces[process];
        space.locked_by.is_some()
            || self.cpus[self.current.get()].flush_asked.get() && space.flushed < self.generation(process)
    }

    /// One access of user mode. False for a page fault.
    pub fn access(&self, process: usize, page: usize, access: Access, value: u64) -> bool {
        let address = address_of(page);
        let used = self.with_tlb(|tlb, view, random| {
            let used = tlb.access(view, address, access, random)?;
            Some((used, self.physical.allows(tlb.root, address, access)))
        });
        let Some((used, now)) = used else { return false };
        self.count(|counts| counts.accesses += 1);
        let physical = used.physical(address);
        let frame = (physical / 4096) as u32;
        // Reserved: between its last reference and quarantine.
        if !matches!(
            self.physical.state(frame),
            Some(FrameState::Mapped | FrameState::Pinned | FrameState::Quarantined | FrameState::Reserved)
        ) {
            fail(format!(
                "{access} of page {page} reaches frame {frame}, which nobody maps"
            ));
        }
        self.note(|| format!("{access} page {page} of process {process}: frame {frame}, value {value:#x}"));
        let left = if now == Some(physical) {
            Some(true)
        } else {
            self.has_left(process, page, access, &used)
        };
        self.count(|counts| counts.left += u64::from(now != Some(physical) && left.is_some()));
        if left == Some(true) {
            self.current_access(process, page, access, value, physical);
        } else {
            self.stale_access(process, page, access, value, &used, left.is_some());
        }
        true
    }

    /// An access that the tables allow now, or to a page that has just left them and is still what it was.
    fn current_access(&self, process: usize, page: usize, access: Access, value: u64, physical: u64) {
        let locked = self.spaces.borrow()[process].locked_by.is_some();
        let record = self.model.borrow().page(process, page);
        let allowed = record.is_some_and(|record| record.protection.allows(access));
        if !allowed && !locked {
            fail(format!(
                "{access} of page {page} of process {process} went through: {record:?}"
            ));
        }
        if access == Access::Write {
            self.physical.set_value(physical, value);
            let replaced = self.model.borrow_mut().write(process, page, value);
            if let Some(content) = replaced {
                self.renumber(physical, content);
            }
            if locked {
                self.spaces.borrow_mut()[process].raced.push((page, value));
            }
        } else if !locked && let Some(record) = record {
            self.check_value(process, page, record, physical);
        }
    }

    /// Compares what a page holds with the model.
    pub fn check_value(&self, process: usize, page: usize, record: crate::model::Page, physical: u64) {
        let (first, second) = self.physical.value(physical);
        let model = self.model.borrow();
        if !model.allows(record, first) || second_word(first) != second {
            fail(format!(
                "page {page} of process {process} holds {first:#x} and {second:#x} in frame {}, and should hold {}",
                physical / 4096,
                model.expected(record)
            ));
        }
    }

    /// The content of a physical page has another number from now on.
    pub fn renumber(&self, physical: u64, content: u32) {
        for tlb in self.tlbs.borrow_mut().iter_mut() {
            for kept in &mut tlb.translations {
                if kept.size == 4096 && kept.physical(kept.page) == physical {
                    kept.content = content;
                }
            }
        }
    }

    /// An access through a translation that has to be flushed.
    fn stale_access(&self, process: usize, page: usize, access: Access, value: u64, used: &Translation, left: bool) {
        if !left && !self.is_excused(process) {
            fail(format!(
                "{access} of page {page} of process {process} goes through {used:?}, which should have been flushed: {:?}",
                self.physical
                    .last_entry(self.spaces.borrow()[process].root, address_of(page))
            ));
        }
        self.count(|counts| counts.stale += 1);
        if access == Access::Write {
            let physical = used.physical(address_of(page));
            self.physical.set_value(physical, value);
            if used.size == 4096 {
                self.model.borrow_mut().may_write_content(used.content, value);
            }
            self.may_write_physical(physical, value);
        }
    }

    /// A write to a physical page that may be seen by whoever has it.
    fn may_write_physical(&self, physical: u64, value: u64) {
        for process in 0..self.script.processes.len() {
            let root = {
                let spaces = self.spaces.borrow();
                spaces[process].vas.as_ref().map(|_| spaces[process].root)
            };
            let Some(root) = root else { continue };
            for page in 0..WINDOW_PAGES {
                let leaf = self.physical.leaf(root, address_of(page));
                if leaf.is_some_and(|(_, found, _)| found == physical) {
                    self.model.borrow_mut().may_write(process, page, value);
                }
            }
        }
    }
}
