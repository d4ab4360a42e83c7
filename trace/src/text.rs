//! The text form: one line per event.
//!
//! ```text
//!      48213905 cpu0 task 3 space 4 fault 17 fault.queue addr=0x401000 slot=2
//! ```

use core::fmt;

use crate::event::{Event, FaultClass, Kind, TrapWord};

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
        if self.kind == Kind::FaultTrap {
            let word = TrapWord(self.b);
            let (access, instruction) = (word.access(), word.instruction());
            return write!(f, " addr={:#x} access={access:#x} ip={instruction:#x}", self.a);
        }
        if self.kind == Kind::TaskName {
            f.write_str(" name=")?;
            let bytes = [self.a.to_le_bytes(), self.b.to_le_bytes()];
            return bytes
                .as_flattened()
                .utf8_chunks()
                .try_for_each(|chunk| f.write_str(chunk.valid().trim_end_matches('\0')));
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
    fn a_trap_names_its_instruction_and_a_task_its_program() {
        let mut event = Event {
            time: 1,
            kind: Kind::FaultTrap,
            cpu: 0,
            task: 3,
            space: 4,
            fault: 17,
            a: 0x40_1010,
            b: TrapWord::new(TrapWord::WRITE, 0x20_1234).0,
        };
        assert!(
            event
                .to_string()
                .ends_with("fault.trap addr=0x401010 access=0x1 ip=0x201234")
        );
        event.kind = Kind::TaskName;
        event.a = u64::from_le_bytes(*b"a-progra");
        event.b = u64::from_le_bytes(*b"m\0\0\0\0\0\0\0");
        assert!(event.to_string().ends_with("task.name name=a-program"), "{event}");
    }

    #[test]
    fn kinds_round_trip_through_their_numbers() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::try_from(kind as u16), Ok(kind));
        }
        assert_eq!(Kind::try_from(0xffff), Err(0xffff));
    }
}
