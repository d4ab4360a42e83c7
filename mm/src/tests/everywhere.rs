//! Flushes of everything on every CPU: who is asked, when one is over, and what no CPU reaches any more.

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::sync::Arc;

use super::machine::*;
use super::tlb::{A, Bell, loaded};
use crate::tables::Leaf;
use crate::*;

/// Takes a page out of its table behind everybody's back, as the reclaimer does: no generation is bumped. The frame stays
/// mapped, because nobody may free it yet.
fn take_out(world: &World, space: &Vas, page: u64) {
    let inner = space.lock();
    let Leaf::Own(leaf, value) = world.memory.leaf(inner.root.unwrap(), page) else {
        panic!("the page is in no table of the space's own");
    };
    assert!(value.is_present());
    leaf.set(Entry::EMPTY);
}

/// Puts it back, so that its frame has an owner.
fn put_back(world: &World, space: &Vas, page: u64, value: Entry) {
    let inner = space.lock();
    if let Leaf::Own(leaf, _) = world.memory.leaf(inner.root.unwrap(), page) {
        leaf.set(value);
    }
}

fn entry(world: &World, space: &Vas, page: u64) -> Entry {
    match world.memory.leaf(space.lock().root.unwrap(), page) {
        Leaf::Own(_, value) => value,
        _ => panic!("the page is in no table of the space's own"),
    }
}

#[test]
fn a_flush_is_over_when_every_cpu_that_held_something_has_answered() {
    for pcids in [0, 4] {
        let world = World::with(64, |_| {}, pcids);
        let space = loaded(&world, 4);
        for cpu in [0, 1, 2] {
            world.on_cpu(cpu);
            world.store(&space, A, 1).unwrap();
            assert!(world.would_store(A));
        }
        world.on_cpu(0);
        world.take_asked();
        let before = entry(&world, &space, A);
        take_out(&world, &space, A);
        let number = world.memory.flush_everywhere();
        // This CPU has flushed, and asks those that hold something: CPU 3 and the others never did.
        assert!(!world.would_store(A));
        assert_eq!(world.take_asked().last(), Some(&Asked::Shootdown(0b110)));
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut flushed = pin!(world.memory.flushed_everywhere(number));
        let mut poll = || flushed.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(poll(), Poll::Pending);
        world.on_cpu(1);
        assert!(world.would_store(A), "nobody has told it yet");
        world.deliver();
        assert!(!world.would_store(A));
        assert_eq!((poll(), bell.rings()), (Poll::Pending, 0));
        world.on_cpu(2);
        world.deliver();
        assert!(!world.would_store(A));
        assert_eq!((poll(), bell.rings()), (Poll::Ready(()), 1));
        // Nobody holds anything any more: the next one asks nobody.
        world.on_cpu(0);
        world.take_asked();
        let number = world.memory.flush_everywhere();
        assert!(world.memory.has_flushed_everywhere(number));
        assert_eq!(world.take_asked(), []);
        put_back(&world, &space, A, before);
    }
}

#[test]
fn spaces_that_are_not_loaded_lose_their_pcids() {
    let world = World::with(128, |_| {}, 4);
    let (a, b) = (loaded(&world, 2), world.space());
    b.map_region(at(A), PAGE_SIZE, RW).unwrap();
    world.store(&a, A, 1).unwrap();
    world.store(&b, A, 2).unwrap();
    let before = entry(&world, &a, A);
    take_out(&world, &a, A);
    let number = world.memory.flush_everywhere();
    assert!(world.memory.has_flushed_everywhere(number));
    // The space comes back under a PCID that is flushed as it is loaded.
    world.take_asked();
    world.memory.switch_to(&a);
    assert!(matches!(world.take_asked()[..], [Asked::Root { keep: false, .. }]));
    assert!(!world.would_store(A));
    put_back(&world, &a, A, before);
    assert_eq!(world.load(&b, A), Ok(2));
}

#[test]
fn a_cpu_that_loads_a_space_meanwhile_is_not_waited_for() {
    let world = World::new(64);
    let space = loaded(&world, 2);
    world.on_cpu(1);
    world.memory.switch_to(&space);
    world.on_cpu(0);
    let number = world.memory.flush_everywhere();
    assert!(!world.memory.has_flushed_everywhere(number), "CPU 1 has not answered");
    world.on_cpu(2);
    world.memory.switch_to(&space);
    world.on_cpu(1);
    world.deliver();
    assert!(
        world.memory.has_flushed_everywhere(number),
        "what CPU 2 has cached, it has read from the changed tables"
    );
}

#[test]
fn what_was_quarantined_is_free_after_it() {
    for pcids in [0, 4] {
        let world = World::with(64, |_| {}, pcids);
        let space = loaded(&world, 4);
        world.on_cpu(1);
        world.memory.switch_to(&space);
        world.on_cpu(0);
        space.unmap(at(A), 2 * PAGE_SIZE).unwrap();
        assert_eq!(world.account().quarantined, 2);
        let number = world.memory.flush_everywhere();
        world.deliver_all();
        assert!(world.memory.has_flushed_everywhere(number));
        assert_eq!(world.account().quarantined, 0);
    }
}

#[test]
fn more_futures_than_there_is_room_for_ask_again() {
    let world = World::new(64);
    let space = loaded(&world, 1);
    world.on_cpu(1);
    world.memory.switch_to(&space);
    world.on_cpu(0);
    let number = world.memory.flush_everywhere();
    let bells = [(); 20].map(|()| Arc::new(Bell::default()));
    for bell in &bells {
        assert!(
            !world
                .memory
                .poll_flushed_everywhere(number, &Waker::from(Arc::clone(bell)))
        );
    }
    world.on_cpu(1);
    world.deliver();
    assert!(bells.iter().all(|bell| bell.rings() == 1));
}
