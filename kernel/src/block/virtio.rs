//! Virtio disks: the driver ([`VirtioBlock`]), its memory, its interrupt and its task.
//!
//! All virtio disks share one line of the 8259 pair, which a PIIX3 raises for any interrupt pin, by level. The handler asks
//! each disk whether the interrupt is its own, which lets the disk take it back, and wakes the disks' tasks. It meets no
//! lock that is held: interrupts come only in user mode, when the CPU is idle, and between two turns of the executor.
//!
//! The task completes what is done, makes requests of what waits and notifies the disk once, so that everything that one
//! turn of the executor starts goes together. A disk that has not answered a transfer for longer than its time limit is
//! reset and given up.

use core::convert::Infallible;
use core::ptr::NonNull;

use faultline_drivers::X86Ports;
use faultline_drivers::pci::{ConfigurationPorts, enable_interrupts, find_virtio, route_interrupts};
use faultline_drivers::virtio::transport::pci::PciTransport;
use faultline_drivers::virtio::transport::pci::bus::PciRoot;
use faultline_drivers::virtio::transport::{DeviceType, Transport};
use faultline_drivers::virtio::{BufferDirection, Hal, PhysAddr};
use faultline_drivers::virtio_block::{DeathOf, VirtioBlock};
use faultline_executor::{Class, yield_now};
use faultline_mm::{BlockDevice, Transfer, TransferResult};
use spin::{Mutex, Once};

use super::{Bell, Driver, MOST, Tally};
use crate::arch::{cpu, interrupts};
use crate::config::disk::Parameters;
use crate::layout::PHYSICAL_MEMORY;
use crate::machine::{executor, memory};
use crate::memory::{PAGE, phys_to_virt};
use crate::time;

/// The line that all disks interrupt by.
const LINE: u8 = 11;

/// Transfers that one poll of the task completes before others have their turn.
const TRANSFERS_A_POLL: usize = 64;

/// Who looks when the line is raised.
static RAISED: [Once<&'static dyn Raised>; MOST] = [const { Once::new() }; MOST];

trait Raised: Sync {
    fn interrupt(&self);
}

/// The disks of the bus, as far as they were taken.
#[derive(Default)]
pub struct Bus {
    taken: usize,
}

impl Bus {
    /// Makes the next one a disk of this name.
    ///
    /// # Panics
    /// If there is none, or it does not work.
    pub fn next(&mut self, name: &'static str, parameters: &Parameters) -> &'static dyn Driver {
        self.open(name, parameters)
            .unwrap_or_else(|why| panic!("disk {name}: {why}"))
    }

    fn open(&mut self, name: &'static str, parameters: &Parameters) -> Result<&'static dyn Driver, &'static str> {
        // SAFETY: ring 0; nothing else in this kernel uses the configuration ports meanwhile.
        let mut root = PciRoot::new(unsafe { ConfigurationPorts::new() });
        let found = find_virtio(&mut root, DeviceType::Block, self.taken)
            .map_err(|_| "a PCI device describes itself wrongly")?;
        let function = found.ok_or("the machine has no virtio disk for it")?;
        let mut transport = PciTransport::new::<DeviceMemory, _>(&mut root, function)
            .map_err(|_| "the device does not have the modern interface")?;
        if self.taken == 0 {
            // SAFETY: ring 0; these ports belong to nobody else.
            let mut ports = unsafe { X86Ports::new() };
            if !route_interrupts(&mut root, &mut ports, LINE) {
                return Err("the machine has no PIIX3 to route its interrupt");
            }
            interrupts::set_handler(LINE, || {
                RAISED.iter().filter_map(Once::get).for_each(|disk| disk.interrupt())
            });
        }
        let made = match transport.max_queue_size(0) {
            256.. => make::<256>(name, transport, parameters, self.taken),
            64.. => make::<64>(name, transport, parameters, self.taken),
            16.. => make::<16>(name, transport, parameters, self.taken),
            _ => Err("its queue has fewer than 16 descriptors"),
        }?;
        enable_interrupts(&mut root, function);
        self.taken += 1;
        Ok(made)
    }
}

/// A disk with a queue of `N` descriptors.
struct VirtioDisk<const N: usize> {
    name: &'static str,
    sectors: u64,
    is_read_only: bool,
    /// How long a transfer may take, in nanoseconds.
    limit: u64,
    state: Mutex<VirtioBlock<DeviceMemory, PciTransport, N>>,
    bell: Bell,
    tally: Tally,
}

#[allow(clippy::disallowed_types, reason = "it runs before the first program")]
fn make<const N: usize>(
    name: &'static str,
    transport: PciTransport,
    parameters: &Parameters,
    index: usize,
) -> Result<&'static dyn Driver, &'static str> {
    use crate::startup::Box;

    let in_memory = |address: x86_64::PhysAddr| {
        // The map of physical memory starts in the kernel half, so no address in it is null.
        NonNull::new(phys_to_virt(address.as_u64())).unwrap_or(NonNull::dangling())
    };
    let driver = VirtioBlock::new(transport, in_memory).map_err(|_| "the device could not be started")?;
    let disk: &'static VirtioDisk<N> = Box::leak(Box::new(VirtioDisk {
        name,
        sectors: driver.sectors(),
        is_read_only: driver.is_read_only() || parameters.read_only,
        limit: parameters.limit(),
        state: Mutex::new(driver),
        bell: Bell::default(),
        tally: Tally::default(),
    }));
    RAISED[index].call_once(|| disk);
    let task = executor().spawn("virtio disk", Class::Device, serve(disk));
    task.expect("the first tasks have room").detach();
    Ok(disk)
}

