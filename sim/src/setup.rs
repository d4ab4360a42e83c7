//! The beginning and the end of a world.

use faultline_executor::Class;
use faultline_mm::{FrameAllocator, Memory, MemoryConfig, MemoryObject, PAGE_SIZE, VirtualAddressSpace, Watermarks};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::disk;
use crate::machine::{KERNEL_ROOT, RESERVED, Virtual};
use crate::model::{FILE_PAGES, Pages, SHARED_PAGES};
use crate::ramdisk::File;
use crate::swap;
use crate::world::{SpaceRecord, fail, world};

/// Builds memory, and starts the tasks of the kernel and the first process.
pub(crate) fn set_up() {
    let world = world();
    let settings = *world.settings();
    for slot in 256..512 {
        let word = world.physical.word(KERNEL_ROOT + slot * 8);
        word.store(KERNEL_ROOT | 3, std::sync::atomic::Ordering::Relaxed);
    }
    let end = PhysAddr::new(u64::from(settings.frames) * PAGE_SIZE);
    let start = PhysAddr::new(u64::from(RESERVED) * PAGE_SIZE);
    let frames = FrameAllocator::new(world.physical.metadata(), [start..end], settings.cpus);
    if let Err(error) = frames.pin_range(PhysAddr::new(KERNEL_ROOT)..start) {
        fail(format!("the kernel's root can't be pinned: {error}"));
    }
    frames.set_zeroed_target(settings.zeroed);
    let mut config = MemoryConfig::new(PhysFrame::containing_address(PhysAddr::new(KERNEL_ROOT)));
    config.fault_slots = settings.slots;
    config.fault_around = 4;
    config.run_ahead = settings.run_ahead;
    config.fault_mode = settings.mode;
    config.object_reads = 2;
    config.watermarks = Some(Watermarks {
        reserve: settings.reserve,
        low: 2 * settings.reserve,
        high: 3 * settings.reserve,
    });
    // Freed in `tear_down`, after everything that refers to it.
    let memory: &'static Memory<Virtual> = Box::leak(Box::new(Memory::new(Virtual, frames, config)));
    world.memory.set(Some(memory));

    let resident = (0..FILE_PAGES).map(|page| {
        let frame = (page & 2 != 0)
            .then(|| memory.frames().allocate(0).ok())
            .flatten()?
            .pin();
        for word in 0..512 {
            let address = frame.address().as_u64() + word * 8;
            world
                .physical
                .word(address)
                .store(0, std::sync::atomic::Ordering::Relaxed);
        }
        world
            .physical
            .set_value(frame.address().as_u64(), crate::model::file_value(page));
        Some(frame)
    });
    let file = File {
        resident: resident.collect(),
    };
    *world.file.borrow_mut() = faultline_fallible::Arc::try_new(file).ok();
    let shared = MemoryObject::new(memory.frames(), u64::from(SHARED_PAGES) * PAGE_SIZE);
    *world.shared.borrow_mut() = shared.ok();
    *world.on_disk.borrow_mut() = disk::open();

    let processes = world.script.processes.len();
    world.model.borrow_mut().spaces = vec![Pages::new(); processes];
    world.spaces.borrow_mut().resize_with(processes, SpaceRecord::default);
    // Turns that find nothing leave every queue as the last world left it.
    for cpu in 0..settings.cpus {
        world.current.set(cpu);
        let _ = world.executor.turn(cpu);
    }
    world.current.set(0);
    let service = async { match memory.fault_service().await {} };
    spawn_service(0, "fault service", Class::FaultService, service);
    if settings.swap > 0 {
        swap::switch_on();
        let reclaimer = async { match memory.reclaimer().await {} };
        spawn_service(0, "reclaimer", Class::Device, reclaimer);
    }
    if settings.zeroed > 0 {
        world.start_zeroing();
    }
    if processes > 0 {
        let vas = VirtualAddressSpace::new(memory);
        if let Err(error) = vas.init() {
            fail(format!("the first space can't be made: {error}"));
        }
        world.register(0, vas, Pages::new());
        world.start_thread(0, 0);
    }
}

fn spawn_service(cpu: usize, name: &'static str, class: Class, future: impl Future<Output = ()> + Send + 'static) {
    match world().executor.spawn_on(cpu, name, class, future) {
        Ok(handle) => world().service.borrow_mut().push(handle),
        Err(error) => fail(format!("the {name} can't be spawned: {error}")),
    }
}

/// Ends what is left, and checks that nothing is missing.
pub(crate) fn tear_down() {
    let world = world();
    world.check_settled();
    for handle in world.service.take() {
        handle.cancel();
        drop(handle);
    }
    drop(world.handles.take());
    for cpu in 0..world.cpus.len() {
        world.current.set(cpu);
        while !world.executor.turn(cpu).idle {}
    }
    world.current.set(0);
    for process in 0..world.script.processes.len() {
        world.end_process(process);
    }
    let memory = world.memory();
    for cpu in 0..world.cpus.len() {
        world.current.set(cpu);
        memory.leave_spaces();
        world.cpus[cpu].flush_asked.set(false);
        memory.acknowledge();
    }
    world.current.set(0);
    drop(world.shared.take());
    drop(world.on_disk.take());
    while memory.give_back_left(1) {}
    if let Some(file) = world.file.take() {
        for &frame in file.resident.iter().flatten() {
            match memory.frames().unpin(frame, 0) {
                Ok(frame) => frame.free(),
                Err(error) => fail(format!("a page of the file is still mapped: {error}")),
            }
        }
    }
    world.check_swap_end();
    // The zero frame and the kernel's root.
    world.check_end(2);
    world.memory.set(None);
    let memory: *const Memory<Virtual> = memory;
    // SAFETY: leaked in `set_up`; the service, every space and every fault are gone, and nobody else has a reference.
    drop(unsafe { Box::from_raw(memory.cast_mut()) });
}
