//! `--strace`: system calls as lines of text, with their arguments by their types, results and times.
//!
//! A line is written when its call returns, so that calls which wait stand where they end; calls that never return come
//! last. The times are those of the machine: since the start of the trace, and in the call. Whatever the kernel's trace
//! says of a call is printed, also of one that the table of calls does not know.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use faultline_trace::calls::{self, Argument, KEPT, Names, Returned, SystemCall};
use faultline_trace::wire::{Decoder, Frame};
use faultline_trace::{Event, Kind};
use syscalls::Errno;

use super::names::Threads;
use super::text;

/// The categories that the lines are made of.
pub const CATEGORIES: &str = "task,syscall,arguments,signal";

/// The greatest error number, as Linux has it.
const MAX_ERRNO: u64 = 4095;

/// A call that has not returned.
#[derive(Clone, Debug, Default)]
struct Open {
    number: u64,
    since: u64,
    arguments: [u64; 6],
    /// Whether more arguments than the first are known.
    is_whole: bool,
    /// What arguments point to.
    texts: BTreeMap<usize, Vec<u8>>,
    /// The argument whose bytes come, and how many are to come.
    coming: (usize, usize),
}

/// Turns events into lines.
pub struct Strace<W: Write> {
    to: W,
    start: u64,
    counter_hz: u64,
    threads: Threads,
    open: BTreeMap<u32, Open>,
}

impl<W: Write> Strace<W> {
    /// Lines for events of a trace that began at `start` with a counter of this rate.
    pub fn new(to: W, start: u64, counter_hz: u64) -> Self {
        Self {
            to,
            start,
            counter_hz,
            threads: Threads::default(),
            open: BTreeMap::new(),
        }
    }

    fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 / self.counter_hz.max(1) as f64
    }

    /// Takes an event, and writes the line of a call that it ends.
    ///
    /// # Errors
    /// Passes on what the writer reports.
    pub fn take(&mut self, event: &Event) -> io::Result<()> {
        self.threads.take(event);
        match event.kind {
            Kind::SyscallEnter => {
                let call = Open {
                    number: event.a,
                    since: event.time,
                    arguments: [event.b, 0, 0, 0, 0, 0],
                    ..Open::default()
                };
                self.open.insert(event.task, call);
            }
            Kind::SyscallArgs | Kind::SyscallMore | Kind::SyscallLast | Kind::SyscallText | Kind::SyscallBytes => {
                if let Some(call) = self.open.get_mut(&event.task) {
                    call.take(event);
                }
            }
            Kind::SyscallExit => {
                if let Some(call) = self.open.remove(&event.task) {
                    let result = result(call.number, event.b);
                    self.line(event.task, &call, &result, Some(event.time))?;
                }
            }
            Kind::SignalDeliver => {
                let prefix = self.prefix(event.task, event.time);
                writeln!(self.to, "{prefix} --- {} ---", signal(event.a))?;
            }
            Kind::TaskExit => {
                let open = self.open.remove(&event.task);
                if let Some(call) = open {
                    self.line(event.task, &call, "?", None)?;
                }
                let prefix = self.prefix(event.task, event.time);
                let status = event.a;
                let how = match status & 0x7f {
                    0 => format!("exited with {}", status >> 8 & 0xff),
                    number => format!("killed by {}", signal(number)),
                };
                writeln!(self.to, "{prefix} +++ {how} +++")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the lines of the calls that have not returned.
    ///
    /// # Errors
    /// Passes on what the writer reports.
    pub fn finish(&mut self) -> io::Result<()> {
        for (task, call) in std::mem::take(&mut self.open) {
            self.line(task, &call, "?", None)?;
        }
        self.to.flush()
    }

    fn prefix(&self, task: u32, time: u64) -> String {
        let program = self.threads.get(task).map_or("", |running| running.program.as_str());
        let time = self.seconds(time.saturating_sub(self.start));
        format!("{time:11.6} {task:>4} {program:<8}")
    }

    fn line(&mut self, task: u32, call: &Open, result: &str, end: Option<u64>) -> io::Result<()> {
        let mut line = self.prefix(task, call.since);
        let _ = write!(line, " {} = {result}", call.text());
        if let Some(end) = end {
            let _ = write!(line, " <{:.6}>", self.seconds(end.saturating_sub(call.since)));
        }
        writeln!(self.to, "{line}")
    }
}

impl Open {
    fn take(&mut self, event: &Event) {
        match event.kind {
            Kind::SyscallArgs => {
                (self.arguments[1], self.arguments[2]) = (event.a, event.b);
                self.is_whole = true;
            }
            Kind::SyscallMore => (self.arguments[3], self.arguments[4]) = (event.a, event.b),
            Kind::SyscallLast => self.arguments[5] = event.a,
            Kind::SyscallText => {
                self.coming = (event.a as usize, (event.b as usize).min(KEPT));
                self.texts.insert(event.a as usize, Vec::new());
            }
            Kind::SyscallBytes => {
                let (index, left) = &mut self.coming;
                let bytes = [event.a.to_le_bytes(), event.b.to_le_bytes()].concat();
                let count = bytes.len().min(*left);
                self.texts.entry(*index).or_default().extend(&bytes[..count]);
                *left -= count;
            }
            _ => {}
        }
    }

    /// Name and arguments.
    fn text(&self) -> String {
        let known = calls::find(self.number);
        let name = known.map_or_else(|| text::system_call(self.number), |call| call.name.to_owned());
        let shown: Vec<String> = match known {
            Some(call) => {
                let shown = call.arguments.iter().enumerate();
                // With the category `syscall` alone there is only the first.
                let shown = shown.take(if self.is_whole { 6 } else { 1 });
                shown.map(|(index, argument)| self.argument(*argument, index)).collect()
            }
            None => (0..if self.is_whole { 6 } else { 1 })
                .map(|index| hexadecimal(self.arguments[index]))
                .collect(),
        };
        let more = match known {
            Some(SystemCall { arguments, .. }) if arguments.len() > 1 && !self.is_whole => ", ...",
            _ => "",
        };
        format!("{name}({}{more})", shown.join(", "))
    }

    fn argument(&self, argument: Argument, index: usize) -> String {
        let value = self.arguments[index];
        let kept = self.texts.get(&index);
        match argument {
            Argument::Signed => (value as i32).to_string(),
            Argument::Unsigned => value.to_string(),
            Argument::Hex => hexadecimal(value),
            Argument::Octal => format!("{:#o}", value & 0xffff_ffff),
            Argument::Descriptor if value as u32 as i32 == -100 => "AT_FDCWD".to_owned(),
            Argument::Descriptor => (value as i32).to_string(),
            Argument::Signal => signal(value),
            Argument::Text => kept.map_or_else(
                || hexadecimal(value),
                |bytes| match bytes.strip_suffix(&[0]) {
                    Some(whole) => quoted(whole, false),
                    None => quoted(bytes, true),
                },
            ),
            Argument::Bytes => kept.map_or_else(
                || hexadecimal(value),
                |bytes| {
                    quoted(
                        bytes,
                        self.arguments
                            .get(index + 1)
                            .is_some_and(|&all| all > bytes.len() as u64),
                    )
                },
            ),
            Argument::Time => match kept.and_then(|bytes| bytes.first_chunk::<16>()) {
                Some(bytes) => {
                    let (seconds, nanoseconds) = bytes.split_at(8);
                    let word = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).unwrap_or(0);
                    format!("{{{}.{:09} s}}", word(seconds), word(nanoseconds))
                }
                None => hexadecimal(value),
            },
            Argument::Flags(names) => flags(value, names),
            Argument::Choice(names) => choice(value, names).unwrap_or_else(|| value.to_string()),
            Argument::ChoiceAndFlags(choices, names) => {
                let bits = names.iter().fold(0, |all, (bit, _)| all | bit);
                let chosen = choice(value & !bits & 0xff, choices).unwrap_or_else(|| hexadecimal(value & !bits));
                match value & bits {
                    0 => chosen,
                    rest => format!("{chosen}|{}", flags(rest, names)),
                }
            }
        }
    }
}

fn hexadecimal(value: u64) -> String {
    match value {
        0 => "0".to_owned(),
        _ => format!("{value:#x}"),
    }
}

fn choice(value: u64, names: Names) -> Option<String> {
    names
        .iter()
        .find(|(number, _)| *number == value)
        .map(|(_, name)| (*name).to_owned())
}

fn flags(value: u64, names: Names) -> String {
    let mut rest = value;
    let mut found = Vec::new();
    for (bits, name) in names {
        if rest & bits == *bits {
            found.push((*name).to_owned());
            rest &= !bits;
        }
    }
    if rest != 0 || found.is_empty() {
        found.push(hexadecimal(rest));
    }
    found.join("|")
}

fn quoted(bytes: &[u8], is_cut: bool) -> String {
    format!("\"{}\"{}", bytes.escape_ascii(), if is_cut { "..." } else { "" })
}

/// The names of signals, from 1 on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

fn signal(number: u64) -> String {
    let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    match place.and_then(|place| SIGNALS.get(place)) {
        Some(name) => format!("SIG{name}"),
        None => number.to_string(),
    }
}

fn result(number: u64, value: u64) -> String {
    let error = value.wrapping_neg();
    if (1..=MAX_ERRNO).contains(&error) {
        let number = error as i32;
        let error = Errno::new(number);
        let name = error.name().map_or_else(|| number.to_string(), str::to_owned);
        return match error.description() {
            Some(words) => format!("-1 {name} ({words})"),
            None => format!("-1 {name}"),
        };
    }
    match calls::find(number).map(|call| call.returned) {
        Some(Returned::Address) => hexadecimal(value),
        _ => (value as i64).to_string(),
    }
}

/// Takes a trace as it comes from the machine.
pub struct Live<W: Write> {
    decoder: Decoder,
    lines: Strace<W>,
}

impl<W: Write> Live<W> {
    /// Lines as calls return.
    pub fn new(to: W) -> Self {
        Self {
            decoder: Decoder::new(),
            lines: Strace::new(to, 0, 0),
        }
    }
}

impl<W: Write> Write for Live<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
            match frame {
                Frame::Start { counter_hz, time, .. } => {
                    (self.lines.start, self.lines.counter_hz) = (time, counter_hz);
                }
                Frame::Events { events, .. } => {
                    for event in &events {
                        self.lines.take(event)?;
                    }
                }
                Frame::End { .. } => self.lines.finish()?,
                Frame::Attachment { .. } => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lives::tests::events;
    use super::*;

    fn lines(list: &[(u64, Kind, u32, u64, u64)]) -> String {
        let list: Vec<_> = list
            .iter()
            .map(|&(time, kind, task, a, b)| (time, kind, task, 0, a, b))
            .collect();
        let mut out = Vec::new();
        let mut strace = Strace::new(&mut out, 0, 1_000_000);
        for event in events(&list) {
            strace.take(&event).unwrap();
        }
        strace.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn words(text: &[u8]) -> (u64, u64) {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text);
        let value = u128::from_le_bytes(bytes);
        (value as u64, (value >> 64) as u64)
    }

    #[test]
    fn arguments_are_printed_by_their_types() {
        let (a, b) = words(b"/etc/passwd\0");
        let text = lines(&[
            (10, Kind::SyscallEnter, 3, 257, -100i64 as u64),
            (10, Kind::SyscallArgs, 3, 0x5000, 0o2_000_101),
            (10, Kind::SyscallMore, 3, 0o644, 0),
            (10, Kind::SyscallLast, 3, 0, 0),
            (10, Kind::SyscallText, 3, 1, 12),
            (10, Kind::SyscallBytes, 3, a, b),
            (25, Kind::SyscallExit, 3, 257, -2i64 as u64),
        ]);
        assert_eq!(
            text.trim(),
            "0.000010    3          openat(AT_FDCWD, \"/etc/passwd\", O_WRONLY|O_CREAT|O_CLOEXEC, 0o644) = -1 ENOENT (No \
             such file or directory) <0.000015>"
        );
    }

    #[test]
    fn a_call_that_nobody_knows_has_six_numbers() {
        let text = lines(&[
            (0, Kind::SyscallEnter, 1, 9999, 1),
            (0, Kind::SyscallArgs, 1, 2, 3),
            (0, Kind::SyscallMore, 1, 4, 5),
            (0, Kind::SyscallLast, 1, 6, 0),
            (1, Kind::SyscallExit, 1, 9999, -38i64 as u64),
        ]);
        assert!(
            text.contains("system call 9999(0x1, 0x2, 0x3, 0x4, 0x5, 0x6) = -1 ENOSYS"),
            "{text}"
        );
    }

    #[test]
    fn calls_of_several_threads_stay_apart_and_the_last_has_no_result() {
        let text = lines(&[
            (0, Kind::SyscallEnter, 1, 39, 0),
            (1, Kind::SyscallEnter, 2, 231, 7),
            (2, Kind::SyscallExit, 1, 39, 12),
            (3, Kind::TaskExit, 2, 7 << 8, 0),
            (4, Kind::SyscallEnter, 4, 34, 0),
        ]);
        let ends: Vec<_> = text
            .lines()
            .map(|line| line.split_once("          ").unwrap().1)
            .collect();
        assert_eq!(
            ends,
            [
                "getpid() = 12 <0.000002>",
                "exit_group(7) = ?",
                "+++ exited with 7 +++",
                "pause() = ?"
            ]
        );
    }
}