impl<const N: usize> Driver for VirtioDisk<N> {
    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn give_up(&self) {
        self.state.lock().give_up();
        self.bell.ring();
    }
}

impl<const N: usize> Raised for VirtioDisk<N> {
    fn interrupt(&self) {
        if self.state.lock().acknowledge() {
            self.bell.ring();
        }
    }
}

impl<const N: usize> BlockDevice for VirtioDisk<N> {
    fn name(&self) -> &str {
        self.name
    }

    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn start(&self, transfer: Transfer) {
        if let Some(transfer) = self.tally.start(transfer, self) {
            self.state.lock().push(transfer);
            self.bell.ring();
        }
    }
}

/// The disk's task.
async fn serve<const N: usize>(disk: &'static VirtioDisk<N>) -> Infallible {
    // When the oldest transfer is looked for. While transfers come and go it is not moved, which costs nothing; it is then
    // found to be early.
    let mut check = u64::MAX;
    loop {
        let now = time::now();
        if now >= check {
            check = disk.check(now);
        }
        let mut completed = 0;
        while let Some((transfer, result)) = disk.take() {
            disk.tally.complete(transfer, result);
            completed += 1;
            if completed == TRANSFERS_A_POLL {
                completed = 0;
                disk.state.lock().fill(time::now());
                yield_now().await;
            }
        }
        let waits = {
            let mut state = disk.state.lock();
            state.fill(now);
            state.in_queue() > 0
        };
        check = match waits {
            true => check.min(now.saturating_add(disk.limit)),
            false => u64::MAX,
        };
        disk.bell.wait_until(check).await;
    }
}

impl<const N: usize> VirtioDisk<N> {
    fn take(&self) -> Option<(Transfer, TransferResult)> {
        self.state.lock().take()
    }

    /// Gives the disk up if its oldest transfer has been there for too long. Returns when to look again.
    #[cold]
    fn check(&self, now: u64) -> u64 {
        let mut state = self.state.lock();
        let due = state
            .oldest()
            .map_or(u64::MAX, |since| since.saturating_add(self.limit));
        if due > now {
            return due;
        }
        state.give_up();
        if state.death() == Some(DeathOf::Silent) {
            ::log::error!(
                "disk {} did not answer for {} ms, and was given up",
                self.name,
                self.limit / 1_000_000
            );
        }
        u64::MAX
    }
}

/// The memory of queues: pinned frames.
#[derive(Debug)]
enum DeviceMemory {}

// SAFETY: 1. pages come from the frame allocator, are pinned and never given back, so they alias nothing, and are zeroed
// here; 2. all physical memory, and with it what lies in PCI's part of the first 4 GiB, is mapped at PHYSICAL_MEMORY for
// ever.
unsafe impl Hal for DeviceMemory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let order = pages.next_power_of_two().trailing_zeros() as u8;
        let Ok(run) = memory().frames().allocate_contiguous(order, cpu::index()) else {
            return (0, NonNull::dangling());
        };
        let address = run.address().as_u64();
        let Some(start) = NonNull::new(phys_to_virt(address)) else {
            return (0, NonNull::dangling());
        };
        // SAFETY: the run is this function's alone.
        unsafe { start.write_bytes(0, run.len() * PAGE as usize) };
        run.pin();
        (address, start)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(phys_to_virt(address)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        // Queues, headers, statuses and frames all lie in the map of physical memory.
        buffer.cast::<u8>().as_ptr() as u64 - PHYSICAL_MEMORY
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
