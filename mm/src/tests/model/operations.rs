//! The operations of a random run: what each does to the space, and to the reference.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use std::sync::Arc;

use super::reference::*;
use super::{Pair, Run, SPACES};
use crate::tests::machine::*;
use crate::*;

/// One step, decoded from a word so that any word is a step.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    kind: u8,
    space: u8,
    page: usize,
    count: usize,
    argument: u8,
    /// A fault that is in flight meanwhile.
    pending: Option<usize>,
    /// Pages that leave for the swap area, while the fault is in flight if there is one.
    leaves: Option<usize>,
    pub cpu: u8,
}

impl From<u64> for Operation {
    fn from(word: u64) -> Self {
        let byte = |index: u32| (word >> (8 * index)) as u8;
        // Most steps are near the ends of the last-level tables' spans, where the mistakes are.
        let place = |raw: u8, how: u8| match how % 4 {
            0 => HEAP_PAGES + usize::from(raw) * 6,
            1 => usize::from(raw) % 48,
            _ => {
                HEAP_PAGES
                    + 512 * (usize::from(raw) % 3)
                    + [0, 1, 2, 3, 4, 5, 6, 7, 500, 506, 508, 509, 510, 511, 12, 13][usize::from(raw) / 16]
            }
        };
        let count = match byte(3) {
            0..200 => 1 + usize::from(byte(3)) % 12,
            200..240 => 1 + usize::from(byte(3)) * 2,
            _ => 512 * (1 + usize::from(byte(3)) % 3),
        };
        let page = place(byte(1), byte(2)).min(PAGES - 1);
        Self {
            kind: byte(0),
            space: byte(4) >> 4,
            page,
            count: count.min(PAGES - page),
            argument: byte(5),
            pending: (byte(4) & 15 == 0).then(|| place(byte(6), byte(7)).min(PAGES - 1)),
            leaves: (byte(5) & 3 == byte(3) & 3).then(|| place(byte(6), byte(0)).min(PAGES - 1)),
            cpu: byte(7),
        }
    }
}

fn protection(argument: u8) -> Protection {
    [RW, RW, RW, R, NONE, Protection::READ_EXECUTE, RW, R][usize::from(argument) % 8]
}

impl Run {
    pub fn apply(&mut self, operation: Operation) {
        let index = usize::from(operation.space) % self.pairs.len();
        let Some(page) = operation.pending else {
            self.change(index, operation);
            return self.swap_out(operation);
        };
        let space = Arc::clone(&self.pairs[index].space);
        let access = if operation.argument & 1 == 0 {
            Access::Write
        } else {
            Access::Read
        };
        let mut fault = pin!(space.handle_page_fault(FaultInfo::user(address(page), access)));
        let done = self.world.poll(fault.as_mut()).is_ready();
        self.change(index, operation);
        self.swap_out(operation);
        if !done {
            let _ = self.world.run(fault);
        }
    }

    /// Some pages leave for the swap area, if the run has one with room for them.
    fn swap_out(&mut self, operation: Operation) {
        let (Some(page), Some(disk)) = (operation.leaves, &self.disk) else {
            return;
        };
        let space = &self.pairs[usize::from(operation.space) % self.pairs.len()].space;
        let count = (1 + usize::from(operation.argument)).min(PAGES - page);
        let frames = self.world.memory.frames();
        frames.hold();
        let (left, _) = self.world.leave(space, address(page), count as u64);
        if self.options.cpus > 0 {
            self.world.deliver_all();
        }
        frames.unhold(0);
        self.world.write_out(disk, &left);
    }

    fn change(&mut self, index: usize, operation: Operation) {
        let Operation {
            kind,
            page,
            count,
            argument,
            ..
        } = operation;
        match kind {
            0..20 => self.map(index, page, count, argument, false),
            20..36 => self.map(index, page, count, argument, true),
            36..42 => self.map_huge(index, page, argument),
            42..58 => self.mmap(index, page, count, argument),
            58..86 => self.unmap(index, page, count),
            86..108 => self.protect(index, page, count, protection(argument)),
            108..124 => self.advise(index, page, count, argument),
            124..136 => self.brk(index, page),
            136..148 => self.remap(index, page, count, argument),
            148..160 => self.fork(index),
            160..166 => self.end_space(index, argument),
            166..226 => self.write(index, page, count.min(9)),
            226..=255 => self.read(index, page, count.min(9)),
        }
    }

