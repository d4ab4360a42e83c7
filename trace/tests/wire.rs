//! The wire format: what was written is read back, in pieces of any size; whatever happens to the bytes, the reader does
//! not panic, says that something is wrong, and finds the frames that are whole.

use faultline_trace::wire::{
    Attachment, Body, Decoder, Frame, MAX_HEADER, RECORD, UnknownVersion, VERSION, checksum, encode_header, trailer,
};
use faultline_trace::{Category, Event, Kind};
use proptest::prelude::*;

/// Writes frames as a kernel or a recorder does.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    frame: u32,
    /// Where each frame starts.
    starts: Vec<usize>,
}

impl Writer {
    fn frame(&mut self, body: Body, payload: &[u8]) {
        self.starts.push(self.bytes.len());
        let mut header = [0; MAX_HEADER];
        let length = encode_header(self.frame, body, &mut header);
        self.bytes.extend_from_slice(&header[..length]);
        if body.follows() > 0 {
            assert_eq!(payload.len(), body.payload());
            self.bytes.extend_from_slice(payload);
            self.bytes.extend_from_slice(&trailer(self.frame));
        }
        self.frame += 1;
    }

    fn events(&mut self, first: u64, events: &[Event], checked: bool) {
        let payload: Vec<u8> = events.iter().flat_map(Event::to_record).collect();
        let body = Body::Events {
            cpu: events[0].cpu,
            count: events.len() as u32,
            first,
            lost: 0,
            times: (events[0].time, events[events.len() - 1].time),
            check: checked.then(|| checksum(&payload)),
        };
        self.frame(body, &payload);
    }
}

fn start() -> Body {
    Body::Start {
        counter_hz: 1_000_000_000,
        time: 5,
        categories: Category::all().bits(),
        cpus: 1,
    }
}

fn events_from(seed: u64, count: usize) -> Vec<Event> {
    (0..count as u64)
        .map(|index| {
            let mixed = (seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Event {
                time: 1000 + index * 3,
                kind: Kind::ALL[(mixed >> 7) as usize % Kind::ALL.len()],
                cpu: 0,
                task: (mixed >> 40) as u32 % 9,
                space: mixed % 3,
                fault: index,
                a: mixed,
                b: !mixed,
            }
        })
        .collect()
}

/// A stream of a start, some frames of events, an attachment and an end.
fn stream(frames: usize, each: usize, checked: bool) -> (Writer, Vec<Event>) {
    let mut writer = Writer::default();
    writer.frame(start(), &[]);
    let events = events_from(7, frames * each);
    for (index, part) in events.chunks(each).enumerate() {
        writer.events((index * each) as u64, part, checked);
    }
    let text = b"mode=run\n";
    let body = Body::Attachment {
        kind: Attachment::Report,
        length: text.len() as u32,
        check: checksum(text),
    };
    writer.frame(body, text);
    writer.frame(
        Body::End {
            events: events.len() as u64,
            lost: 0,
        },
        &[],
    );
    (writer, events)
}

fn read_all(decoder: &mut Decoder) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap_or(None) {
        frames.push(frame);
    }
    frames
}

fn decode(bytes: &[u8]) -> (Vec<Frame>, Decoder) {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.end();
    (read_all(&mut decoder), decoder)
}

fn events_of(frames: &[Frame]) -> Vec<Event> {
    let events = frames.iter().filter_map(|frame| match frame {
        Frame::Events { events, .. } => Some(events.clone()),
        _ => None,
    });
    events.flatten().collect()
}

#[test]
fn every_kind_survives_its_record() {
    for &kind in Kind::ALL {
        let event = Event {
            time: u64::MAX - 1,
            kind,
            cpu: 3,
            task: 0xdead_beef,
            space: 1 << 40,
            fault: 2,
            a: 0x0102_0304_0506_0708,
            b: !0,
        };
        assert_eq!(Event::from_record(&event.to_record()), Some(event));
    }
    let mut record = events_from(1, 1)[0].to_record();
    record[8..10].copy_from_slice(&0xffff_u16.to_le_bytes());
    assert_eq!(Event::from_record(&record), None);
}

#[test]
fn the_bytes_of_a_header_are_as_documented() {
    let mut header = [0xaa; MAX_HEADER];
    let length = encode_header(1, Body::End { events: 3, lost: 0 }, &mut header);
    // 00, COBS of: version 1, frame 1, body 3 (End), events 3, lost 0, CRC-32; 00.
    let plain = [1, 1, 3, 3, 0];
    let check = checksum(&plain).to_le_bytes();
    assert!(!check.contains(&0), "the example has one zero inside");
    let expected = [0, 5, 1, 1, 3, 3, 5, check[0], check[1], check[2], check[3], 0];
    assert_eq!(header[..length], expected);
}

