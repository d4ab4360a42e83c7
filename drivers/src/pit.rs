//! The 8254 interval timer: single interrupts (channel 0) and a stopwatch for the time-stamp counter (channel 2).

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

/// Polls before channel 2 counts as absent (microvm has none).
const POLL_LIMIT: u32 = 1_000_000;

/// The longest time that one shot can take, in counts.
pub const LONGEST: u16 = u16::MAX;

/// Raises interrupt line 0 once, after `counts` of the timer's clock. A shot that is still under way is forgotten.
pub fn shoot(ports: &mut impl Ports, counts: u16) {
    let counts = counts.max(2);
    // Channel 0, low byte then high byte, mode 0 (interrupt on terminal count).
    ports.write(MODE, 0b0011_0000);
    ports.write(CHANNEL_0, counts as u8);
    ports.write(CHANNEL_0, (counts >> 8) as u8);
}

/// Measures `counter`'s rate in Hz against channel 2 over at least `microseconds` (at most 40,000).
///
/// An emulator's CPU may lose the processor at any point. So it is not the time of an event that is measured, but two
/// instants at which both clocks are read together; each is the tightest of a few readings, and how long anything
/// took in between is of no matter.
///
/// `None` if there is no channel 2 (microvm), or the counter stands still.
pub fn measure_hz(ports: &mut impl Ports, microseconds: u32, mut counter: impl FnMut() -> u64) -> Option<u64> {
    let ticks = (CLOCK_HZ * u64::from(microseconds) / 1_000_000).clamp(1, 48_000);
    (0..ATTEMPTS).find_map(|_| measure(ports, ticks, &mut counter))
}

/// Runs of the stopwatch that are made at most: one is wasted if it takes so long that channel 2 wraps around.
const ATTEMPTS: usize = 5;
/// Readings of which the tightest counts.
const TRIES: usize = 8;

/// Both clocks at one instant, and how far the readings lie apart.
#[derive(Clone, Copy)]
struct Instant {
    counter: u64,
    gap: u64,
    left: u16,
}

fn measure(ports: &mut impl Ports, ticks: u64, counter: &mut impl FnMut() -> u64) -> Option<u64> {
    let control = ports.read(CONTROL) & !(GATE | SPEAKER);
    // Channel 2, low byte then high byte, mode 0: it counts down once its gate is open, and raises its output at zero.
    ports.write(CONTROL, control | GATE);
    ports.write(MODE, 0b1011_0000);
    ports.write(CHANNEL_2, 0xff);
    ports.write(CHANNEL_2, 0xff);
    let start = instant(ports, counter);
    let elapsed_ticks = |now: Instant| u64::from(start.left.wrapping_sub(now.left));
    (0..POLL_LIMIT).find(|_| elapsed_ticks(read(ports, counter)) >= ticks)?;
    let end = instant(ports, counter);
    let wrapped = ports.read(CONTROL) & OUTPUT != 0;
    ports.write(CONTROL, control);
    let counted = end.counter.wrapping_sub(start.counter);
    let hz = u128::from(counted) * u128::from(CLOCK_HZ) / u128::from(elapsed_ticks(end).max(1));
    (!wrapped && hz > 0).then_some(hz as u64)
}

fn instant(ports: &mut impl Ports, counter: &mut impl FnMut() -> u64) -> Instant {
    let first = read(ports, counter);
    (1..TRIES)
        .map(|_| read(ports, counter))
        .fold(first, |best, new| if new.gap < best.gap { new } else { best })
}

fn read(ports: &mut impl Ports, counter: &mut impl FnMut() -> u64) -> Instant {
    let before = counter();
    ports.write(MODE, 0b1000_0000); // latch the count of channel 2
    let after = counter();
    let left = u16::from_le_bytes([ports.read(CHANNEL_2), ports.read(CHANNEL_2)]);
    let gap = after.wrapping_sub(before);
    Instant {
        counter: before.wrapping_add(gap / 2),
        gap,
        left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_shot_is_programmed_low_byte_first_and_never_empty() {
        struct Log(std::vec::Vec<(u16, u8)>);
        impl Ports for Log {
            fn read(&mut self, _: u16) -> u8 {
                0
            }
            fn write(&mut self, port: u16, value: u8) {
                self.0.push((port, value));
            }
        }
        let mut log = Log(std::vec::Vec::new());
        shoot(&mut log, 0x1234);
        shoot(&mut log, 0);
        assert_eq!(
            log.0,
            [
                (0x43, 0x30),
                (0x40, 0x34),
                (0x40, 0x12),
                (0x43, 0x30),
                (0x40, 2),
                (0x40, 0)
            ]
        );
    }

    /// Channel 2. Every access takes a tick, and now and then the CPU is away for longer.
    struct Model<'a> {
        /// Ticks since the start; 1000 counts each.
        time: &'a Cell<u64>,
        /// Ticks that every seventh access takes.
        absence: u64,
        accesses: u64,
        latched: [u8; 2],
        present: bool,
    }

    impl Model<'_> {
        fn pass(&mut self) {
            self.accesses += 1;
            let away = if self.accesses.is_multiple_of(7) {
                self.absence
            } else {
                1
            };
            self.time.set(self.time.get() + away);
        }
    }

    impl Ports for Model<'_> {
        fn read(&mut self, port: u16) -> u8 {
            self.pass();
            match port {
                CONTROL if self.present && self.time.get() > 0xffff => OUTPUT,
                CONTROL => 0,
                CHANNEL_2 if self.present => {
                    self.latched.swap(0, 1);
                    self.latched[1]
                }
                _ => 0xff,
            }
        }

        fn write(&mut self, port: u16, value: u8) {
            let now = self.time.get();
            self.pass();
            match (port, value) {
                (MODE, 0b1000_0000) => self.latched = 0xffff_u16.wrapping_sub(now as u16).to_le_bytes(),
                (MODE, _) => self.time.set(0),
                _ => {}
            }
        }
    }

    fn model(time: &Cell<u64>, absence: u64, present: bool) -> Model<'_> {
        Model {
            time,
            absence,
            accesses: 0,
            latched: [0; 2],
            present,
        }
    }

    #[test]
    fn the_rate_comes_out_however_often_the_cpu_is_away() {
        for absence in [1, 100, 1000] {
            let time = Cell::new(0);
            let hz = measure_hz(&mut model(&time, absence, true), 4000, || time.get() * 1000).unwrap();
            let expected = CLOCK_HZ * 1000;
            assert!(hz.abs_diff(expected) < expected / 1000, "{hz}");
        }
    }

    #[test]
    fn a_measurement_that_takes_too_long_is_not_believed() {
        let time = Cell::new(0);
        assert_eq!(
            measure_hz(&mut model(&time, 40_000, true), 4000, || time.get() * 1000),
            None
        );
    }

    #[test]
    fn a_missing_channel_gives_up() {
        let time = Cell::new(0);
        assert_eq!(
            measure_hz(&mut model(&time, 1, false), 4000, || time.get() * 1000),
            None
        );
    }
}
