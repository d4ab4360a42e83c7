//! The text form: one line per event.
//!
//! ```text
//!      48213905 cpu0 task 3 space 4 fault 17 fault.queue addr=0x401000 slot=2
//! ```

use core::fmt;

use crate::event::{Event, FaultClass, Kind};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14} cpu{} task {}", self.time, self.cpu, self.task)?;
        if self.space != 0 {
            write!(f, " space {}", self.space)?;
        }
        if self.fault != 0 {
            write!(f, " fault {}", self.fault)?;
        }
        write!(f, " {}", self.kind.name())?;
        if self.kind == Kind::FaultServe {
            let class = FaultClass::ALL.get(self.b as usize).map_or("?", |c| c.name());
            return write!(f, " addr={:#x} class={class}", self.a);
        }
        let (a, b) = self.kind.payload();
        for (name, value) in [(a, self.a), (b, self.b)] {
            if !name.is_empty() {
                write!(f, " {name}={value:#x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_event_reads_as_one_line() {
        let event = Event {
            time: 48_213_905,
            kind: Kind::FaultQueue,
            cpu: 0,
            task: 3,
            space: 4,
            fault: 17,
            a: 0x40_1000,
            b: 2,
        };
        assert_eq!(
            event.to_string(),
            "      48213905 cpu0 task 3 space 4 fault 17 fault.queue addr=0x401000 slot=0x2"
        );
    }

    #[test]
    fn kinds_round_trip_through_their_numbers() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::try_from(kind as u16), Ok(kind));
        }
        assert_eq!(Kind::try_from(0xffff), Err(0xffff));
    }
}
