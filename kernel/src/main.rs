//! The Faultline kernel.
//!
//! An ordinary `bootloader_api` kernel: the boot stage enters [`main`] with a [`BootInfo`], and the kernel knows nothing
//! else of what booted it. Start-up runs on the boot stack with interrupts off, in the order of [`main`]'s lines.
#![no_std]
#![no_main]

mod arch;
mod audit;
mod block;
mod config;
mod console;
mod cpus;
mod exec;
mod executor_costs;
mod floor;
mod fs;
mod heap;
mod ipc;
mod layout;
mod local;
mod log;
mod machine;
mod memory;
mod net;
mod output;
mod panic;
mod process;
mod report;
mod scenario;
mod selftest;
mod shortage;
mod signal;
mod startup;
mod statistics;
mod swap;
mod syscall;
mod terminal;
mod time;
mod tracing;
mod trap_test;
mod virtio_ports;
mod waker;

use bootloader_api::BootInfo;
use faultline_drivers::exit::{Exit, exit};

use crate::config::{Config, SelfTest};
use crate::memory::BootMemory;

bootloader_api::entry_point!(main, config = &layout::BOOT_CONFIG);

fn main(boot_info: &'static mut BootInfo) -> ! {
    // SAFETY: this is the boot CPU's first code, in ring 0 with interrupts off, and each step runs once and in the
    // order that the steps ask for.
    let (mut memory, survey) = unsafe {
        arch::init_boot_cpu();
        console::start();
        arch::clock::start();
        log::start();
        ::log::info!("Faultline {} on {}", env!("CARGO_PKG_VERSION"), arch::features::brand());

        let mut memory = BootMemory::new(&boot_info.memory_regions);
        let survey = arch::paging::start(&mut memory);
        heap::start(&mut memory);
        arch::apic::start();
        arch::interrupts::start();
        (memory, survey)
    };
    ::log::info!(
        "memory: {} MiB usable; kernel pages: {} executable, {} writable, {} read-only",
        memory.total() >> 20,
        survey.executable,
        survey.writable,
        survey.read_only,
    );

    let ramdisk = ramdisk(boot_info);
    let config = match read_config(ramdisk) {
        Ok(config) => config,
        Err(error) => {
            ::log::error!("{error}");
            end(Exit::KernelFailure)
        }
    };
    if config.split_console {
        console::split();
    }
    // SAFETY: clock, APIC and interrupt controller are started, and this runs once.
    unsafe { arch::alarm::start() };
    ::log::info!(
        "time-stamp counter at {} kHz, alarms by {}",
        arch::clock::counter_hz() / 1000,
        arch::alarm::device()
    );
    // SAFETY: this is the boot CPU; its APIC and alarm are set up, and the boot stage has the address from the firmware.
    let cpus = unsafe { arch::smp::start(boot_info.rsdp_addr.into_option(), config.cpus, &mut memory) };
    if cpus > 1 {
        ::log::info!("{cpus} CPUs");
    }
    // SAFETY: the heap is made, and interrupts are off.
    unsafe { arch::pages::choose() };
    match config.selftest {
        None | Some(SelfTest::LeakFrame | SelfTest::LatePanic | SelfTest::Stall) => {}
        Some(SelfTest::Traps) => trap_test::run(&mut memory),
        Some(how) => selftest::fail(how),
    }
    if config.floor {
        floor::measure(&mut memory);
    }
    let archive_at = arch::paging::physical_run(ramdisk);
    virtio_ports::find(&mut memory);
    if config.split_console {
        output::start(&mut memory);
    }
    tracing::reserve(&mut memory, &config);
    block::reserve(&mut memory, &config);
    machine::start(memory, &config);
    scenario::run(&config, ramdisk, archive_at)
}

/// The bundle that the boot stage loaded; empty if there is none.
fn ramdisk(boot_info: &BootInfo) -> &'static [u8] {
    match boot_info.ramdisk_addr.into_option() {
        // SAFETY: the boot stage maps the ramdisk here, for good, and nothing writes to it.
        Some(address) => unsafe { core::slice::from_raw_parts(address as *const u8, boot_info.ramdisk_len as usize) },
        None => &[],
    }
}

fn read_config(ramdisk: &[u8]) -> Result<Config, config::ConfigError> {
    let file = cpio_reader::iter_files(ramdisk).find(|entry| entry.name().trim_end_matches('\0') == "boot/config");
    Config::parse(file.map_or(&[], |entry| entry.file()))
}

/// Ends the run.
pub fn end(how: Exit) -> ! {
    // SAFETY: ring 0; output is sent when it is written, so nothing is pending.
    unsafe { exit(how) };
    arch::cpu::halt()
}
