//! A machine for tests: physical memory in a buffer, one list of what was asked of the hardware, one list of events.

use core::future::Future;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use faultline_trace::Kind;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::hardware::ModelledTlb;
use crate::frame::{FrameAccount, FrameAllocator, FrameMeta};
use crate::*;

/// What the hardware was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Page(u64),
    Root { root: u64, pcid: u16, keep: bool },
    Shootdown(u64),
}

pub struct Machine {
    /// The buffer, owned; a pointer, so that nothing is ever concluded from a reference to all of it.
    memory: *mut [u64],
    pub cpu: AtomicUsize,
    pub pcids: u16,
    pub asked: Mutex<Vec<Asked>>,
    pub events: Mutex<Vec<(Kind, u64)>>,
    /// What each CPU has cached, for tests whose accesses go through it.
    pub tlbs: Mutex<[ModelledTlb; MAX_CPUS]>,
    /// CPUs that were asked to flush and have not.
    pub interrupts: AtomicU64,
    /// Called once by the next load of a root, at the latest moment.
    pub on_load: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

// SAFETY: the buffer is only touched through pointers, by the rules of `Platform`.
unsafe impl Sync for Machine {}
// SAFETY: as above; it belongs to no thread.
unsafe impl Send for Machine {}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box, and the machine's memory is not used after it.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}

// SAFETY: 1. every address below the buffer's length is backed by it, aliased by no other; 2. the CPU is set by the
// test; 3. the machine caches no translations: what the flushes would cover is checked through `asked`.
unsafe impl Platform for Machine {
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        let offset = address.as_u64() as usize;
        assert!(
            offset < self.memory.len() * 8,
            "{address:?} is beyond the machine's memory"
        );
        self.memory.cast::<u8>().wrapping_add(offset)
    }

    fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }

    fn invalidate_page(&self, address: VirtAddr) {
        self.ask(Asked::Page(address.as_u64()));
        self.tlbs.lock().unwrap()[self.cpu()].invalidate_page(address.as_u64());
    }

    fn load_root(&self, root: PhysFrame, pcid: Pcid, keep: bool) {
        let root = root.start_address().as_u64();
        let hook = self.on_load.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.ask(Asked::Root {
            root,
            pcid: pcid.0,
            keep,
        });
        self.tlbs.lock().unwrap()[self.cpu()].load_root(root, pcid.0, keep);
    }

    fn pcids(&self) -> u16 {
        self.pcids
    }

    fn shootdown(&self, cpus: u64) {
        self.ask(Asked::Shootdown(cpus));
        self.interrupts.fetch_or(cpus, Ordering::Relaxed);
    }

    fn trace(&self, kind: Kind, _: u64, _: u64, a: u64, _: u64) {
        let mut events = self.events.lock().unwrap();
        if events.len() < KEPT {
            events.push((kind, a));
        }
    }
}

/// How many requests and events are kept for a test that does not take them.
const KEPT: usize = 10_000;

impl Machine {
    fn ask(&self, asked: Asked) {
        let mut list = self.asked.lock().unwrap();
        if list.len() < KEPT {
            list.push(asked);
        }
    }
}

pub type Vas = VirtualAddressSpace<Machine>;

/// A machine's memory for one test. Checks at its end that nothing is in flight.
pub struct World {
    pub memory: &'static Memory<Machine>,
    raw: *mut Memory<Machine>,
    service: Mutex<FaultService<Machine>>,
}

pub const RW: Protection = Protection::READ_WRITE;
pub const R: Protection = Protection::READ;
pub const NONE: Protection = Protection::empty();
pub const MIB: u64 = 1 << 20;

pub fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

/// Frame 1 is the kernel's template; the frames from 2 on are the allocator's.
const KERNEL_ROOT: u64 = 0x1000;

impl World {
    pub fn new(frames: u32) -> Self {
        Self::with(frames, |_| {}, 0)
    }

    pub fn with(frames: u32, configure: impl FnOnce(&mut MemoryConfig), pcids: u16) -> Self {
        let total = frames as usize + 2;
        // Miri makes zeros at once, and anything else word by word.
        let poison: u64 = if cfg!(miri) { 0 } else { 0xdead_beef_dead_beef };
        let machine = Machine {
            memory: Box::into_raw(std::vec![poison; total * 512].into_boxed_slice()),
            cpu: AtomicUsize::new(0),
            pcids,
            asked: Mutex::new(Vec::new()),
            events: Mutex::new(Vec::new()),
            tlbs: Mutex::default(),
            interrupts: AtomicU64::new(0),
            on_load: Mutex::new(None),
        };
        let template = machine.phys_to_virt(PhysAddr::new(KERNEL_ROOT)).cast::<u64>();
        for slot in 0..512 {
            // SAFETY: the template's frame is in the buffer.
            unsafe { template.add(slot).write(if slot < 256 { 0 } else { 0x1003 }) };
        }
        let metadata: &'static mut [FrameMeta] = Box::leak((0..total).map(|_| FrameMeta::new()).collect());
        let end = PhysAddr::new(total as u64 * PAGE_SIZE);
        let frames = FrameAllocator::new(metadata, [PhysAddr::new(2 * PAGE_SIZE)..end], MAX_CPUS);
        let mut config = MemoryConfig::new(PhysFrame::containing_address(PhysAddr::new(KERNEL_ROOT)));
        config.fault_slots = 64;
        config.watermarks = Some(Watermarks::NONE);
        configure(&mut config);
        let raw = Box::into_raw(Box::new(Memory::new(machine, frames, config)));
        // SAFETY: the box is reclaimed in `drop`, after every space of the test is gone.
        let memory = unsafe { &*raw };
        Self {
            memory,
            raw,
            service: Mutex::new(memory.fault_service()),
        }
    }

