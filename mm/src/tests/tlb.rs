//! Cases 40 to 43: TLB generations, as what the hardware is asked for.

use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::vec::Vec;

use super::machine::*;
use super::model::{self, Options};
use crate::*;

pub const A: u64 = 0x1000_0000;

/// A space with `pages` pages of RW memory at `A`, all written, loaded on CPU 0.
pub fn loaded(world: &World, pages: u64) -> Vas {
    let space = world.space();
    space.map_region(at(A), pages * PAGE_SIZE, RW).unwrap();
    world.memory.switch_to(&space);
    world.take_asked();
    space
}

pub fn generation(space: &Vas) -> u64 {
    space.tlb_generation.load(Ordering::Relaxed)
}

fn root_of(space: &Vas) -> u64 {
    space.page_table_root.load(Ordering::Relaxed)
}

pub fn flush(space: &Vas) -> Asked {
    Asked::Root {
        root: root_of(space),
        pcid: 0,
        keep: false,
    }
}

/// Counts its wakes.
#[derive(Default)]
pub struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    pub fn rings(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn case_40_a_new_mapping_neither_bumps_nor_flushes() {
    let world = World::new(64);
    let space = loaded(&world, 1);
    let before = generation(&space);
    space
        .map_lazy(at(A + MIB), 4 * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    world.touch(&space, A + MIB, Access::Write).unwrap();
    world.touch(&space, A + MIB + PAGE_SIZE, Access::Read).unwrap();
    space.map_region(at(A + 8 * MIB), 4 * PAGE_SIZE, R).unwrap();
    assert_eq!(generation(&space), before);
    assert_eq!(world.take_asked(), []);
}

#[test]
fn case_40_every_change_of_present_entries_bumps_once_and_flushes_once() {
    let world = World::new(128);
    let space = loaded(&world, 40);
    let page = |index: u64| Asked::Page(A + index * PAGE_SIZE);
    let step = |expected: &[Asked], call: &dyn Fn()| {
        let before = generation(&space);
        call();
        assert_eq!(generation(&space), before + 1);
        assert_eq!(world.take_asked(), expected);
    };
    step(&[page(0)], &|| space.unmap(at(A), PAGE_SIZE).unwrap());
    step(&[page(1), page(2), page(3)], &|| {
        space.unmap(at(A + PAGE_SIZE), 3 * PAGE_SIZE).unwrap();
    });
    // Beyond eight pages one whole flush is cheaper.
    step(&[flush(&space)], &|| {
        space.unmap(at(A + 4 * PAGE_SIZE), 9 * PAGE_SIZE).unwrap();
    });
    step(&[page(20), page(21)], &|| {
        space.protect_region(at(A + 20 * PAGE_SIZE), 2 * PAGE_SIZE, R).unwrap();
    });
    step(&[page(30)], &|| {
        space
            .advise(at(A + 30 * PAGE_SIZE), PAGE_SIZE, Advice::DontNeed)
            .unwrap();
    });
    step(&[page(31)], &|| {
        let frame = world.memory.frames().allocate(0).unwrap();
        space.remap_page(at(A + 31 * PAGE_SIZE), frame).unwrap();
    });
    // A mapping that moves: its old place, its table stays in use.
    step(&[page(38), page(39)], &|| {
        let (to, size) = (at(A + 64 * PAGE_SIZE), 2 * PAGE_SIZE);
        space
            .remap(at(A + 38 * PAGE_SIZE), size, size, RemapTarget::Fixed(to))
            .unwrap();
    });
    step(&[flush(&space)], &|| drop(space.fork().unwrap()));
}

#[test]
fn case_40_what_changes_no_present_entry_neither_bumps_nor_flushes() {
    let world = World::new(64);
    let space = loaded(&world, 2);
    space
        .map_lazy(at(A + MIB), 4 * PAGE_SIZE, RW, Backing::Anonymous)
        .unwrap();
    let before = generation(&space);
    space.protect_region(at(A + MIB), 4 * PAGE_SIZE, R).unwrap();
    space.protect_region(at(A), 2 * PAGE_SIZE, RW).unwrap();
    space.advise(at(A + MIB), PAGE_SIZE, Advice::DontNeed).unwrap();
    space.advise(at(A), PAGE_SIZE, Advice::HugePages).unwrap();
    space.unmap(at(A + MIB), 4 * PAGE_SIZE).unwrap();
    space.unmap(at(A + 2 * MIB), MIB).unwrap();
    assert_eq!(generation(&space), before);
    assert_eq!(world.take_asked(), []);
}

#[test]
fn case_40_the_zero_page_gives_way_to_a_frame_with_one_flush_of_one_page() {
    let world = World::new(64);
    let space = loaded(&world, 1);
    space.map_lazy(at(A + MIB), PAGE_SIZE, RW, Backing::Anonymous).unwrap();
    world.touch(&space, A + MIB, Access::Read).unwrap();
    let before = generation(&space);
    world.touch(&space, A + MIB, Access::Write).unwrap();
    assert_eq!(generation(&space), before + 1);
    assert_eq!(world.take_asked(), [Asked::Page(A + MIB)]);
}

#[test]
fn case_41_a_switch_flushes_what_has_changed_and_nothing_else() {
    let world = World::new(128);
    let (a, b) = (loaded(&world, 40), world.space());
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [], "the same space, unchanged: not even a load");
    // CPU 1 loads the space; CPU 0 changes one page of it.
    world.on_cpu(1);
    world.memory.switch_to(&a);
    world.on_cpu(0);
    world.take_asked();
    a.unmap(at(A), PAGE_SIZE).unwrap();
    assert_eq!(world.take_asked(), [Asked::Page(A), Asked::Shootdown(1 << 1)]);
    world.on_cpu(1);
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [Asked::Page(A)], "one small step behind");
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), []);
    // Two changes: the whole slot.
    world.on_cpu(0);
    a.unmap(at(A + PAGE_SIZE), PAGE_SIZE).unwrap();
    a.unmap(at(A + 2 * PAGE_SIZE), PAGE_SIZE).unwrap();
    world.on_cpu(1);
    world.take_asked();
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [flush(&a)]);
    // One change of many pages: the whole slot, too.
    world.on_cpu(0);
    a.unmap(at(A + 3 * PAGE_SIZE), 20 * PAGE_SIZE).unwrap();
    world.on_cpu(1);
    world.take_asked();
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [flush(&a)]);
    // Without PCIDs another root is a flush, whatever its generation.
    world.memory.switch_to(&b);
    assert_eq!(world.take_asked(), [flush(&b)]);
    drop((a, b));
}

