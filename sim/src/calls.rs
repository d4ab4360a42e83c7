//! Memory calls: each is made, its result compared with what the model says, and the model changed.
//!
//! A call takes effect while it holds the space's lock. From the end of that hold to the change of the model no other
//! CPU runs ([`Cpu::calling`](crate::cpu::Cpu)), so the model changes in the order in which the calls took effect.

use std::sync::Arc;

use faultline_mm::{Advice, Backing, MapRequest, Placement, Protection, RegionFlags, RemapTarget, VasError};
use x86_64::VirtAddr;

use crate::model::{Model, Origin, Pages};
use crate::script::{self, Step};
use crate::world::{SpaceRecord, Vas, World, address_of, fail, world};

/// Frames that a call may need beside those of its pages: tables, and what other calls take at the same time.
const RESERVE: u64 = 48;

fn at(page: usize) -> VirtAddr {
    VirtAddr::new(address_of(page))
}

const fn bytes(count: usize) -> u64 {
    count as u64 * 4096
}

/// Makes a call, and changes the model in the same instant.
fn call<T>(
    process: usize,
    vas: &Vas,
    call: impl FnOnce(&Vas) -> Result<T, VasError>,
    effect: impl FnOnce(&World, &Result<T, VasError>),
) {
    let world = world();
    let cpu = &world.cpus[world.current.get()];
    cpu.calling.set(Some(process));
    let result = call(vas);
    effect(world, &result);
    let raced = core::mem::take(&mut world.spaces.borrow_mut()[process].raced);
    for (page, value) in raced {
        world.model.borrow_mut().may_write(process, page, value);
    }
    world.model_changed(process);
    cpu.go_on();
}

/// Compares a call's result with what the model says; whether the model is to be changed.
fn agrees<T>(process: usize, what: &str, expected: bool, memory: bool, result: &Result<T, VasError>) -> bool {
    let world = world();
    world.note(|| match result {
        Ok(_) => format!("{what}: done"),
        Err(error) => format!("{what}: {error}"),
    });
    if world.model.borrow().spaces[process].gone {
        return result.is_ok();
    }
    match result {
        Err(VasError::OutOfMemory { .. }) if memory => {
            if !world.failing.get() && world.physical.free.get() > RESERVE {
                fail(format!(
                    "{what} found no memory, and {} frames are free",
                    world.physical.free.get()
                ));
            }
            false
        }
        Ok(_) if expected => true,
        Err(_) if !expected => false,
        Ok(_) => fail(format!("{what} should have been refused")),
        Err(error) => fail(format!("{what} was refused: {error}")),
    }
}

/// The backing of a mapping at a page.
fn backing_of(backing: script::Backing, page: usize) -> Backing {
    let world = world();
    let offset = |origin| match origin {
        Origin::Shared(page) | Origin::File(page) | Origin::Disk(page) => u64::from(page) * 4096,
        Origin::Anonymous => 0,
    };
    let offset = offset(Model::first_origin(backing, page));
    match backing {
        script::Backing::Anonymous | script::Backing::Eager => Backing::Anonymous,
        script::Backing::Shared => {
            let object = world.shared.borrow().clone().expect("the machine was set up");
            Backing::Shared { object, offset }
        }
        script::Backing::File => {
            let file = world.file.borrow().clone().expect("the machine was set up");
            let file = faultline_fallible::unsize!(file => dyn faultline_mm::PageSource);
            Backing::File { file, offset }
        }
        script::Backing::Disk => {
            let object = world.on_disk.borrow().clone().expect("the machine was set up");
            Backing::Private { object, offset }
        }
    }
}

/// A step that is a memory call.
pub(crate) fn perform(process: usize, vas: &Vas, step: Step) {
    match step {
        Step::Map {
            page,
            count,
            protection,
            backing,
        } => map(process, vas, page, count, protection, backing),
        Step::Replace {
            page,
            count,
            protection,
            backing,
        } => replace(process, vas, page, count, protection, backing),
        Step::MapHuge { protection } => map_huge(process, vas, protection),
        Step::Huge { page, count, on } => {
            let advice = if on { Advice::HugePages } else { Advice::NoHugePages };
            advise(process, vas, page, count, advice);
        }
        Step::DontNeed { page, count } => advise(process, vas, page, count, Advice::DontNeed),
        Step::Unmap { page, count } => call(
            process,
            vas,
            |vas| vas.unmap(at(page), bytes(count)),
            |world, result| {
                if agrees(process, "unmap", true, true, result) {
                    world.model.borrow_mut().clear(process, page, count);
                }
            },
        ),
        Step::Protect {
            page,
            count,
            protection,
        } => protect(process, vas, page, count, protection),
        Step::Move { page, count, to } => relocate(process, vas, page, count, to),
        Step::Exec => call(
            process,
            vas,
            |vas| {
                vas.clear();
                Ok(())
            },
            |world, _| world.model.borrow_mut().spaces[process].pages.fill(None),
        ),
        Step::End => call(
            process,
            vas,
            |vas| {
                vas.destroy();
                Ok(())
            },
            |world, _| {
                let pages = &mut world.model.borrow_mut().spaces[process];
                pages.pages.fill(None);
                pages.gone = true;
            },
        ),
        _ => {}
    }
}

fn map(process: usize, vas: &Vas, page: usize, count: usize, protection: Protection, backing: script::Backing) {
    let eager = backing == script::Backing::Eager;
    let origin = Model::first_origin(backing, page);
    call(
        process,
        vas,
        |vas| {
            if eager {
                vas.map_region(at(page), bytes(count), protection)
            } else {
                vas.map_lazy(at(page), bytes(count), protection, backing_of(backing, page))
            }
        },
        |world, result| {
            let free = world.model.borrow().spaces[process].is_free(page, count);
            if agrees(process, "map", free, eager, result) {
                let mut model = world.model.borrow_mut();
                model.fill(process, page, count, protection, false, origin);
            }
        },
    );
}

