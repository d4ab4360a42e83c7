//! The text trace, read back.

use std::collections::BTreeMap;

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The line as the kernel wrote it.
    pub line: String,
    /// Time stamp.
    pub time: u64,
    /// The user thread, or 0.
    pub task: u32,
    /// The address space, or 0.
    pub space: u64,
    /// The fault's correlation id, or 0.
    pub fault: u64,
    /// What happened: `fault.queue`.
    pub name: String,
    /// What it happened to: `addr`, `slot`.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// Reads a line; none if it isn't an event but a message of the log.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().peekable();
        let time = words.next()?.parse().ok()?;
        words.next()?.strip_prefix("cpu")?.parse::<u16>().ok()?;
        let mut labelled = |label: &str| {
            words.next_if(|word| *word == label)?;
            words.next()?.parse::<u64>().ok()
        };
        let task = u32::try_from(labelled("task")?).ok()?;
        let space = labelled("space").unwrap_or(0);
        let fault = labelled("fault").unwrap_or(0);
        let name = words.next()?.to_owned();
        let fields = words.filter_map(|word| word.split_once('='));
        let fields = fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some(Self {
            line: line.trim_end().to_owned(),
            time,
            task,
            space,
            fault,
            name,
            fields,
        })
    }

    /// A payload word.
    ///
    /// # Panics
    /// Panics when the event doesn't have it.
    #[must_use]
    pub fn number(&self, field: &str) -> u64 {
        let value = self
            .fields
            .get(field)
            .and_then(|value| u64::from_str_radix(value.strip_prefix("0x")?, 16).ok());
        value.unwrap_or_else(|| panic!("{field} isn't a number in {self:?}"))
    }

    /// The page of the address.
    ///
    /// # Panics
    /// Panics when the event has no address.
    #[must_use]
    pub fn page(&self) -> u64 {
        self.number("addr") & !0xfff
    }
}

/// The events of a run in their order.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The events.
    pub events: Vec<Event>,
}

impl Trace {
    /// Reads a log.
    #[must_use]
    pub fn parse(log: &str) -> Self {
        Self {
            events: log.lines().filter_map(Event::parse).collect(),
        }
    }

    /// The events of one fault.
    #[must_use]
    pub fn fault(&self, id: u64) -> Vec<&Event> {
        self.events.iter().filter(|event| event.fault == id).collect()
    }

    /// The names of the events of one fault.
    #[must_use]
    pub fn steps(&self, id: u64) -> Vec<&str> {
        self.fault(id).iter().map(|event| event.name.as_str()).collect()
    }

    /// The events by this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back() {
        let line = "      48213905 cpu0 task 3 space 4 fault 17 fault.queue addr=0x401010 slot=0x2";
        let event = Event::parse(line).unwrap();
        assert_eq!(
            (event.time, event.task, event.space, event.fault),
            (48_213_905, 3, 4, 17)
        );
        assert_eq!(
            (event.name.as_str(), event.number("slot"), event.page()),
            ("fault.queue", 2, 0x40_1000)
        );
        let short = Event::parse("12 cpu0 task 0 irq vector=0x20").unwrap();
        assert_eq!((short.space, short.fault, short.name.as_str()), (0, 0, "irq"));
    }

    #[test]
    fn messages_are_not_events() {
        let log = "[INFO] 12 pages\n12 cats\n\n12 cpu0 task 0 irq vector=0x20\n";
        assert_eq!(Trace::parse(log).events.len(), 1);
    }
}
