//! The alarm: one interrupt at a time that was asked for, and none otherwise.
//!
//! Whoever needs the CPU at some time calls [`by`], which makes an interrupt come at that time or before; an interrupt that
//! comes early does no harm, so nothing is ever programmed later, and a time that is behind the one programmed costs a
//! comparison. [`only`] forgets all others: for a CPU that goes to sleep.
//!
//! The device is the local APIC's timer, with deadlines of the time-stamp counter where the processor has them, or the
//! interval timer where no APIC's timer counts. What each of them can't do in one go (the farthest times) is done in
//! several.
//!
//! Each CPU has its own; only the local APIC's timer can be one for each.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use faultline_drivers::{X86Ports, pit};

use super::clock::{counter, counter_hz, to_nanoseconds};
use super::interrupts::{self, TIMER_LINE};
use super::{apic, cpu};

/// No interrupt is wanted.
const NEVER: u64 = u64::MAX;

/// Between two interrupts user mode has at least this long, in nanoseconds, however many times are asked for.
const LEAST: u64 = 4_000;

/// Fraction bits of [`SCALE`].
const FRACTION: u32 = 32;

/// One CPU's alarm. Only that CPU writes to it.
#[derive(Debug)]
pub struct Alarm {
    /// When the next interrupt is wanted, by the time-stamp counter.
    target: AtomicU64,
    /// Interrupts so far that came because their time had.
    interrupts: AtomicU64,
    /// How much later than its time one came at the most, in counts.
    latest: AtomicU64,
}

impl Alarm {
    /// One that is not set.
    pub const fn new() -> Self {
        Self {
            target: AtomicU64::new(NEVER),
            interrupts: AtomicU64::new(0),
            latest: AtomicU64::new(0),
        }
    }
}

/// Counts of the time-stamp counter in [`LEAST`].
static LEAST_COUNTS: AtomicU64 = AtomicU64::new(0);
/// Counts of the device for a count of the time-stamp counter, as a fixed-point number.
static SCALE: AtomicU64 = AtomicU64::new(0);
static DEVICE: AtomicU8 = AtomicU8::new(INTERVAL_TIMER);

const INTERVAL_TIMER: u8 = 0;
const APIC_COUNT: u8 = 1;
const APIC_DEADLINE: u8 = 2;

/// Finds out which device there is, and how fast it counts.
///
/// # Safety
/// Runs once, in ring 0 with interrupts off, after the clock, the APIC and [`interrupts::start`].
pub unsafe fn start() {
    LEAST_COUNTS.store(
        (u128::from(LEAST) * u128::from(counter_hz()) / 1_000_000_000) as u64,
        Relaxed,
    );
    if apic::has_deadlines() {
        apic::start_timer(true);
        DEVICE.store(APIC_DEADLINE, Relaxed);
    } else if let Some(scale) = measure_apic() {
        SCALE.store(scale, Relaxed);
        DEVICE.store(APIC_COUNT, Relaxed);
    } else {
        let scale = (u128::from(pit::CLOCK_HZ) << FRACTION) / u128::from(counter_hz());
        SCALE.store(scale as u64, Relaxed);
        interrupts::set_handler(TIMER_LINE, interrupt);
    }
}

/// Sets the alarm of another CPU up, as [`start`] has found it.
///
/// # Safety
/// Runs once on that CPU, in ring 0 with interrupts off, after its APIC is set.
pub(super) unsafe fn start_other() {
    apic::start_timer(DEVICE.load(Relaxed) == APIC_DEADLINE);
}

/// Whether each CPU has a device of its own.
pub fn is_for_each_cpu() -> bool {
    DEVICE.load(Relaxed) != INTERVAL_TIMER
}

/// The name of the device.
pub fn device() -> &'static str {
    match DEVICE.load(Relaxed) {
        APIC_DEADLINE => "the APIC's timer, by deadlines",
        APIC_COUNT => "the APIC's timer",
        _ => "the interval timer",
    }
}

