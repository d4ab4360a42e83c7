//! What an address space means: one record for each page, and the plainest code that changes them.

use faultline_fallible::Arc;
use std::vec::Vec;

use crate::tests::disk::Disk;
use crate::tests::machine::*;
use crate::tests::walk::{self, translations};
use crate::*;

/// Three spans of last-level tables, which are also the whole mmap area.
pub const WINDOW: u64 = 0x1000_0000;
pub const WINDOW_PAGES: usize = 3 * 512;
/// The heap is in the pages before the window.
pub const HEAP_PAGES: usize = 32;
pub const BASE: u64 = WINDOW - HEAP_PAGES as u64 * PAGE_SIZE;
pub const HEAP_START: u64 = BASE + 0x123;
pub const PAGES: usize = HEAP_PAGES + WINDOW_PAGES;
/// Length of shared objects and of the file, in pages.
pub const OBJECT_PAGES: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros, or what was written.
    Private(u64),
    /// Page of the shared object.
    Shared(u64),
    /// Page of the file, not written yet.
    File(u64),
    /// Page of the file, written.
    Copied(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub protection: Protection,
    pub flags: RegionFlags,
    pub content: Content,
}

impl Page {
    /// Whether `next` is the next page of the same region.
    fn goes_on(self, next: Page) -> bool {
        self.protection == next.protection && self.flags == next.flags && self.following() == next.origin()
    }

    /// Where the page comes from, whatever was written to it.
    pub fn origin(self) -> Content {
        match self.content {
            Content::Private(_) => Content::Private(0),
            Content::Copied(page, _) => Content::File(page),
            other => other,
        }
    }

    /// Where the page behind it would come from.
    pub fn following(self) -> Content {
        match self.origin() {
            Content::Shared(page) => Content::Shared(page + 1),
            Content::File(page) => Content::File(page + 1),
            other => other,
        }
    }
}

/// The backing objects of a run, and what the shared one holds.
pub struct Objects {
    pub shared: Arc<MemoryObject>,
    pub words: Vec<u64>,
    pub file: Arc<TestFile>,
}

impl Objects {
    pub fn new(world: &World) -> Self {
        let mut content = std::vec![0; OBJECT_PAGES as usize * 4096];
        for page in 0..OBJECT_PAGES {
            content[page as usize * 4096..][..8].copy_from_slice(&file_word(page).to_le_bytes());
        }
        let mut file = TestFile::new(content);
        // Every second run of four pages is in memory, so that faults map neighbours.
        for page in (0..OBJECT_PAGES).filter(|page| page & 4 != 0) {
            let frame = world.memory.frames().allocate(0).unwrap().pin();
            let bytes = world.memory.platform().phys_to_virt(frame.address());
            // SAFETY: the frame was just taken from the allocator.
            unsafe {
                bytes.write_bytes(0, 4096);
                bytes.cast::<u64>().write(file_word(page));
            }
            file.frames[page as usize] = Some(frame.frame());
        }
        Self {
            shared: MemoryObject::new(world.memory.frames(), OBJECT_PAGES * PAGE_SIZE).unwrap(),
            words: std::vec![0; OBJECT_PAGES as usize],
            file: Arc::try_new(file).unwrap(),
        }
    }

    /// What a read of the page's first word gives; `None` beyond the end of its object.
    pub fn value(&self, content: Content) -> Option<u64> {
        match content {
            Content::Private(value) | Content::Copied(_, value) => Some(value),
            Content::Shared(page) => self.words.get(page as usize).copied(),
            Content::File(page) => (page < OBJECT_PAGES).then(|| file_word(page)),
        }
    }
}

pub fn file_word(page: u64) -> u64 {
    0xf11e_0000 + page
}

/// A space, page by page.
#[derive(Clone)]
pub struct Reference {
    pub pages: Vec<Option<Page>>,
    pub heap_end: u64,
}

pub fn address(page: usize) -> u64 {
    BASE + page as u64 * PAGE_SIZE
}

impl Reference {
    pub fn new() -> Self {
        Self {
            pages: std::vec![None; PAGES],
            heap_end: HEAP_START,
        }
    }

