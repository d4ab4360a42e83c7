//! How much memory a process holds, which would be free if it ended.
//!
//! Counted are the pages that it maps, its page tables, what the kernel keeps for it in the heap, and the objects behind
//! its descriptors: files in memory, whether mapped or not, and pipes with what is in them. An object counts once: what is mapped of it is not added to
//! itself, and several holders have an equal part each, by their descriptors.

use core::fmt;

use faultline_executor::yield_now;

use crate::fs::proc;
use crate::process::Process;

/// Descriptors that are looked at before others run.
const PIECE: usize = 128;

/// What a process holds, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Pages that it maps as its own, alone or with others.
    pub mapped: u64,
    /// Page tables.
    pub tables: u64,
    /// Its part of the objects behind its descriptors, beyond what it maps with others.
    pub objects: u64,
    /// Memory of the kernel.
    pub heap: u64,
}

impl Holdings {
    /// What `process` holds now. Nothing is allocated.
    pub async fn of(process: &Process) -> Self {
        let pages = proc::pages_of(process).await;
        let mut objects = 0;
        let mut from = 0;
        loop {
            let piece = {
                let files = process.files();
                let table = files.lock();
                // A table that is shared belongs to its sharers in equal parts.
                let sharers = faultline_fallible::Arc::strong_count(&files).saturating_sub(1).max(1) as u64;
                table.held_pages(from..from + PIECE).map(|pages| pages / sharers)
            };
            let Some(pages) = piece else { break };
            objects += pages;
            from += PIECE;
            yield_now().await;
        }
        Self {
            mapped: pages.own + pages.shared,
            tables: pages.tables,
            objects: objects.saturating_sub(pages.shared),
            heap: process.heap.charged().div_ceil(4096) as u64,
        }
    }

    /// All of it.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.mapped + self.tables + self.objects + self.heap
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} KiB ({} mapped, {} of page tables, {} of files and pipes, {} in the kernel's heap)",
            self.pages() * 4,
            self.mapped * 4,
            self.tables * 4,
            self.objects * 4,
            self.heap * 4
        )
    }
}