/// How fast the APIC's timer counts; `None` if there is none, or it stands still.
fn measure_apic() -> Option<u64> {
    /// Long enough for an error of a thousandth.
    const MICROSECONDS: u64 = 1_000;
    if !apic::start_timer(false) {
        return None;
    }
    let length = counter_hz() / 1_000_000 * MICROSECONDS;
    apic::set_count(u32::MAX);
    let began = counter();
    let first = apic::count();
    while counter().wrapping_sub(began) < length {
        core::hint::spin_loop();
    }
    let last = apic::count();
    let passed = counter().wrapping_sub(began);
    apic::set_count(0);
    let counted = u64::from(first.wrapping_sub(last));
    // One that counts less than once in ten microseconds is no better than the interval timer.
    (counted >= MICROSECONDS / 10).then(|| ((u128::from(counted) << FRACTION) / u128::from(passed.max(1))) as u64)
}

/// Makes an interrupt come when the time-stamp counter is at `target`, or before.
#[inline]
pub fn by(target: u64) {
    let alarm = &cpu::local().alarm;
    if target < alarm.target.load(Relaxed) {
        let now = counter();
        let target = earliest(target, now);
        if target < alarm.target.load(Relaxed) {
            set(alarm, target, now);
        }
    }
}

/// Makes an interrupt come when the time-stamp counter is at `target`, if there is one, and none before: for a CPU that goes
/// to sleep, where no user mode has to get anywhere first.
pub fn only(target: Option<u64>) {
    let (target, alarm) = (target.unwrap_or(NEVER), &cpu::local().alarm);
    if target != alarm.target.load(Relaxed) {
        let now = counter();
        set(alarm, target.max(now.saturating_add(1)), now);
    }
}

/// The target, but not so early that user mode gets nowhere.
fn earliest(target: u64, now: u64) -> u64 {
    target.max(now.saturating_add(LEAST_COUNTS.load(Relaxed)))
}

fn set(alarm: &Alarm, target: u64, now: u64) {
    alarm.target.store(target, Relaxed);
    program(target, now);
}

/// Programs the device.
fn program(target: u64, now: u64) {
    let left = target - now;
    // Rounded up, so that it is not early.
    let counts = |most: u64| {
        let counts = ((u128::from(left) * u128::from(SCALE.load(Relaxed))) >> FRACTION) + 1;
        u64::try_from(counts).unwrap_or(u64::MAX).min(most)
    };
    match DEVICE.load(Relaxed) {
        APIC_DEADLINE => apic::set_deadline(if target == NEVER { 0 } else { target }),
        APIC_COUNT if target == NEVER => apic::set_count(0),
        APIC_COUNT => apic::set_count(counts(u32::MAX.into()) as u32),
        _ if target == NEVER => {}
        _ => {
            // SAFETY: this is the only owner of channel 0, and the calibration, which uses channel 2, is over.
            let mut ports = unsafe { X86Ports::new() };
            pit::shoot(&mut ports, counts(pit::LONGEST.into()) as u16);
        }
    }
}

/// The handler of the device's interrupt.
pub(super) fn interrupt() {
    let alarm = &cpu::local().alarm;
    let (now, target) = (counter(), alarm.target.load(Relaxed));
    if now < target {
        // The time is farther away than the device can count, or nobody wants an interrupt any more.
        if target != NEVER {
            program(target, now);
        }
        return;
    }
    alarm.interrupts.store(alarm.interrupts.load(Relaxed) + 1, Relaxed);
    alarm
        .latest
        .store(alarm.latest.load(Relaxed).max(now - target), Relaxed);
    alarm.target.store(NEVER, Relaxed);
}

/// Interrupts so far that came because their time had, on all CPUs.
pub fn interrupts() -> u64 {
    cpu::locals()
        .iter()
        .map(|local| local.alarm.interrupts.load(Relaxed))
        .sum()
}

/// How much later than its time an interrupt came at the most, in nanoseconds: about the longest time that the kernel ran
/// with interrupts off. Under an emulator the host's own pauses count too.
pub fn longest_delay() -> u64 {
    let latest = cpu::locals().iter().map(|local| local.alarm.latest.load(Relaxed)).max();
    to_nanoseconds(latest.unwrap_or(0))
}
