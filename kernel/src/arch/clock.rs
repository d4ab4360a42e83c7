//! Time: the time-stamp counter, calibrated once against the interval timer.
//!
//! [`now`] is monotonic nanoseconds since [`start`]; the wall clock is that plus the real-time clock's reading at boot.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_drivers::{X86Ports, pit, rtc};

/// How long the calibration takes.
const CALIBRATION_MICROSECONDS: u32 = 4000;
/// Assumed where no timer can tell: the rate of QEMU's counter under `-icount shift=0`.
const DEFAULT_HZ: u64 = 1_000_000_000;

static START: AtomicU64 = AtomicU64::new(0);
static HZ: AtomicU64 = AtomicU64::new(DEFAULT_HZ);
/// Nanoseconds per count, as a fixed-point number with 32 fraction bits.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Counts per nanosecond, the same way.
static RATE: AtomicU64 = AtomicU64::new(1 << 32);
static WALL_START: AtomicU64 = AtomicU64::new(0);
/// The raw time-stamp counter.
#[inline]
pub fn counter() -> u64 {
    // SAFETY: every 64-bit CPU has the counter, and ring 0 may always read it.
    unsafe { _rdtsc() }
}

/// The counter's rate in Hz.
pub fn counter_hz() -> u64 {
    HZ.load(Relaxed)
}

/// Nanoseconds since [`start`].
#[inline]
pub fn now() -> u64 {
    to_nanoseconds(counter().wrapping_sub(START.load(Relaxed)))
}

/// The length of `counts` of the counter in nanoseconds.
#[inline]
pub fn to_nanoseconds(counts: u64) -> u64 {
    ((u128::from(counts) * u128::from(SCALE.load(Relaxed))) >> 32) as u64
}

/// Nanoseconds since 1970 (UTC), as far as the real-time clock is right.
pub fn wall_clock() -> u64 {
    WALL_START.load(Relaxed) + now()
}

/// The reading of the counter at a time of [`now`], rounded up; the highest for times that it does not reach.
#[inline]
pub fn counter_at(nanoseconds: u64) -> u64 {
    let counts = (u128::from(nanoseconds) * u128::from(RATE.load(Relaxed))) >> 32;
    u64::try_from(counts).map_or(u64::MAX, |counts| {
        START.load(Relaxed).saturating_add(counts).saturating_add(1)
    })
}

/// Calibrates the counter and reads the real-time clock.
///
/// # Safety
/// Runs once, in ring 0; nothing else drives the interval timer and the real-time clock.
pub unsafe fn start() {
    START.store(counter(), Relaxed);
    // SAFETY: the caller's promise.
    let mut ports = unsafe { X86Ports::new() };
    let hz = told_hz()
        .or_else(|| pit::measure_hz(&mut ports, CALIBRATION_MICROSECONDS, counter))
        .unwrap_or(DEFAULT_HZ);
    HZ.store(hz, Relaxed);
    SCALE.store((1_000_000_000 << 32) / hz, Relaxed);
    RATE.store(((u128::from(hz) << 32) / 1_000_000_000 + 1) as u64, Relaxed);
    let seconds = rtc::unix_seconds(&mut ports).unwrap_or(0);
    WALL_START.store((seconds * 1_000_000_000).saturating_sub(now()), Relaxed);
}

/// The rate, where the CPU or the hypervisor tells it.
fn told_hz() -> Option<u64> {
    if __cpuid(0).eax >= 0x15 {
        let leaf = __cpuid(0x15);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            return Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax));
        }
    }
    let has_hypervisor = __cpuid(1).ecx & (1 << 31) != 0;
    if has_hypervisor && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
        let khz = __cpuid(0x4000_0010).eax;
        return (khz != 0).then(|| u64::from(khz) * 1000);
    }
    None
}