    pub fn first_hole(&self, from: usize, count: usize) -> Option<usize> {
        (from..from + count).find(|&page| self.pages.get(page).is_none_or(Option::is_none))
    }

    pub fn is_free(&self, from: usize, count: usize) -> bool {
        self.pages[from..from + count].iter().all(Option::is_none)
    }

    /// The maximal runs of pages that go on from one another.
    pub fn regions(&self) -> Vec<(usize, usize, Page)> {
        let mut runs: Vec<(usize, usize, Page)> = Vec::new();
        for (index, page) in self.pages.iter().enumerate() {
            let Some(page) = *page else { continue };
            match runs.last_mut() {
                Some((_, end, _)) if *end == index && self.pages[index - 1].is_some_and(|last| last.goes_on(page)) => {
                    *end += 1;
                }
                _ => runs.push((index, index + 1, page)),
            }
        }
        runs
    }

    /// The run that holds a page.
    pub fn region_of(&self, page: usize) -> Option<(usize, usize)> {
        let found = self.regions().into_iter().find(|run| run.0 <= page && page < run.1)?;
        Some((found.0, found.1))
    }

    /// The highest gap of the window that holds `count` pages, its uppermost part.
    pub fn gap(&self, count: usize) -> Option<usize> {
        (HEAP_PAGES..=PAGES.checked_sub(count)?)
            .rev()
            .find(|&from| self.is_free(from, count))
    }

    /// Moves the break as the documentation says; false if it is refused.
    pub fn brk(&mut self, wanted: u64) -> bool {
        let page_of = |at: u64| (at.next_multiple_of(PAGE_SIZE).max(BASE + PAGE_SIZE) - BASE) / PAGE_SIZE;
        let end = self.heap_end.next_multiple_of(PAGE_SIZE);
        let next = self
            .regions()
            .iter()
            .find(|run| address(run.1) > end)
            .map(|run| address(run.0));
        let limit = next
            .map_or(WINDOW, |next| (next - PAGE_SIZE).min(WINDOW))
            .max(self.heap_end);
        if wanted < HEAP_START || wanted > limit {
            return false;
        }
        let (old, new) = (page_of(self.heap_end) as usize, page_of(wanted) as usize);
        self.heap_end = wanted;
        for page in old..new {
            self.pages[page] = Some(Page {
                protection: RW,
                flags: RegionFlags::HEAP,
                content: Content::Private(0),
            });
        }
        self.pages[new.min(old)..old].fill(None);
        true
    }

    /// The regions of the space are the runs of the reference.
    pub fn check_regions(&self, space: &Vas) {
        let mut expected = self.regions().into_iter();
        space.mappings_ref(|found| {
            let (from, to, page) = expected
                .next()
                .unwrap_or_else(|| panic!("no region at {}", found.range));
            assert_eq!((found.range.start(), found.range.end()), (address(from), address(to)));
            assert_eq!(
                (found.protection, found.flags),
                (page.protection, page.flags),
                "{}",
                found.range
            );
            let origin = match &found.backing {
                Backing::Anonymous => Content::Private(0),
                Backing::Shared { offset, .. } => Content::Shared(offset / PAGE_SIZE),
                Backing::Private { offset, .. } | Backing::File { offset, .. } => Content::File(offset / PAGE_SIZE),
                Backing::Physical { .. } => panic!("no device was mapped"),
            };
            assert_eq!(origin, page.origin());
        });
        assert_eq!(expected.next(), None, "a region is missing");
        let layout = space.layout();
        assert_eq!(layout.heap_end, self.heap_end);
    }