    /// Runs a call that works in steps. Between two of its steps others read pages of the space, and another caller unmaps
    /// some, which has to wait for its turn.
    fn in_steps<T>(&mut self, index: usize, call: impl Future<Output = T>) -> T {
        let space = Arc::clone(&self.pairs[index].space);
        let mut call = pin!(call);
        let mut result = self.world.poll(call.as_mut());
        let busy = self.step as usize * 37 % PAGES;
        let (page, count) = (busy.min(PAGES - 4), 1 + busy % 4);
        let mut other = pin!(space.unmap_in_steps(at(address(page)), count as u64 * PAGE_SIZE));
        let mut other_done = false;
        if result.is_pending() {
            let one_step = space.unmap(at(address(page)), PAGE_SIZE);
            assert_eq!(one_step, Err(VasError::Busy), "two callers change the space");
            assert!(self.world.poll(other.as_mut()).is_pending(), "the turn is taken");
            self.pairs[index].later = Some((page, count));
            for place in 0.. {
                let read = (busy + place * 61) % PAGES;
                let _ = self.world.read(&space, address(read));
                if let ready @ Poll::Ready(_) = self.world.poll(call.as_mut()) {
                    result = ready;
                    break;
                }
                // A fork gives the turn up before it is done with the child.
                other_done = other_done || self.world.poll(other.as_mut()) == Poll::Ready(Ok(()));
            }
            while !other_done {
                other_done = match self.world.poll(other.as_mut()) {
                    Poll::Pending => false,
                    Poll::Ready(unmapped) => unmapped.map(|()| true).unwrap(),
                };
            }
        }
        let Poll::Ready(result) = result else {
            unreachable!("the loop ends with a result")
        };
        result
    }

    /// What another caller did after a call in steps.
    pub fn apply_later(&mut self) {
        for pair in &mut self.pairs {
            if let Some((page, count)) = pair.later.take() {
                pair.reference.pages[page..page + count].fill(None);
            }
        }
    }

    /// Makes a call; with failures on, makes it with each of its allocations failing first, and sees that nothing has
    /// changed then.
    fn call<T>(&mut self, index: usize, call: impl Fn(&Vas) -> Result<T, VasError>) -> Result<T, VasError> {
        let space = Arc::clone(&self.pairs[index].space);
        if !self.options.failures {
            return call(&space);
        }
        for successes in 0.. {
            self.world.memory.frames().fail_after(successes);
            let result = call(&space);
            let failed = self.world.memory.frames().fail_never();
            match result {
                Err(VasError::OutOfMemory { .. }) if failed > 0 => {
                    let Pair { space, reference, .. } = &self.pairs[index];
                    reference.check_regions(space);
                    if self.world.memory.faults_in_flight() == 0 {
                        self.check();
                    }
                }
                result => return result,
            }
        }
        unreachable!()
    }

    fn map(&mut self, index: usize, page: usize, count: usize, argument: u8, eager: bool) {
        let (start, size) = (at(address(page)), count as u64 * PAGE_SIZE);
        let protection = protection(argument);
        let (backing, content) = self.backing(argument, eager);
        let result = self.call(index, |space| {
            if eager {
                space.map_region(start, size, protection)
            } else {
                space.map_lazy(start, size, protection, backing.clone())
            }
        });
        let reference = &mut self.pairs[index].reference;
        if !reference.is_free(page, count) {
            assert!(matches!(result, Err(VasError::Overlap { .. })), "{result:?}");
            return;
        }
        result.unwrap();
        reference.fill(page, count, protection, RegionFlags::empty(), content);
    }

    fn backing(&self, argument: u8, eager: bool) -> (Backing, Content) {
        let page = u64::from(argument >> 3 & 15);
        match argument >> 3 {
            12..=18 if !eager => {
                let (object, offset) = (self.objects.shared.clone(), page * PAGE_SIZE);
                (Backing::Shared { object, offset }, Content::Shared(page))
            }
            24..=30 if !eager => {
                let (file, offset) = (self.objects.file.clone(), page * PAGE_SIZE);
                let file = faultline_fallible::unsize!(file => dyn PageSource);
                (Backing::File { file, offset }, Content::File(page))
            }
            _ => (Backing::Anonymous, Content::Private(0)),
        }
    }

