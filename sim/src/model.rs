//! What an address space means: one record for each page, and the plainest code that changes them.
//!
//! A page's bytes are two words: a value that was never written before, and its complement. What a private page holds
//! is a numbered *content*, which fork shares and the first write after it replaces, so that a write through a
//! translation that is about to be flushed finds everybody who may see it.

use faultline_mm::{Access, Protection};

use crate::script::{Backing, WINDOW_PAGES};

/// Pages of the shared object.
pub(crate) const SHARED_PAGES: u32 = 8;
/// Pages of the file.
pub(crate) const FILE_PAGES: u32 = 12;

/// Pages of the file on the disk.
pub(crate) const DISK_PAGES: u32 = 12;

/// The value in a page of the file on the disk; one page is a hole.
pub(crate) const fn disk_value(page: u32) -> u64 {
    if page == 6 { 0 } else { 0xd15c_0000 + page as u64 }
}

/// No content: the page is shared, or a page of the file that nobody has written.
pub(crate) const NO_CONTENT: u32 = u32::MAX;

/// The value in a page of the file.
pub(crate) const fn file_value(page: u32) -> u64 {
    0xf11e_0000 + page as u64
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Anonymous,
    Shared(u32),
    File(u32),
    Disk(u32),
}

impl Origin {
    fn next(self) -> Self {
        match self {
            Origin::Anonymous => Origin::Anonymous,
            Origin::Shared(page) => Origin::Shared(page + 1),
            Origin::File(page) => Origin::File(page + 1),
            Origin::Disk(page) => Origin::Disk(page + 1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub protection: Protection,
    pub huge: bool,
    pub origin: Origin,
    pub content: u32,
    /// Another space may have the same content.
    pub copied: bool,
}

/// The pages of one space.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    pub pages: Vec<Option<Page>>,
    /// It was destroyed.
    pub gone: bool,
}

impl Pages {
    pub fn new() -> Self {
        Self {
            pages: vec![None; WINDOW_PAGES],
            gone: false,
        }
    }

    pub fn is_free(&self, from: usize, count: usize) -> bool {
        self.pages[from..from + count].iter().all(Option::is_none)
    }

    pub fn has_hole(&self, from: usize, count: usize) -> bool {
        self.pages[from..from + count].iter().any(Option::is_none)
    }

    /// What an access may end with, as bits of [`Verdicts`].
    pub fn verdict(&self, page: usize, access: Access) -> Verdicts {
        match self.pages[page] {
            _ if self.gone => Verdicts(Verdicts::NO_REGION.0 | Verdicts::GONE.0 | Verdicts::PROTECTION.0),
            None => Verdicts::NO_REGION,
            Some(page) if !page.protection.allows(access) => Verdicts::PROTECTION,
            Some(page) => match page.origin {
                Origin::Shared(SHARED_PAGES..) | Origin::File(FILE_PAGES..) | Origin::Disk(DISK_PAGES..) => {
                    Verdicts::BEYOND_END
                }
                _ => Verdicts::FINE,
            },
        }
    }
}

/// A set of ways in which a fault may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Verdicts(pub u8);

impl Verdicts {
    pub const FINE: Self = Self(1);
    pub const NO_REGION: Self = Self(2);
    pub const PROTECTION: Self = Self(4);
    pub const BEYOND_END: Self = Self(8);
    pub const GONE: Self = Self(16);
    pub const OTHER: Self = Self(32);

    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What a private page holds.
#[derive(Clone, Debug, Default)]
struct Content {
    value: u64,
    /// Values that it may have instead: a write raced with the call that changed the page.
    others: Vec<u64>,
    /// What it may have instead until it is written, because it may be dropped (`MADV_FREE`).
    dropped: Option<u64>,
    /// Calls under way that let it be dropped whatever is written.
    dropping: u32,
}

impl Content {
    /// It has this value, and no other.
    fn set(&mut self, value: u64) {
        self.value = value;
        self.others.clear();
        if self.dropping == 0 {
            self.dropped = None;
        }
    }
}

/// The spaces and what they hold.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub spaces: Vec<Pages>,
    contents: Vec<Content>,
    shared: [Content; SHARED_PAGES as usize],
    value: u64,
}

impl Model {
    /// A value that was never written before.
    pub fn fresh_value(&mut self) -> u64 {
        self.value += 1;
        self.value
    }

    fn new_content(&mut self, value: u64) -> u32 {
        self.contents.push(Content {
            value,
            ..Content::default()
        });
        self.contents.len() as u32 - 1
    }

    fn fresh_content(&mut self, origin: Origin) -> u32 {
        match origin {
            Origin::Anonymous => self.new_content(0),
            Origin::File(page) => self.new_content(file_value(page)),
            Origin::Disk(page) => self.new_content(disk_value(page)),
            Origin::Shared(_) => NO_CONTENT,
        }
    }

    pub fn page(&self, space: usize, page: usize) -> Option<Page> {
        self.spaces[space].pages[page]
    }

    /// The number of a page's content; those of the shared pages count down from [`NO_CONTENT`].
    pub fn content(&self, space: usize, page: usize) -> u32 {
        match self.page(space, page) {
            None => NO_CONTENT,
            Some(page) => match page.origin {
                Origin::Shared(index) => NO_CONTENT - 1 - index,
                _ => page.content,
            },
        }
    }

    fn find(&self, page: Page) -> Option<&Content> {
        match page.origin {
            Origin::Shared(index) => self.shared.get(index as usize),
            _ => self.contents.get(page.content as usize),
        }
    }

    /// Whether a page may hold this value.
    pub fn allows(&self, page: Page, value: u64) -> bool {
        self.find(page).is_some_and(|content| {
            content.value == value || content.others.contains(&value) || content.dropped == Some(value)
        })
    }

    /// What a page should hold, for messages.
    pub fn expected(&self, page: Page) -> String {
        match self.find(page) {
            None => "nothing".to_owned(),
            Some(content) if content.others.is_empty() && content.dropped.is_none() => format!("{:#x}", content.value),
            Some(content) => format!(
                "{:#x} or one of {:x?}{:x?}",
                content.value, content.others, content.dropped
            ),
        }
    }

    /// A write that happened. Returns the number of the content that the page has from now on, if it is a new one.
    pub fn write(&mut self, space: usize, page: usize, value: u64) -> Option<u32> {
        let mut record = self.spaces[space].pages[page]?;
        if let Origin::Shared(index) = record.origin {
            if let Some(content) = self.shared.get_mut(index as usize) {
                content.set(value);
            }
            return None;
        }
        let replaced = record.copied;
        if replaced {
            record.content = self.new_content(value);
            record.copied = false;
        } else {
            let content = &mut self.contents[record.content as usize];
            content.set(value);
        }
        self.spaces[space].pages[page] = Some(record);
        replaced.then_some(record.content)
    }

    /// A write that raced with a change of the page: it may be seen or lost.
    pub fn may_write(&mut self, space: usize, page: usize, value: u64) {
        let Some(record) = self.spaces[space].pages[page] else {
            return;
        };
        match record.origin {
            Origin::Shared(index) => {
                if let Some(content) = self.shared.get_mut(index as usize) {
                    content.others.push(value);
                }
            }
            _ => self.may_write_content(record.content, value),
        }
    }

    /// As [`may_write`](Self::may_write), for a content.
    pub fn may_write_content(&mut self, content: u32, value: u64) {
        let shared = (NO_CONTENT - 1).checked_sub(content).map(|index| index as usize);
        let found = match shared {
            Some(index) if index < self.shared.len() => self.shared.get_mut(index),
            _ => self.contents.get_mut(content as usize),
        };
        if let Some(content) = found {
            content.others.push(value);
        }
    }

    /// Records pages where none are.
    pub fn fill(&mut self, space: usize, from: usize, count: usize, protection: Protection, huge: bool, first: Origin) {
        let mut origin = first;
        for page in from..from + count {
            let content = self.fresh_content(origin);
            self.spaces[space].pages[page] = Some(Page {
                protection,
                huge,
                origin,
                content,
                copied: false,
            });
            origin = origin.next();
        }
    }

    /// Pages as a backing gives them; the script's files and shared objects begin at a page that depends on the place.
    pub fn first_origin(backing: Backing, page: usize) -> Origin {
        match backing {
            Backing::Anonymous | Backing::Eager => Origin::Anonymous,
            Backing::Shared => Origin::Shared(page as u32 % SHARED_PAGES),
            Backing::File => Origin::File(page as u32 % FILE_PAGES),
            Backing::Disk => Origin::Disk(page as u32 % DISK_PAGES),
        }
    }

    pub fn clear(&mut self, space: usize, from: usize, count: usize) {
        self.spaces[space].pages[from..from + count].fill(None);
    }

    /// The content of private pages goes.
    pub fn forget(&mut self, space: usize, from: usize, count: usize) {
        for page in from..from + count {
            if let Some(mut record) = self.spaces[space].pages[page] {
                record.content = self.fresh_content(record.origin);
                record.copied = false;
                self.spaces[space].pages[page] = Some(record);
            }
        }
    }

    /// Changes every page of a range.
    pub fn update(&mut self, space: usize, from: usize, count: usize, change: impl Fn(&mut Page)) {
        self.spaces[space].pages[from..from + count]
            .iter_mut()
            .flatten()
            .for_each(change);
    }

    /// Moves pages; what was at the target goes.
    pub fn relocate(&mut self, space: usize, from: usize, count: usize, to: usize) {
        let pages = &mut self.spaces[space].pages;
        let moved: Vec<_> = pages[from..from + count].to_vec();
        pages[from..from + count].fill(None);
        pages[to..to + count].copy_from_slice(&moved);
    }

    /// Private pages may be dropped from now on; `contents` are those for which this call has said so.
    pub fn may_drop(&mut self, space: usize, from: usize, count: usize, contents: &mut Vec<u32>) {
        for page in from..from + count {
            let Some(record) = self.spaces[space].pages[page] else {
                continue;
            };
            let fresh = match record.origin {
                Origin::Shared(_) => continue,
                Origin::Anonymous => 0,
                Origin::File(page) => file_value(page),
                Origin::Disk(page) => disk_value(page),
            };
            let content = &mut self.contents[record.content as usize];
            content.dropped = Some(fresh);
            if !contents.contains(&record.content) {
                content.dropping += 1;
                contents.push(record.content);
            }
        }
    }

    /// Whether a call is under way that lets a page be dropped.
    pub fn may_be_dropped(&self, page: Page) -> bool {
        self.find(page).is_some_and(|content| content.dropping > 0)
    }

    /// The call is over: what is written from now on is kept.
    pub fn dropped(&mut self, contents: &[u32]) {
        for &content in contents {
            self.contents[content as usize].dropping -= 1;
        }
    }

    /// A copy of a space, which shares its contents.
    pub fn fork(&mut self, space: usize) -> Pages {
        for page in self.spaces[space].pages.iter_mut().flatten() {
            page.copied |= !matches!(page.origin, Origin::Shared(_));
        }
        self.spaces[space].clone()
    }
}

impl Pages {
    /// Whether a range is mapped and inside one region.
    pub fn is_one_region(&self, from: usize, count: usize) -> bool {
        let Some(mut last) = self.pages[from] else { return false };
        self.pages[from + 1..from + count].iter().all(|page| {
            page.is_some_and(|page| {
                let goes_on =
                    (page.protection, page.huge, page.origin) == (last.protection, last.huge, last.origin.next());
                last = page;
                goes_on
            })
        })
    }
}
