//! Case 24: random operations on several spaces, against a reference that has one record for each page.
//!
//! After every step the regions of the space are compared; after every few steps every entry, every byte that was
//! written, every count and the conservation of frames. The same with each allocation of each operation failing once.
//!
//! `FAULTLINE_SEED` and `FAULTLINE_STEPS` override the seed and the number of steps.

mod operations;
mod reference;

use std::sync::Arc;
use std::vec::Vec;

use proptest::prelude::*;

use self::operations::Operation;
use self::reference::*;
use super::disk::Disk;
use super::machine::*;
use super::walk::Walk;
use crate::*;

/// How a run is made harder.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// Each operation is tried with each of its allocations failing.
    pub failures: bool,
    /// Accesses go through a modelled TLB, on changing CPUs.
    pub cpus: usize,
    pub pcids: u16,
    pub inline: bool,
    /// Pages leave for a swap area of so many pages, and come back.
    pub swap: u64,
    /// Calls work in steps as small as they can be, and others come in between.
    pub steps: bool,
}

/// A space and what it means.
pub struct Pair {
    pub space: Arc<Vas>,
    pub reference: Reference,
    /// Pages that another caller unmaps after the call that is being made.
    pub later: Option<(usize, usize)>,
}

pub struct Run {
    pub pairs: Vec<Pair>,
    pub objects: Objects,
    pub options: Options,
    pub disk: Option<faultline_fallible::Arc<Disk>>,
    value: u64,
    step: u64,
    /// Last, so that what refers to its memory is dropped before.
    pub world: World,
}

/// Spaces at most.
const SPACES: usize = 3;

impl Run {
    pub fn new(options: Options) -> Self {
        let configure = |config: &mut MemoryConfig| {
            if options.inline {
                config.fault_mode = FaultMode::Inline;
            }
            if options.steps {
                config.step = (2, 1);
                config.run_ahead = 8;
            }
        };
        let world = World::with(10_240, configure, options.pcids);
        let objects = Objects::new(&world);
        let mut run = Self {
            disk: (options.swap > 0).then(|| world.swap(options.swap)),
            world,
            objects,
            pairs: Vec::new(),
            options,
            value: 0,
            step: 0,
        };
        run.add_space();
        run
    }

    pub fn add_space(&mut self) {
        let space = Arc::new(self.world.space());
        let end = WINDOW + WINDOW_PAGES as u64 * PAGE_SIZE;
        space.set_heap_start(at(HEAP_START)).unwrap();
        space.set_mmap_start(at(WINDOW)).unwrap();
        space.set_stack_size(16 * PAGE_SIZE).unwrap();
        space.set_stack_top(at(end + MIB + 16 * PAGE_SIZE)).unwrap();
        let reference = Reference::new();
        self.pairs.push(Pair {
            space,
            reference,
            later: None,
        });
    }

    /// A value that was never written before.
    pub fn fresh_value(&mut self) -> u64 {
        self.value += 1;
        self.value
    }

    pub fn step(&mut self, operation: Operation) {
        self.step += 1;
        if self.options.cpus > 0 {
            self.world.on_cpu(usize::from(operation.cpu) % self.options.cpus);
        }
        self.apply(operation);
        self.apply_later();
        if self.options.cpus > 0 {
            self.world.check_no_translation_of_a_free_frame();
            // Other CPUs are slow: what they were asked to flush waits for a few operations of other spaces.
            if self.step.is_multiple_of(3) {
                self.world.deliver_all();
            }
        }
        for pair in &self.pairs {
            pair.reference.check_regions(&pair.space);
        }
        if self.step.is_multiple_of(32) {
            self.check();
        }
        if self.step.is_multiple_of(1024) {
            self.world.memory.frames().audit().unwrap();
        }
    }

    /// Everything: entries, content, counts.
    pub fn check(&self) {
        // Frames that wait for a flush belong to no walk: let every CPU flush first.
        if self.options.cpus > 0 {
            self.world.deliver_all();
        }
        for pair in &self.pairs {
            pair.reference.check_entries(&self.world, &pair.space, &self.objects);
            if let Some(disk) = &self.disk {
                pair.reference
                    .check_swapped(&self.world, &pair.space, &self.objects, disk);
            }
        }
        let walk = Walk::of(&self.world, self.pairs.iter().map(|pair| &*pair.space));
        walk.check_counts(&self.world, core::slice::from_ref(&self.objects.shared));
        assert_eq!(self.world.account().quarantined, 0, "everything was flushed");
    }

    /// Ends every space: nothing but the shared object's pages is left.
    pub fn end(mut self) {
        self.check();
        self.pairs.clear();
        assert_eq!(self.world.memory.swap_stats().used, 0);
        if self.options.cpus > 0 {
            self.world.deliver_all();
        }
        self.world.serve();
        let account = self.world.account();
        assert_eq!((account.page_tables, account.quarantined, account.reserved), (0, 0, 0));
        assert_eq!(account.mapped, self.objects.shared.resident() as u64);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.pairs.drain(..).for_each(core::mem::forget);
        }
    }
}

/// Numbers from a seed: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs `steps` random operations from each of `seeds` seeds; says which seed failed.
pub fn run(options: Options, seeds: u64, steps: u64) {
    let (first, seeds) = from_environment("FAULTLINE_SEED").map_or((1, seeds), |seed| (seed, 1));
    let steps = from_environment("FAULTLINE_STEPS").unwrap_or(steps);
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| {
            let mut random = Random::new(seed);
            let mut run = Run::new(options);
            for _ in 0..steps {
                run.step(Operation::from(random.next()));
            }
            run.end();
        });
        if let Err(panic) = result {
            std::eprintln!("this was FAULTLINE_SEED={seed} FAULTLINE_STEPS={steps}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn case_24_random_operations_agree_with_the_reference() {
    run(Options::default(), 20, 5_000);
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn case_24_served_inline_too() {
    let options = Options {
        inline: true,
        ..Options::default()
    };
    run(options, 2, 5_000);
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn case_24_in_steps_with_others_in_between() {
    let options = Options {
        steps: true,
        ..Options::default()
    };
    run(options, 8, 5_000);
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn random_operations_on_pages_that_are_swapped_agree_with_the_reference() {
    // A large area, and one that is full all the time.
    for swap in [4096, 60] {
        let options = Options {
            swap,
            ..Options::default()
        };
        run(options, 8, 5_000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn swapped_pages_in_steps_and_on_several_cpus_agree_with_the_reference() {
    let options = Options {
        swap: 500,
        ..Options::default()
    };
    let in_steps = Options { steps: true, ..options };
    run(in_steps, 4, 4_000);
    let cpus = Options {
        cpus: 3,
        pcids: 4,
        ..options
    };
    run(cpus, 4, 4_000);
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn every_allocation_of_every_operation_may_fail_with_swap() {
    let options = Options {
        failures: true,
        swap: 300,
        ..Options::default()
    };
    run(options, 3, 1_500);
}

#[test]
#[cfg_attr(miri, ignore = "long runs")]
fn case_24_every_allocation_of_every_operation_may_fail() {
    let options = Options {
        failures: true,
        ..Options::default()
    };
    run(options, 3, 1_500);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "thousands of frames")]
    fn case_24_short_histories_shrink(
        operations in prop::collection::vec(any::<u64>().prop_map(Operation::from), 1..200),
    ) {
        let mut run = Run::new(Options::default());
        for operation in operations {
            run.step(operation);
            run.check();
        }
        run.end();
    }
}