    fn map_huge(&mut self, index: usize, page: usize, argument: u8) {
        let page = HEAP_PAGES + page.saturating_sub(HEAP_PAGES) / 512 * 512;
        let protection = protection(argument);
        let result = self.call(index, |space| space.map_huge_page(at(address(page)), protection));
        let reference = &mut self.pairs[index].reference;
        match result {
            Ok(()) => reference.fill(page, 512, protection, RegionFlags::HUGE_PAGES, Content::Private(0)),
            Err(VasError::Overlap { .. }) => assert!(!reference.is_free(page, 512)),
            // No run of 512 frames is free: memory is in pieces.
            Err(error) => assert_eq!(error, VasError::OutOfMemory { needed: 512 }),
        }
    }

    fn mmap(&mut self, index: usize, page: usize, count: usize, argument: u8) {
        let protection = protection(argument);
        let (backing, content) = self.backing(argument, false);
        let address_of = at(address(page));
        let placement = match argument >> 1 & 3 {
            0 => Placement::Fixed(address_of),
            1 => Placement::FixedNoReplace(address_of),
            2 => Placement::Hint(address_of),
            _ => Placement::Any,
        };
        let size = count as u64 * PAGE_SIZE - u64::from(argument);
        let result = self.call(index, |space| {
            let (backing, flags) = (backing.clone(), RegionFlags::empty());
            space.mmap(MapRequest {
                placement,
                size,
                protection,
                backing,
                flags,
            })
        });
        let reference = &mut self.pairs[index].reference;
        let expected = match placement {
            Placement::Fixed(_) => Some(page),
            Placement::FixedNoReplace(_) => reference.is_free(page, count).then_some(page),
            Placement::Hint(_) if reference.is_free(page, count) => Some(page),
            Placement::Hint(_) | Placement::Within(..) | Placement::Any => reference.gap(count),
        };
        let Some(page) = expected else {
            assert!(
                matches!(result, Err(VasError::Overlap { .. } | VasError::NoRoom { .. })),
                "{result:?}"
            );
            return;
        };
        assert_eq!(result.unwrap(), at(address(page)));
        reference.pages[page..page + count].fill(None);
        reference.fill(page, count, protection, RegionFlags::empty(), content);
    }

    fn unmap(&mut self, index: usize, page: usize, count: usize) {
        let (start, size) = (at(address(page)), count as u64 * PAGE_SIZE);
        if self.options.steps {
            let space = Arc::clone(&self.pairs[index].space);
            self.in_steps(index, space.unmap_in_steps(start, size)).unwrap();
        } else {
            self.call(index, |space| space.unmap(start, size)).unwrap();
        }
        self.pairs[index].reference.pages[page..page + count].fill(None);
    }

    fn protect(&mut self, index: usize, page: usize, count: usize, protection: Protection) {
        let (start, size) = (at(address(page)), count as u64 * PAGE_SIZE);
        let result = if self.options.steps {
            let space = Arc::clone(&self.pairs[index].space);
            self.in_steps(index, space.protect_in_steps(start, size, protection))
        } else {
            self.call(index, |space| space.protect_region(start, size, protection))
        };
        let in_steps = self.options.steps;
        let reference = &mut self.pairs[index].reference;
        let mut end = page + count;
        if let Some(hole) = reference.first_hole(page, count) {
            assert_eq!(result, Err(VasError::NotMapped { address: address(hole) }));
            if !in_steps {
                return;
            }
            // What is before the hole is changed.
            end = hole;
        } else {
            result.unwrap();
        }
        for page in reference.pages[page..end].iter_mut().flatten() {
            page.protection = protection;
        }
    }

