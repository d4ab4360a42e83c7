//! A recording: the events of a run in memory, and their file.
//!
//! The file has the kernel's own format (`faultline_trace::wire`): its frames again, each with a checksum over its payload,
//! then what only the host knows: names of addresses and the kernel's report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};

use faultline_trace::wire::{
    Attachment, Body, Damage, Decoder, Frame, MAX_HEADER, UnknownVersion, checksum, encode_header, trailer,
};
use faultline_trace::{Category, Event};

/// Records in a frame of a file.
const FRAME_RECORDS: usize = 1024;

/// The events of a run.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The rate of the time-stamp counter; 0 if the start of the trace is missing.
    pub counter_hz: u64,
    /// The counter when tracing began.
    pub start: u64,
    /// The categories that were on at the start.
    pub categories: Category,
    /// The events in the order of their times.
    pub events: Vec<Event>,
    /// Events that the kernel lost because nobody took them in time.
    pub lost: u64,
    /// What was wrong with the bytes.
    pub damage: Damage,
    /// Whether the trace has its orderly end.
    pub ended: bool,
    /// The kernel's report, if there was one.
    pub report: Option<String>,
    /// What was run and how, one `NAME VALUE` a line; empty if that is not known.
    pub about: String,
    /// Names of addresses, by address space.
    pub names: BTreeMap<(u64, u64), String>,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes can't be had.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another version of the format.
    #[error("{0}")]
    Version(UnknownVersion),
}

impl Recording {
    fn empty() -> Self {
        Self {
            counter_hz: 0,
            start: 0,
            categories: Category::empty(),
            events: Vec::new(),
            lost: 0,
            damage: Damage::default(),
            ended: false,
            report: None,
            about: String::new(),
            names: BTreeMap::new(),
        }
    }

    /// What is known of the run: names and values.
    pub fn about(&self) -> impl Iterator<Item = (&str, &str)> {
        self.about.lines().filter_map(|line| line.split_once(' '))
    }

    /// Reads a stream to its end.
    ///
    /// # Errors
    /// The reader fails, or the stream has another version. Damage is no error: it is counted.
    pub fn read(mut from: impl Read) -> Result<Self, ReadError> {
        let mut recording = Self::empty();
        let mut decoder = Decoder::new();
        let mut chunk = vec![0; 1 << 18];
        loop {
            let count = from.read(&mut chunk)?;
            if count == 0 {
                decoder.end();
            } else {
                decoder.push(&chunk[..count]);
            }
            while let Some(frame) = decoder.next_frame().map_err(ReadError::Version)? {
                recording.take(frame);
            }
            if count == 0 {
                break;
            }
        }
        recording.damage = decoder.damage();
        // Each CPU's events are in order; those of several are put together.
        recording.events.sort_by_key(|event| event.time);
        Ok(recording)
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Start {
                counter_hz,
                time,
                categories,
                ..
            } => {
                (self.counter_hz, self.start, self.categories) = (counter_hz, time, categories);
            }
            Frame::Events { lost, mut events, .. } => {
                self.lost = self.lost.max(lost);
                self.events.append(&mut events);
            }
            Frame::Attachment { kind, content } => {
                let text = String::from_utf8_lossy(&content).into_owned();
                match kind {
                    Attachment::Report => self.report = Some(text),
                    Attachment::Symbols => self.names = parse_names(&text),
                    Attachment::About => self.about = text,
                }
            }
            Frame::End { lost, .. } => {
                self.lost = lost;
                self.ended = true;
            }
        }
    }

    /// A time of the counter in nanoseconds since the start of the trace.
    #[must_use]
    pub fn nanoseconds(&self, time: u64) -> u64 {
        let ticks = u128::from(time.saturating_sub(self.start));
        u64::try_from(ticks * 1_000_000_000 / u128::from(self.counter_hz.max(1))).unwrap_or(u64::MAX)
    }

    /// The name of an address in a space.
    #[must_use]
    pub fn name(&self, space: u64, address: u64) -> Option<&str> {
        self.names.get(&(space, address)).map(String::as_str)
    }
}

fn parse_names(text: &str) -> BTreeMap<(u64, u64), String> {
    let parse = |line: &str| {
        let (space, rest) = line.split_once(' ')?;
        let (address, name) = rest.split_once(' ')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(((number(space)?, number(address)?), name.to_owned()))
    };
    text.lines().filter_map(parse).collect()
}

