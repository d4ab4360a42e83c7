//! The 8254 interval timer: the periodic tick (channel 0) and a stopwatch for the time-stamp counter (channel 2).

use crate::Ports;

/// The timer's input clock in Hz.
pub const CLOCK_HZ: u64 = 1_193_182;

const CHANNEL_0: u16 = 0x40;
const CHANNEL_2: u16 = 0x42;
const MODE: u16 = 0x43;
/// Gate of channel 2 (bit 0), speaker (bit 1), output of channel 2 (bit 5).
const CONTROL: u16 = 0x61;
const GATE: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;
const OUTPUT: u8 = 1 << 5;

/// Polls of the output before channel 2 counts as absent (microvm has none).
const POLL_LIMIT: u32 = 4_000_000;

/// The reload value for about `hz` ticks a second and the period it gives in nanoseconds.
#[must_use]
pub const fn divisor(hz: u32) -> (u16, u64) {
    let wanted = CLOCK_HZ / if hz == 0 { 1 } else { hz as u64 };
    let reload = if wanted > u16::MAX as u64 {
        u16::MAX
    } else if wanted < 2 {
        2
    } else {
        wanted as u16
    };
    (reload, reload as u64 * 1_000_000_000 / CLOCK_HZ)
}

/// Starts the periodic tick on interrupt line 0 and returns its period in nanoseconds.
pub fn start_periodic(ports: &mut impl Ports, hz: u32) -> u64 {
    let (reload, period) = divisor(hz);
    // Channel 0, low byte then high byte, mode 2 (rate generator).
    ports.write(MODE, 0b0011_0100);
    ports.write(CHANNEL_0, reload as u8);
    ports.write(CHANNEL_0, (reload >> 8) as u8);
    period
}

/// Measures `counter`'s rate in Hz against channel 2 over `microseconds` (at most 54,000).
///
/// An emulator's CPU may lose the processor between a reading of the counter and the event it is read for. Each
/// reading is therefore taken before and after the event; a measurement whose gaps are too wide is repeated, and the
/// best of [`ATTEMPTS`] is what comes out.
///
/// `None` if there is no channel 2 (microvm), or the counter stands still.
pub fn measure_hz(ports: &mut impl Ports, microseconds: u32, mut counter: impl FnMut() -> u64) -> Option<u64> {
    let ticks = (CLOCK_HZ * u64::from(microseconds) / 1_000_000).clamp(1, u64::from(u16::MAX));
    let mut best: Option<Measurement> = None;
    for _ in 0..ATTEMPTS {
        let new = measure(ports, ticks, &mut counter)?;
        if best.as_ref().is_none_or(|best| new.uncertainty < best.uncertainty) {
            best = Some(new);
        }
        if best
            .as_ref()
            .is_some_and(|best| best.uncertainty <= best.elapsed / PRECISION)
        {
            break;
        }
    }
    let elapsed = best?.elapsed;
    (elapsed > 0).then(|| (u128::from(elapsed) * u128::from(CLOCK_HZ) / u128::from(ticks)) as u64)
}

/// Measurements that are made at most, and the relative precision with which one is good enough.
const ATTEMPTS: usize = 5;
const PRECISION: u64 = 500;

/// Counts from start to end of the stopwatch, and how wide the gaps around the two events are.
struct Measurement {
    elapsed: u64,
    uncertainty: u64,
}

fn measure(ports: &mut impl Ports, ticks: u64, counter: &mut impl FnMut() -> u64) -> Option<Measurement> {
    let control = ports.read(CONTROL) & !(GATE | SPEAKER);
    ports.write(CONTROL, control);
    // Channel 2, low byte then high byte, mode 0 (output rises at the end of the count).
    ports.write(MODE, 0b1011_0000);
    ports.write(CHANNEL_2, ticks as u8);
    let before_start = counter();
    // The high byte and the open gate start the count.
    ports.write(CONTROL, control | GATE);
    ports.write(CHANNEL_2, (ticks >> 8) as u8);
    let after_start = counter();
    if ports.read(CONTROL) & OUTPUT != 0 {
        return None;
    }
    let mut before_end = after_start;
    for _ in 0..POLL_LIMIT {
        let expired = ports.read(CONTROL) & OUTPUT != 0;
        let after_end = counter();
        if expired {
            ports.write(CONTROL, control);
            let uncertainty = after_start.wrapping_sub(before_start) + after_end.wrapping_sub(before_end);
            let elapsed = (after_end / 2 + before_end / 2).wrapping_sub(after_start / 2 + before_start / 2);
            return Some(Measurement { elapsed, uncertainty });
        }
        before_end = after_end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::vec::Vec;

    #[test]
    fn divisors_are_clamped() {
        assert_eq!(divisor(1000).0, 1193);
        assert_eq!(divisor(1000).1, 999_847);
        assert_eq!(divisor(0).0, u16::MAX);
        assert_eq!(divisor(18).0, u16::MAX);
        assert_eq!(divisor(u32::MAX).0, 2);
    }

    /// Channel 2: each read of the control port takes `step` timer ticks.
    struct Model<'a> {
        left: Cell<i64>,
        step: i64,
        tsc: &'a Cell<u64>,
        latch: Vec<u8>,
        present: bool,
    }

    impl Ports for Model<'_> {
        fn read(&mut self, port: u16) -> u8 {
            assert_eq!(port, CONTROL);
            self.left.set(self.left.get() - self.step);
            self.tsc.set(self.tsc.get() + self.step as u64 * 1000);
            if self.present && self.left.get() <= 0 && self.latch.len() % 2 == 0 {
                OUTPUT
            } else {
                0
            }
        }

        fn write(&mut self, port: u16, value: u8) {
            if port == CHANNEL_2 {
                self.latch.push(value);
            }
            if let (CHANNEL_2, [.., low, high]) = (port, &self.latch[..])
                && self.latch.len() % 2 == 0
            {
                self.left.set(i64::from(u16::from_le_bytes([*low, *high])));
            }
        }
    }

    #[test]
    fn the_rate_comes_out() {
        let tsc = Cell::new(7);
        let mut model = Model {
            left: Cell::new(0),
            step: 3,
            tsc: &tsc,
            latch: Vec::new(),
            present: true,
        };
        let hz = measure_hz(&mut model, 10_000, || tsc.get()).unwrap();
        let expected = CLOCK_HZ * 1000;
        assert!(hz.abs_diff(expected) < expected / 1000, "{hz}");
    }

    #[test]
    fn a_missing_channel_gives_up() {
        let tsc = Cell::new(0);
        let mut model = Model {
            left: Cell::new(0),
            step: 3,
            tsc: &tsc,
            latch: Vec::new(),
            present: false,
        };
        assert_eq!(measure_hz(&mut model, 10_000, || tsc.get()), None);
    }
}
