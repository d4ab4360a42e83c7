//! The battery-backed clock (MC146818): the wall-clock time at boot.

use crate::Ports;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
/// Status A: the registers are about to change.
const UPDATING: u8 = 0x80;
/// Status B: 24-hour clock; binary values.
const HOURS_24: u8 = 0x02;
const BINARY: u8 = 0x04;
/// Hours register in 12-hour mode.
const PM: u8 = 0x80;

const ATTEMPTS: usize = 10_000;

/// Seconds since 1970 (UTC), or `None` if the clock gives no valid date.
///
/// The century is not read: two-digit years are 2000 to 2099.
pub fn unix_seconds(ports: &mut impl Ports) -> Option<u64> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        if read(ports, STATUS_A) & UPDATING != 0 {
            continue;
        }
        let now = [0u8, 2, 4, 7, 8, 9].map(|register| read(ports, register));
        // Two equal readings: no update came in between.
        if last == Some(now) {
            return decode(now, read(ports, STATUS_B));
        }
        last = Some(now);
    }
    None
}

fn read(ports: &mut impl Ports, register: u8) -> u8 {
    ports.write(INDEX, register);
    ports.read(DATA)
}

fn decode([second, minute, hour, day, month, year]: [u8; 6], status_b: u8) -> Option<u64> {
    let number = |raw: u8| {
        u64::from(if status_b & BINARY != 0 {
            raw
        } else {
            (raw >> 4) * 10 + (raw & 15)
        })
    };
    let hour = if status_b & HOURS_24 != 0 {
        number(hour)
    } else {
        number(hour & !PM) % 12 + if hour & PM != 0 { 12 } else { 0 }
    };
    let (second, minute, day, month, year) = (
        number(second),
        number(minute),
        number(day),
        number(month),
        2000 + number(year),
    );
    if second > 59 || minute > 59 || hour > 23 || !(1..=31).contains(&day) || !(1..=12).contains(&month) {
        return None;
    }
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01 to the date, with years counted from March so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days_to_year = year * 365 + year / 4 - year / 100 + year / 400;
    days_to_year + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_seconds() {
        // date -u -d '2024-02-29 23:59:58' +%s
        assert_eq!(decode([58, 59, 23, 29, 2, 24], BINARY | HOURS_24), Some(1_709_251_198));
        // The same in BCD and on a 12-hour clock.
        assert_eq!(decode([0x58, 0x59, 0x91, 0x29, 0x02, 0x24], 0), Some(1_709_251_198));
        assert_eq!(decode([0, 0, 0, 1, 1, 0], BINARY | HOURS_24), Some(946_684_800));
        assert_eq!(decode([0, 0, 0x12, 0x01, 0x01, 0], 0), Some(946_684_800));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decode([0xff; 6], BINARY | HOURS_24), None);
        assert_eq!(decode([0, 0, 0, 0, 0, 0], BINARY | HOURS_24), None);
    }

    struct Stuck;
    impl Ports for Stuck {
        fn read(&mut self, _: u16) -> u8 {
            0xff
        }
        fn write(&mut self, _: u16, _: u8) {}
    }

    #[test]
    fn a_clock_that_never_settles_gives_up() {
        assert_eq!(unix_seconds(&mut Stuck), None);
    }
}
