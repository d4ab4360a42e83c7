//! The machine's disks, by name.
//!
//! Every disk is a [`BlockDevice`]: a virtio disk ([`virtio`]) or a model in memory ([`model`]). The configuration lists
//! them in the order of their names: `vda`, `vdb`, and so on, whatever they are. They are made once, before the first
//! program, and stay. Each has a task of the device class that completes its transfers; the task waits at a [`Bell`], which
//! whoever starts a transfer rings, and an interrupt.

mod buffers;
mod model;
mod tally;
mod virtio;

use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;

use faultline_mm::{BlockDevice, SECTOR_SIZE};
use futures_util::task::AtomicWaker;
use spin::Once;

use crate::config::{Config, DiskSource};
use crate::memory::{BootMemory, PAGE, PhysRange};
use crate::time;

pub use buffers::read;
pub use tally::Tally;

/// Disks at most: one for each letter.
pub const MOST: usize = 26;

/// A disk.
pub struct Disk {
    /// What moves its sectors.
    pub device: &'static dyn BlockDevice,
    /// What it has done.
    pub tally: &'static Tally,
    driver: &'static dyn Driver,
    /// Whether the configuration names it as the swap area.
    pub is_swap: bool,
    /// Whether what its file system has is to be seen below `/`, too.
    pub is_root: bool,
    /// Its place among the disks.
    pub index: usize,
}

/// What a disk of either kind is to this module.
trait Driver: BlockDevice {
    /// What it has done.
    fn tally(&self) -> &Tally;

    /// Gives it up: whatever it has fails.
    fn give_up(&self);
}

impl Disk {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.device.sectors() * SECTOR_SIZE
    }
}

#[allow(clippy::disallowed_types, reason = "made before the first program")]
static DISKS: Once<crate::startup::Vec<Disk>> = Once::new();

/// The memory of models, in their order.
#[allow(clippy::disallowed_types, reason = "made before the first program")]
static RESERVED: Once<crate::startup::Vec<PhysRange>> = Once::new();

/// Names, in the order of the disks.
const NAMES: [&str; MOST] = [
    "vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh", "vdi", "vdj", "vdk", "vdl", "vdm", "vdn", "vdo", "vdp",
    "vdq", "vdr", "vds", "vdt", "vdu", "vdv", "vdw", "vdx", "vdy", "vdz",
];

/// Takes memory for the models that are to be, before the frame allocator takes it all.
///
/// # Panics
/// If the machine has too little.
pub fn reserve(memory: &mut BootMemory, config: &Config) {
    let sizes = config.disks.iter().filter_map(|disk| match disk.source {
        DiskSource::Memory(size) => Some(size),
        _ => None,
    });
    let carve = |size: u64| {
        let range = memory.carve(size.next_multiple_of(PAGE));
        range.unwrap_or_else(|| {
            panic!(
                "too little memory: no room for a modelled disk of {} KiB; give the machine more",
                size >> 10
            )
        })
    };
    RESERVED.call_once(|| sizes.map(carve).collect());
}

/// Makes the disks that the configuration names, whose files lie in `archive`.
///
/// # Panics
/// If one of them is not there or does not work: a run without it would be another one than was asked for.
#[allow(clippy::disallowed_types, reason = "it runs before the first program")]
pub fn start(config: &Config, archive: &'static [u8]) {
    assert!(config.disks.len() <= MOST, "there are more than {MOST} disks");
    let mut bus = virtio::Bus::default();
    let mut reserved = RESERVED.get().into_iter().flatten();
    let mut disks = crate::startup::Vec::with_capacity(config.disks.len());
    for (index, disk) in config.disks.iter().enumerate() {
        let (name, parameters) = (NAMES[index], &disk.parameters);
        let driver = match &disk.source {
            DiskSource::Virtio => bus.next(name, parameters),
            DiskSource::Memory(size) => {
                let range = reserved.next().expect("memory was reserved for every model");
                model::in_memory(name, *range, *size, parameters)
            }
            DiskSource::Archive(path) => {
                let file = cpio_reader::iter_files(archive).find(|entry| entry.name().trim_end_matches('\0') == path);
                let file = file.unwrap_or_else(|| panic!("disk {name}: the ramdisk has no file {path}"));
                model::of_file(name, file.file(), parameters)
            }
        };
        ::log::info!(
            "disk {name}: {} KiB{}{}{}",
            driver.sectors() / 2,
            if disk.source == DiskSource::Virtio {
                ""
            } else {
                ", a model"
            },
            if driver.is_read_only() { ", read-only" } else { "" },
            if disk.is_swap { ", for swap" } else { "" },
        );
        disks.push(Disk {
            device: driver,
            tally: driver.tally(),
            driver,
            is_swap: disk.is_swap,
            is_root: disk.parameters.root,
            index,
        });
    }
    if !disks.is_empty() {
        buffers::start();
    }
    DISKS.call_once(|| disks);
}

/// All disks, in the order of their names.
pub fn all() -> &'static [Disk] {
    DISKS.get().map_or(&[], |disks| disks.as_slice())
}

/// Whether no disk has anything to do.
pub fn is_idle() -> bool {
    all().iter().all(|disk| disk.tally.in_flight() == 0)
}

/// Gives up every disk that has something to do still: nobody is left who could wait for it.
pub fn give_up_busy() {
    for disk in all().iter().filter(|disk| disk.tally.in_flight() > 0) {
        ::log::error!(
            "disk {} was given up with transfers that it did not end",
            disk.device.name()
        );
        disk.driver.give_up();
    }
}

/// The disk of this name; `swap` is the first one that is the swap area.
pub fn find(name: &str) -> Option<&'static Disk> {
    all()
        .iter()
        .find(|disk| disk.device.name() == name || disk.is_swap && name == "swap")
}

/// Where a disk's task waits for something to do.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    /// There is something to do.
    fn ring(&self) {
        // A task that has not seen the last ring will see this one with it.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    /// Waits for a ring, or for a time; `u64::MAX` for none.
    async fn wait_until(&self, deadline: u64) {
        let mut is_registered = false;
        let rung = poll_fn(|context| {
            // Only a ring takes the waker away again, and a task has the same one in every poll.
            if !is_registered {
                is_registered = true;
                self.task.register(context.waker());
            }
            match self.rung.swap(false, Ordering::AcqRel) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        // Which of the two it was does not matter.
        let _ = time::timeout(deadline, rung).await;
    }
}