    /// Every entry is in a region, allows no more than it, and shows what was written last.
    pub fn check_entries(&self, world: &World, space: &Vas, objects: &Objects) {
        let mut count = 0;
        for mapped in translations(world, space) {
            let pages = if mapped.entry.has(Entry::HUGE) { 512 } else { 1 };
            for offset in 0..pages {
                let at = mapped.page + u64::from(offset) * PAGE_SIZE;
                let index = ((at - BASE) / PAGE_SIZE) as usize;
                let page = self.pages[index].unwrap_or_else(|| panic!("{at:#x} is mapped without a region"));
                for access in [Access::Read, Access::Write, Access::Execute] {
                    assert!(
                        page.protection.allows(access) || !mapped.entry.allows(access),
                        "{access} at {at:#x}: {:?} in a region that allows {}",
                        mapped.entry,
                        page.protection
                    );
                }
                let frame = mapped.entry.frame().offset(offset);
                assert_eq!(
                    Some(walk::word(world, frame)),
                    objects.value(page.content),
                    "content of {at:#x}"
                );
                let alone = world.memory.frames().mapping_count(frame) == 1;
                assert!(
                    !mapped.entry.allows(Access::Write)
                        || mapped.shared_table
                        || alone
                        || matches!(page.content, Content::Shared(_)),
                    "{at:#x} is writable and shares its frame"
                );
            }
            count += u64::from(pages);
        }
        let stats = space.get_stats();
        assert_eq!(stats.resident_pages + stats.borrowed_pages, count);
        assert_eq!(
            stats.virtual_bytes,
            self.pages.iter().flatten().count() as u64 * PAGE_SIZE
        );
        assert_eq!(stats.faults_in_flight, 0);
        walk::check_kernel_half(world, space);
    }
}

impl Reference {
    /// Every page that is swapped out is in its slot as it was written last.
    pub fn check_swapped(&self, world: &World, space: &Vas, objects: &Objects, disk: &Disk) {
        let mut count = 0;
        for (index, page) in self.pages.iter().enumerate() {
            let Some(slot) = space.swap_slot_of(address(index)) else {
                continue;
            };
            let word = world.memory.frames().swap.load(slot);
            let found = match word.frame() {
                Some(frame) => Some(walk::word(world, frame)),
                None => disk.word(slot),
            };
            let page = page.unwrap_or_else(|| panic!("page {index} is swapped out without a region"));
            assert!(!matches!(page.content, Content::Shared(_)), "page {index} is shared");
            assert_eq!(
                found,
                objects.value(page.content),
                "content of page {index} in {slot:?}"
            );
            count += 1;
        }
        assert_eq!(space.get_stats().swapped_pages, count);
    }
}

impl Reference {
    /// Records pages where none are.
    pub fn fill(&mut self, page: usize, count: usize, protection: Protection, flags: RegionFlags, first: Content) {
        let mut content = first;
        for place in &mut self.pages[page..page + count] {
            let page = Page {
                protection,
                flags,
                content,
            };
            content = page.following();
            *place = Some(page);
        }
    }

    /// Moves or resizes as the documentation says; where it is then, or `None` if it is refused.
    pub fn remap(&mut self, page: usize, old: usize, new: usize, target: RemapTarget) -> Option<usize> {
        let (_, end) = self.region_of(page)?;
        if page + old > end {
            return None;
        }
        let to = match target {
            RemapTarget::Fixed(at) => {
                let to = ((at.as_u64() - BASE) / PAGE_SIZE) as usize;
                if to < page + old && page < to + new {
                    return None;
                }
                self.pages[to..to + new].fill(None);
                to
            }
            _ if new <= old => {
                self.pages[page + new..page + old].fill(None);
                return Some(page);
            }
            _ if page + old == end && page + new <= PAGES && self.is_free(end, page + new - end) => {
                let last = self.pages[end - 1].unwrap();
                self.fill(end, page + new - end, last.protection, last.flags, last.following());
                return Some(page);
            }
            RemapTarget::InPlace => return None,
            RemapTarget::MayMove | RemapTarget::Hint(_) => self.gap(new)?,
        };
        let mut moved: Vec<_> = self.pages[page..page + old].to_vec();
        self.pages[page..page + old].fill(None);
        let last = moved[old - 1].unwrap();
        moved.truncate(new);
        let kept = moved.len();
        self.pages[to..to + kept].copy_from_slice(&moved);
        self.fill(to + kept, new - kept, last.protection, last.flags, last.following());
        Some(to)
    }
}