#[test]
fn case_41_a_pcid_keeps_its_translations_if_and_only_if_nothing_changed() {
    let world = World::with(128, |_| {}, 4);
    let (a, b) = (loaded(&world, 4), world.space());
    let load = |space: &Vas, pcid, keep| Asked::Root {
        root: root_of(space),
        pcid,
        keep,
    };
    world.memory.switch_to(&b);
    world.memory.switch_to(&a);
    world.memory.switch_to(&b);
    assert_eq!(
        world.take_asked(),
        [load(&b, 2, false), load(&a, 1, true), load(&b, 2, true)]
    );
    // A change while its root is not loaded: no local invlpg, and a flush at the switch (case 45).
    a.unmap(at(A), PAGE_SIZE).unwrap();
    assert_eq!(world.take_asked(), []);
    world.memory.switch_to(&a);
    assert_eq!(world.take_asked(), [load(&a, 1, false)]);
}

#[test]
fn case_41_a_change_that_races_the_switch_is_not_lost() {
    let world = World::new(64);
    let space = Arc::new(loaded(&world, 4));
    let free = world.free();
    world.on_cpu(1);
    let (other, memory) = (Arc::clone(&space), world.memory);
    // CPU 0 unmaps after CPU 1 has read the generation and before it has loaded the root.
    *world.memory.platform().on_load.lock().unwrap() = Some(Box::new(move || {
        memory.platform().cpu.store(0, Ordering::Relaxed);
        other.unmap(at(A), PAGE_SIZE).unwrap();
        memory.platform().cpu.store(1, Ordering::Relaxed);
    }));
    world.memory.switch_to(&space);
    assert!(world.take_asked().contains(&Asked::Shootdown(1 << 1)));
    assert_eq!(world.account().quarantined, 1);
    world.memory.switch_to(&space);
    assert_eq!(
        world.take_asked(),
        [Asked::Page(A)],
        "the switch before did not count as one that saw the change"
    );
    assert_eq!(world.free(), free + 1);
}

#[test]
fn case_42_a_kernel_interlude_reloads_nothing_and_the_root_stays_alive() {
    let world = World::new(64);
    let free = world.free();
    let space = loaded(&world, 4);
    let root = root_of(&space);
    // The kernel does other things, and comes back.
    world.memory.switch_to(&space);
    assert_eq!(world.take_asked(), []);
    // CPU 1 has it loaded while its owner ends it on CPU 0.
    world.on_cpu(1);
    world.memory.switch_to(&space);
    world.on_cpu(0);
    drop(space);
    let frame = frame::Pfn::new((root / PAGE_SIZE) as u32);
    assert_eq!(world.memory.frames().state(frame), FrameState::Quarantined);
    world.on_cpu(1);
    world.take_asked();
    world.memory.acknowledge();
    let kernel = world.memory.kernel_root.start_address().as_u64();
    assert_eq!(
        world.take_asked(),
        [Asked::Root {
            root: kernel,
            pcid: 0,
            keep: false
        }]
    );
    assert_eq!(world.memory.active_space(1), None);
    assert_eq!(world.free(), free);
}

#[test]
fn case_43_a_reused_pcid_or_root_never_matches_a_stale_generation() {
    let world = World::with(256, |_| {}, 2);
    let mut keeps = 0;
    for round in 0..20 {
        let space = world.space();
        space.map_region(at(A), PAGE_SIZE, RW).unwrap();
        world.take_asked();
        world.memory.switch_to(&space);
        let asked = world.take_asked();
        assert!(
            matches!(asked[..], [Asked::Root { keep: false, .. }]),
            "round {round}: {asked:?}"
        );
        world.store(&space, A, round).unwrap();
        let other = world.space();
        other.map_region(at(A), PAGE_SIZE, RW).unwrap();
        assert_eq!(world.load(&other, A), Ok(0));
        world.take_asked();
        assert_eq!(world.load(&space, A), Ok(round));
        keeps += u32::from(matches!(world.take_asked()[..], [Asked::Root { keep: true, .. }]));
    }
    assert_eq!(keeps, 20, "and without a change, what was cached is kept");
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn a_modelled_tlb_never_shows_what_is_gone() {
    let runs = [(1, 0), (3, 0), (1, 2), (3, 2), (3, 8)];
    for (cpus, pcids) in runs {
        let options = Options {
            cpus,
            pcids,
            ..Options::default()
        };
        model::run(options, 2, 2_000);
    }
}

#[test]
fn space_ids_are_never_used_again() {
    let world = World::new(16);
    let ids: Vec<u64> = (0..10).map(|_| world.space().id()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
}