#[test]
fn another_version_is_refused_by_its_number() {
    let plain = [VERSION + 1, 7, 7];
    let mut bytes = plain.to_vec();
    bytes.extend_from_slice(&checksum(&plain).to_le_bytes());
    let mut coded = [0; 32];
    let length = cobs::encode(&bytes, &mut coded[1..]);
    let mut decoder = Decoder::new();
    decoder.push(&coded[..length + 2]);
    assert_eq!(decoder.next_frame(), Err(UnknownVersion(VERSION + 1)));
}

#[test]
fn a_lost_byte_in_a_payload_costs_its_frame_only() {
    let (writer, events) = stream(3, 20, false);
    let mut bytes = writer.bytes;
    bytes.remove(writer.starts[2] + 300);
    let (frames, decoder) = decode(&bytes);
    let expected: Vec<_> = events[..20].iter().chain(&events[40..]).copied().collect();
    assert_eq!(events_of(&frames), expected);
    assert_eq!((decoder.damage().frames, decoder.damage().missing), (1, 1));
}

#[test]
fn a_stream_that_is_cut_off_keeps_its_whole_frames() {
    let (writer, events) = stream(3, 20, false);
    let cut = writer.starts[3] + 100;
    let (frames, decoder) = decode(&writer.bytes[..cut]);
    assert_eq!(events_of(&frames), events[..40]);
    assert_eq!(decoder.damage().frames, 1);
    assert!(!matches!(frames.last(), Some(Frame::End { .. })));
}

#[test]
fn a_damaged_record_costs_only_itself() {
    let (writer, events) = stream(1, 20, false);
    let mut bytes = writer.bytes;
    let payload = writer.starts[2] - 8 - 20 * RECORD;
    bytes[payload + 5 * RECORD + 9] = 0xff;
    let (frames, decoder) = decode(&bytes);
    let expected: Vec<_> = events[..5].iter().chain(&events[6..]).copied().collect();
    assert_eq!(events_of(&frames), expected);
    assert_eq!(decoder.damage().records, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(frames in 1usize..6, each in 1usize..40, checked: bool, piece in 1usize..5000) {
        let (writer, events) = stream(frames, each, checked);
        let mut decoder = Decoder::new();
        let mut read = Vec::new();
        for bytes in writer.bytes.chunks(piece) {
            decoder.push(bytes);
            read.extend(read_all(&mut decoder));
        }
        decoder.end();
        read.extend(read_all(&mut decoder));
        prop_assert!(decoder.damage().is_none(), "{}", decoder.damage());
        prop_assert_eq!(read.len(), frames + 3);
        prop_assert_eq!(events_of(&read), events);
    }

    #[test]
    fn bytes_that_are_no_stream_are_no_trouble(bytes in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..3000)) {
        let (frames, decoder) = decode(&bytes);
        prop_assert!(frames.is_empty());
        prop_assert_eq!(decoder.damage().skipped, bytes.len() as u64);
    }

    /// Overwrites, removes or inserts a few bytes. With a recorder's CRC, every frame that is read is one that was
    /// written, every frame that was not touched is read, and a missing one is noticed.
    #[test]
    fn damage_is_noticed_and_stays_local(
        at in any::<prop::sample::Index>(),
        how in 0u8..3,
        garbage in proptest::collection::vec(any::<u8>(), 1..60),
    ) {
        let (writer, _) = stream(4, 10, true);
        let (whole, _) = decode(&writer.bytes);
        let at = at.index(writer.bytes.len());
        let end = (at + garbage.len()).min(writer.bytes.len());
        let mut bytes = writer.bytes.clone();
        match how {
            0 => bytes[at..end].copy_from_slice(&garbage[..end - at]),
            1 => drop(bytes.drain(at..end)),
            _ => drop(bytes.splice(at..at, garbage.iter().copied())),
        }
        let (frames, decoder) = decode(&bytes);
        for frame in &frames {
            prop_assert!(whole.contains(frame), "{frame:?} was never written");
        }
        let changed = if how == 2 { at..at + 1 } else { at..end };
        for (index, frame) in whole.iter().enumerate() {
            let own = writer.starts[index]..writer.starts.get(index + 1).copied().unwrap_or(writer.bytes.len());
            let touched = own.start < changed.end && changed.start < own.end;
            prop_assert!(touched || frames.contains(frame), "frame {index} was not touched and is gone");
        }
        if bytes != writer.bytes && frames.len() < whole.len() {
            let ended = matches!(frames.last(), Some(Frame::End { .. }));
            prop_assert!(!decoder.damage().is_none() || !ended);
        }
    }
}