    fn advise(&mut self, index: usize, page: usize, count: usize, argument: u8) {
        let advice = [
            Advice::DontNeed,
            Advice::Free,
            Advice::HugePages,
            Advice::NoHugePages,
            Advice::NotInherited,
            Advice::Inherited,
            Advice::WipedInChild,
            Advice::KeptInChild,
            Advice::Random,
            Advice::Sequential,
            Advice::Normal,
        ];
        let advice = advice[usize::from(argument) % advice.len()];
        let (start, size) = (at(address(page)), count as u64 * PAGE_SIZE);
        let wipes = advice == Advice::WipedInChild;
        // In steps what comes before a region that refuses is done, which the reference does not follow.
        let result = if self.options.steps && !wipes {
            let space = Arc::clone(&self.pairs[index].space);
            self.in_steps(index, space.advise_in_steps(start, size, advice))
        } else {
            self.call(index, |space| space.advise(start, size, advice))
        };
        let in_steps = self.options.steps && !wipes;
        let reference = &mut self.pairs[index].reference;
        let hole = reference.first_hole(page, count);
        if let Some(hole) = hole {
            assert_eq!(result, Err(VasError::NotMapped { address: address(hole) }));
            if !in_steps {
                return;
            }
        }
        let pages = &mut reference.pages[page..page + count];
        let is_private = |page: &Page| matches!(page.origin(), Content::Private(_));
        if advice == Advice::WipedInChild && !pages.iter().flatten().all(is_private) {
            assert!(matches!(result, Err(VasError::WrongKind { .. })), "{result:?}");
            return;
        }
        if hole.is_none() {
            result.unwrap();
        }
        for page in pages.iter_mut().flatten() {
            match advice {
                Advice::DontNeed | Advice::Free => page.content = page.origin(),
                Advice::HugePages => page.flags |= RegionFlags::HUGE_PAGES,
                Advice::NoHugePages => page.flags -= RegionFlags::HUGE_PAGES,
                Advice::NotInherited => page.flags |= RegionFlags::NOT_INHERITED,
                Advice::Inherited => page.flags -= RegionFlags::NOT_INHERITED,
                Advice::WipedInChild => page.flags |= RegionFlags::WIPED_IN_CHILD,
                Advice::KeptInChild => page.flags -= RegionFlags::WIPED_IN_CHILD,
                Advice::Random => page.flags = (page.flags - RegionFlags::SEQUENTIAL) | RegionFlags::RANDOM,
                Advice::Sequential => page.flags = (page.flags - RegionFlags::RANDOM) | RegionFlags::SEQUENTIAL,
                Advice::Normal => page.flags -= RegionFlags::RANDOM | RegionFlags::SEQUENTIAL,
            }
        }
    }

    fn brk(&mut self, index: usize, page: usize) {
        let wanted = HEAP_START + (page as u64 % 40) * 1000 - 500;
        let result = self.call(index, |space| space.brk(Some(at(wanted))));
        let moved = self.pairs[index].reference.brk(wanted);
        assert_eq!(result.is_ok(), moved, "{result:?}");
    }

    fn remap(&mut self, index: usize, page: usize, count: usize, argument: u8) {
        let new_count = 1 + (count + usize::from(argument)) % 20;
        let to = (page + 300 + usize::from(argument) * 5).min(PAGES - new_count);
        let target = match argument % 3 {
            0 => RemapTarget::InPlace,
            1 => RemapTarget::MayMove,
            _ => RemapTarget::Fixed(at(address(to))),
        };
        let reference = &self.pairs[index].reference;
        let in_heap = reference.pages[page].is_some_and(|page| page.flags.contains(RegionFlags::HEAP));
        // A fixed target may be unmapped by a call that fails, which the reference does not follow.
        if in_heap || self.options.failures && argument % 3 == 2 {
            return;
        }
        let (old, new) = (count as u64 * PAGE_SIZE, new_count as u64 * PAGE_SIZE);
        let result = if self.options.steps {
            let space = Arc::clone(&self.pairs[index].space);
            self.in_steps(index, space.remap_in_steps(at(address(page)), old, new, target))
        } else {
            self.call(index, |space| space.remap(at(address(page)), old, new, target))
        };
        let reference = &mut self.pairs[index].reference;
        match reference.remap(page, count, new_count, target) {
            Some(to) => assert_eq!(result.unwrap(), at(address(to))),
            None => assert!(result.is_err(), "{result:?}"),
        }
    }