fn replace(process: usize, vas: &Vas, page: usize, count: usize, protection: Protection, backing: script::Backing) {
    let origin = Model::first_origin(backing, page);
    call(
        process,
        vas,
        |vas| {
            vas.mmap(MapRequest {
                placement: Placement::Fixed(at(page)),
                size: bytes(count),
                protection,
                backing: backing_of(backing, page),
                flags: RegionFlags::empty(),
            })
        },
        |world, result| {
            if agrees(process, "replace", true, true, result) {
                let mut model = world.model.borrow_mut();
                model.clear(process, page, count);
                model.fill(process, page, count, protection, false, origin);
            }
        },
    );
}

fn map_huge(process: usize, vas: &Vas, protection: Protection) {
    call(
        process,
        vas,
        |vas| vas.map_huge_page(at(8), protection),
        |world, result| {
            let free = world.model.borrow().spaces[process].is_free(8, 512);
            // A run of 512 frames may be missing whatever the model says.
            let fine = match result {
                Err(VasError::OutOfMemory { needed: 512 }) => false,
                result => agrees(process, "map-huge", free, false, result),
            };
            if fine {
                let mut model = world.model.borrow_mut();
                model.fill(process, 8, 512, protection, true, Origin::Anonymous);
            }
        },
    );
}

fn advise(process: usize, vas: &Vas, page: usize, count: usize, advice: Advice) {
    call(
        process,
        vas,
        |vas| vas.advise(at(page), bytes(count), advice),
        |world, result| {
            let mapped = !world.model.borrow().spaces[process].has_hole(page, count);
            if agrees(process, "advise", mapped, true, result) {
                let mut model = world.model.borrow_mut();
                match advice {
                    Advice::DontNeed | Advice::Free => model.forget(process, page, count),
                    Advice::HugePages => model.update(process, page, count, |page| page.huge = true),
                    Advice::NoHugePages => model.update(process, page, count, |page| page.huge = false),
                    Advice::NotInherited
                    | Advice::Inherited
                    | Advice::WipedInChild
                    | Advice::KeptInChild
                    | Advice::Random
                    | Advice::Sequential
                    | Advice::Normal => {
                        unreachable!("no step gives this advice")
                    }
                }
            }
        },
    );
}

fn protect(process: usize, vas: &Vas, page: usize, count: usize, protection: Protection) {
    call(
        process,
        vas,
        |vas| vas.protect_region(at(page), bytes(count), protection),
        |world, result| {
            let mapped = !world.model.borrow().spaces[process].has_hole(page, count);
            if agrees(process, "protect", mapped, true, result) {
                let mut model = world.model.borrow_mut();
                model.update(process, page, count, |page| page.protection = protection);
            }
        },
    );
}

fn relocate(process: usize, vas: &Vas, page: usize, count: usize, to: usize) {
    call(
        process,
        vas,
        |vas| vas.remap(at(page), bytes(count), bytes(count), RemapTarget::Fixed(at(to))),
        |world, result| {
            let apart = page + count <= to || to + count <= page;
            let expected = apart && world.model.borrow().spaces[process].is_one_region(page, count);
            if agrees(process, "move", expected, true, result) {
                world.model.borrow_mut().relocate(process, page, count, to);
            } else if matches!(result, Err(VasError::OutOfMemory { .. })) {
                // What was at the target may be gone: all of it, or nothing.
                let pages = (to..to + count).find(|&page| world.model.borrow().page(process, page).is_some());
                if let Some(first) = pages
                    && vas.find_mapping(at(first)).is_none()
                {
                    world.model.borrow_mut().clear(process, to, count);
                }
            }
        },
    );
}

/// Makes process `child` a copy of this one, if it does not exist; whether it does now because of this call.
pub(crate) fn fork(process: usize, vas: &Arc<Vas>, child: usize) -> bool {
    {
        let mut spaces = world().spaces.borrow_mut();
        if spaces.get(child).is_none_or(|space| space.taken) {
            return false;
        }
        spaces[child].taken = true;
    }
    let mut made = false;
    call(
        process,
        vas,
        |vas| vas.fork().map(|copy| std::cell::Cell::new(Some(copy))),
        |world, result| {
            if agrees(process, "fork", true, true, result)
                && let Some(copy) = result.as_ref().ok().and_then(std::cell::Cell::take)
            {
                let pages = world.model.borrow_mut().fork(process);
                world.register(child, copy, pages);
                made = true;
            }
        },
    );
    made
}

impl World {
    /// A space was made: from now on it belongs to this process.
    pub fn register(&self, process: usize, vas: Vas, pages: Pages) {
        let space: &faultline_mm::Space<_> = &vas;
        let start = (&raw const *space).addr();
        // The address of the root table does not change, and nobody else knows the space yet.
        let left = faultline_probe::grant(u32::MAX);
        let root = space.page_table_root.load(std::sync::atomic::Ordering::Relaxed) / 4096;
        faultline_probe::grant(left);
        self.model.borrow_mut().spaces[process] = pages;
        self.spaces.borrow_mut()[process] = SpaceRecord {
            taken: true,
            place: (start, start + size_of_val(space)),
            root: root as u32,
            vas: Some(Arc::new(vas)),
            ..SpaceRecord::default()
        };
    }

    /// The generation of a process's space, as far as it was traced.
    pub fn generation(&self, process: usize) -> u64 {
        let spaces = self.spaces.borrow();
        let id = spaces[process].vas.as_ref().map(|vas| vas.id());
        id.map_or(1, |id| self.generation_of(id))
    }
}