    pub fn space(&self) -> Vas {
        let space = Vas::new(self.memory);
        space.init().unwrap();
        space
    }

    /// Makes the attempt with no allocation that succeeds, with one, and so on, until none fails. `failed` looks at every
    /// attempt but the last, and is told how many allocations had succeeded. Returns what the last came to, and how many
    /// failed.
    pub fn fail_each<T>(&self, mut attempt: impl FnMut() -> T, mut failed: impl FnMut(T, u64)) -> (T, u64) {
        for successes in 0.. {
            self.memory.frames().fail_after(successes);
            let result = attempt();
            if self.memory.frames().fail_never() == 0 {
                return (result, successes);
            }
            failed(result, successes);
        }
        unreachable!("an attempt makes no more than 2^64 allocations")
    }

    pub fn account(&self) -> FrameAccount {
        let mut account = self.memory.account();
        assert!(account.is_conserved(), "{account}");
        // Which list a free frame is on depends on what was done before, and concerns nobody.
        account.free += core::mem::take(&mut account.cached) + core::mem::take(&mut account.zeroed);
        account
    }

    /// Frames that nobody uses.
    pub fn free(&self) -> u64 {
        let account = self.account();
        account.free
    }

    pub fn serve(&self) {
        self.serve_with(Waker::noop());
    }

    /// Polls the service once.
    pub fn serve_with(&self, waker: &Waker) {
        let mut service = self.service.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = Pin::new(&mut *service).poll(&mut Context::from_waker(waker));
    }

    pub fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Runs a future to its end, with the service beside it. If it has not ended soon, it waits for other CPUs, which take
    /// their interrupts.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        const SOON: usize = 3;
        let mut future = pin!(future);
        for turn in 0..10_000 {
            if let Poll::Ready(output) = self.poll(future.as_mut()) {
                return output;
            }
            self.serve();
            if turn > SOON {
                self.deliver_all();
            }
        }
        panic!("a future did not end");
    }

    pub fn fault(&self, space: &Vas, address: u64, access: Access) -> FaultResult {
        self.run(space.handle_page_fault(FaultInfo::user(address, access)))
    }

    /// What user mode does: access, fault, access again.
    pub fn touch(&self, space: &Vas, address: u64, access: Access) -> Result<(), FaultError> {
        for _ in 0..8 {
            if space.is_mapped_for(address, access) {
                return Ok(());
            }
            self.fault(space, address, access)?;
        }
        panic!("an access at {address:#x} faults for ever");
    }

    pub fn write(&self, space: &Vas, address: u64, value: u64) -> Result<(), FaultError> {
        self.run(space.write_user(address, &value.to_le_bytes()))
            .map_err(|error| error.cause)
    }

    pub fn read(&self, space: &Vas, address: u64) -> Result<u64, FaultError> {
        let mut bytes = [0; 8];
        self.run(space.read_user(address, &mut bytes))
            .map_err(|error| error.cause)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn take_asked(&self) -> Vec<Asked> {
        core::mem::take(&mut self.memory.platform().asked.lock().unwrap())
    }

    pub fn take_events(&self) -> Vec<Kind> {
        let events = core::mem::take(&mut *self.memory.platform().events.lock().unwrap());
        events.into_iter().map(|(kind, _)| kind).collect()
    }

    pub fn on_cpu(&self, cpu: usize) {
        self.memory.platform().cpu.store(cpu, Ordering::Relaxed);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What is left may be in any state; a second panic would hide the first.
            return;
        }
        assert_eq!(self.memory.faults_in_flight(), 0, "a fault slot is still in use");
        self.account();
        self.memory.frames().audit().expect("the account matches the frames");
        for cpu in 0..MAX_CPUS {
            self.on_cpu(cpu);
            self.memory.leave_spaces();
            // Spaces that were destroyed and still have a PCID here go now, while there is memory to go back to.
            self.memory.acknowledge();
        }
        // SAFETY: made by `Box::into_raw`; no space, future or service of this machine is used after this.
        let memory = unsafe { Box::from_raw(self.raw) };
        // SAFETY: `leak` made the slice from a box.
        drop(unsafe { Box::from_raw(memory.frames.into_metadata()) });
    }
}

/// A file in memory for tests: whole pages may be resident.
pub struct TestFile {
    pub content: Vec<u8>,
    pub frames: Vec<Option<PhysFrame>>,
    pub fails: bool,
}

impl TestFile {
    pub fn new(content: Vec<u8>) -> Self {
        let pages = content.len().div_ceil(4096);
        Self {
            content,
            frames: std::vec![None; pages],
            fails: false,
        }
    }
}

impl PageSource for TestFile {
    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    fn resident(&self, index: u64) -> Option<PhysFrame> {
        self.frames.get(index as usize).copied().flatten()
    }

    fn fill(&self, index: u64, page: &mut [u8; 4096]) -> Result<(), FillError> {
        if self.fails {
            return Err(FillError { index });
        }
        let rest = &self.content[index as usize * 4096..];
        let count = rest.len().min(4096);
        page.fill(0);
        page[..count].copy_from_slice(&rest[..count]);
        Ok(())
    }
}

/// A file as a region has it.
pub fn source(file: impl PageSource + 'static) -> faultline_fallible::Arc<dyn PageSource> {
    let file = faultline_fallible::Arc::try_new(file).expect("the host has memory");
    faultline_fallible::unsize!(file => dyn PageSource)
}