    fn fork(&mut self, index: usize) {
        let child = if self.options.steps {
            let space = Arc::clone(&self.pairs[index].space);
            self.in_steps(index, space.fork_in_steps())
        } else {
            self.call(index, VirtualAddressSpace::fork)
        };
        let child = child.unwrap_or_else(|error| panic!("{error}"));
        let mut reference = self.pairs[index].reference.clone();
        for place in &mut reference.pages {
            let Some(page) = place else { continue };
            if page.flags.contains(RegionFlags::NOT_INHERITED) {
                *place = None;
            } else if page.flags.contains(RegionFlags::WIPED_IN_CHILD) {
                page.content = page.origin();
            }
        }
        let pair = Pair {
            space: Arc::new(child),
            reference,
            later: None,
        };
        if self.pairs.len() == SPACES {
            self.end_space((index + 1) % SPACES, 0);
        }
        self.pairs.push(pair);
    }

    fn end_space(&mut self, index: usize, argument: u8) {
        let pair = &mut self.pairs[index];
        if argument & 1 == 1 {
            pair.space.clear();
            pair.reference = Reference::new();
            return;
        }
        // A fault in flight may still hold the space.
        pair.space.destroy();
        drop(self.pairs.remove(index));
        if self.pairs.is_empty() {
            self.add_space();
        }
    }

    /// What an access is to end with.
    fn verdict(&self, index: usize, page: usize, access: Access) -> Result<Page, &'static str> {
        let page = self.pairs[index].reference.pages[page].ok_or("no region")?;
        if !page.protection.allows(access) {
            return Err("protection");
        }
        self.objects.value(page.content).map(|_| page).ok_or("beyond the end")
    }

    fn check_verdict(
        &self,
        index: usize,
        page: usize,
        access: Access,
        result: Result<u64, FaultError>,
    ) -> Option<Page> {
        let name = |error| match error {
            FaultError::NoRegion { .. } => "no region",
            FaultError::Protection { .. } => "protection",
            FaultError::BeyondEnd { .. } => "beyond the end",
            _ => "something else",
        };
        let expected = self.verdict(index, page, access);
        let found = result.map_err(name);
        let value = expected.map(|page| self.objects.value(page.content).unwrap());
        assert_eq!(found, value, "{access} of {:#x}", address(page));
        expected.ok()
    }

    fn read(&mut self, index: usize, first: usize, count: usize) {
        for page in first..(first + count).min(PAGES) {
            self.fail_once(page);
            let result = self.load(index, address(page));
            self.world.memory.frames().fail_never();
            self.check_verdict(index, page, Access::Read, result);
        }
    }

    fn write(&mut self, index: usize, first: usize, count: usize) {
        for page in first..(first + count).min(PAGES) {
            let value = self.fresh_value();
            self.fail_once(page);
            let result = self.store(index, address(page), value);
            self.world.memory.frames().fail_never();
            // The old content is compared by the checks; here only whether the access was allowed.
            let before = self
                .verdict(index, page, Access::Write)
                .map(|page| self.objects.value(page.content).unwrap());
            let Some(written) = self.check_verdict(index, page, Access::Write, result.map(|()| before.unwrap_or(0)))
            else {
                continue;
            };
            let content = match written.content {
                Content::Private(_) => Content::Private(value),
                Content::File(page) | Content::Copied(page, _) => Content::Copied(page, value),
                Content::Shared(page) => {
                    self.objects.words[page as usize] = value;
                    continue;
                }
            };
            self.pairs[index].reference.pages[page].as_mut().unwrap().content = content;
        }
    }

    /// With failures on, one of the next allocations finds no frame, and its fault waits for one.
    fn fail_once(&self, page: usize) {
        if self.options.failures {
            self.world.memory.frames().fail_once_after(page as u64 % 5);
        }
    }

    fn load(&self, index: usize, address: u64) -> Result<u64, FaultError> {
        let space = &self.pairs[index].space;
        if self.options.cpus > 0 {
            self.world.load(space, address)
        } else {
            self.world.read(space, address)
        }
    }

    fn store(&self, index: usize, address: u64, value: u64) -> Result<(), FaultError> {
        let space = &self.pairs[index].space;
        if self.options.cpus > 0 {
            self.world.store(space, address, value)
        } else {
            self.world.write(space, address, value)
        }
    }
}