/// Writes the file of a recording.
///
/// # Errors
/// Passes on what the writer reports.
pub fn write(recording: &Recording, to: &mut dyn Write) -> io::Result<()> {
    let mut frames = Frames { to, next: 0 };
    frames.write(
        Body::Start {
            counter_hz: recording.counter_hz,
            time: recording.start,
            categories: recording.categories.bits(),
            cpus: 1,
        },
        &[],
    )?;
    // A frame holds the events of one CPU.
    let mut written = BTreeMap::<u16, u64>::new();
    for run in recording.events.chunk_by(|one, next| one.cpu == next.cpu) {
        for events in run.chunks(FRAME_RECORDS) {
            let payload: Vec<u8> = events.iter().flat_map(Event::to_record).collect();
            let first = written.entry(events[0].cpu).or_default();
            let body = Body::Events {
                cpu: events[0].cpu,
                count: u32::try_from(events.len()).expect("a frame is small"),
                first: *first,
                lost: 0,
                times: (events[0].time, events[events.len() - 1].time),
                check: Some(checksum(&payload)),
            };
            *first += events.len() as u64;
            frames.write(body, &payload)?;
        }
    }
    let mut names = String::new();
    for ((space, address), name) in &recording.names {
        writeln!(names, "{space:x} {address:x} {name}").expect("a string takes any text");
    }
    frames.attach(Attachment::Symbols, &names)?;
    if !recording.about.is_empty() {
        frames.attach(Attachment::About, &recording.about)?;
    }
    if let Some(report) = &recording.report {
        frames.attach(Attachment::Report, report)?;
    }
    if recording.ended {
        frames.write(
            Body::End {
                events: recording.events.len() as u64,
                lost: recording.lost,
            },
            &[],
        )?;
    }
    Ok(())
}

struct Frames<'a> {
    to: &'a mut dyn Write,
    next: u32,
}

impl Frames<'_> {
    fn write(&mut self, body: Body, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; MAX_HEADER];
        let length = encode_header(self.next, body, &mut header);
        self.to.write_all(&header[..length])?;
        if body.follows() > 0 {
            self.to.write_all(payload)?;
            self.to.write_all(&trailer(self.next))?;
        }
        self.next += 1;
        Ok(())
    }

    fn attach(&mut self, kind: Attachment, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let check = checksum(text.as_bytes());
        self.write(Body::Attachment { kind, length, check }, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use faultline_trace::Kind;

    use super::*;

    fn recording() -> Recording {
        let event = |time, kind| Event {
            time,
            kind,
            cpu: 0,
            task: 1,
            space: 2,
            fault: 3,
            a: 0x1000,
            b: 1,
        };
        Recording {
            counter_hz: 2_000_000_000,
            start: 100,
            categories: Category::all(),
            events: (0..3000).map(|index| event(100 + index, Kind::FaultQueue)).collect(),
            lost: 0,
            damage: Damage::default(),
            ended: true,
            report: Some("report.end 1\n".to_owned()),
            about: "seed 7\n".to_owned(),
            names: BTreeMap::from([((2, 0x1000), "touch: main+0x4".to_owned())]),
        }
    }

    #[test]
    fn a_recording_is_read_back() {
        let written = recording();
        let mut bytes = Vec::new();
        write(&written, &mut bytes).unwrap();
        let read = Recording::read(bytes.as_slice()).unwrap();
        assert_eq!(read.events, written.events);
        assert_eq!((&read.names, &read.report), (&written.names, &written.report));
        assert_eq!(read.about().collect::<Vec<_>>(), [("seed", "7")]);
        assert!(read.damage.is_none() && read.ended);
        assert_eq!((read.counter_hz, read.nanoseconds(300)), (2_000_000_000, 100));
    }

    #[test]
    fn a_cut_recording_says_so() {
        let mut bytes = Vec::new();
        write(&recording(), &mut bytes).unwrap();
        let read = Recording::read(&bytes[..bytes.len() / 2]).unwrap();
        assert!(!read.ended && read.damage.frames == 1);
        assert_eq!(read.events.len(), 1024);
    }
}
