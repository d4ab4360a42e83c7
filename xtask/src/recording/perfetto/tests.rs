//! What is written is read back by the schema and held against the guarantees.

use super::super::lives::tests::{meeting, recording};
use super::*;

fn written(recording: &Recording) -> Trace {
    let mut bytes = Vec::new();
    write(recording, &mut bytes).unwrap();
    check(&bytes).unwrap();
    Trace::decode(bytes.as_slice()).unwrap()
}

fn events<'a>(trace: &'a Trace, track: &str) -> Vec<(u64, &'a TrackEvent)> {
    let uuid = trace.packet.iter().find_map(|packet| match &packet.data {
        Some(Data::TrackDescriptor(descriptor)) if descriptor.name.as_deref() == Some(track) => descriptor.uuid,
        _ => None,
    });
    let uuid = uuid.unwrap_or_else(|| panic!("there is no track {track}"));
    let on_track = trace.packet.iter().filter_map(|packet| match &packet.data {
        Some(Data::TrackEvent(event)) if event.track_uuid == Some(uuid) => Some((packet.timestamp.unwrap(), event)),
        _ => None,
    });
    on_track.collect()
}

fn names(events: &[(u64, &TrackEvent)]) -> Vec<String> {
    let begun = events.iter().filter(|(_, event)| event.r#type() == Type::SliceBegin);
    begun.map(|(_, event)| event.name.clone().unwrap()).collect()
}

#[test]
fn a_fault_is_a_slice_with_its_stages_inside() {
    let trace = written(&meeting());
    let first = events(&trace, "task 1");
    assert_eq!(
        names(&first),
        [
            "demand-zero fault 7",
            "trap",
            "queued",
            "serving",
            "filling",
            "commit",
            "woken",
            "runnable",
            "denied fault 9"
        ]
    );
    assert_eq!((first[0].0, first[1].0), (100, 100));
    let notes = &first[0].1.debug_annotations;
    assert!(notes.iter().any(|note| note.pointer_value == Some(0x5010)));
}

#[test]
fn an_arrow_leads_to_each_waiter_that_joined() {
    let trace = written(&meeting());
    let served = events(&trace, "executor: fault service");
    let start = served.iter().find(|(_, event)| !event.flow_ids.is_empty()).unwrap();
    assert_eq!(start.1.flow_ids, [8]);
    let waiter = events(&trace, "task 2");
    let end = waiter
        .iter()
        .find(|(_, event)| !event.terminating_flow_ids.is_empty())
        .unwrap();
    assert_eq!(
        (end.1.terminating_flow_ids[0], end.1.name.as_deref()),
        (8, Some("runnable"))
    );
}

#[test]
fn counters_follow_the_queue() {
    let trace = written(&meeting());
    let values = |track| -> Vec<_> {
        let events = events(&trace, track);
        events
            .iter()
            .map(|(time, event)| (*time, event.counter_value.unwrap()))
            .collect()
    };
    assert_eq!(values("queue depth"), [(140, 1), (200, 0)]);
    assert_eq!(values("faults in flight"), [(140, 1), (280, 0)]);
}

#[test]
fn what_overlaps_goes_to_a_further_track() {
    let trace = written(&recording(&[
        (10, Kind::FaultQueue, 1, 1, 0x1000, 0),
        (20, Kind::FaultQueue, 1, 2, 0x2000, 1),
        (30, Kind::FaultWake, 1, 1, 0x1000, 1),
        (40, Kind::FaultWake, 1, 2, 0x2000, 1),
    ]));
    let tracks = trace.packet.iter().filter(
        |packet| matches!(&packet.data, Some(Data::TrackDescriptor(track)) if track.name.as_deref() == Some("task 1")),
    );
    assert_eq!(tracks.count(), 2);
}

#[test]
fn an_empty_recording_is_a_trace_without_events() {
    assert_eq!(written(&recording(&[])).packet.len(), 1);
}

#[test]
fn what_is_wrong_is_found() {
    let event = |time, r#type: Type| TracePacket {
        timestamp: Some(time),
        trusted_packet_sequence_id: Some(SEQUENCE),
        data: Some(Data::TrackEvent(TrackEvent {
            r#type: Some(r#type as i32),
            track_uuid: Some(ROOT),
            ..Default::default()
        })),
    };
    let mut bytes = Vec::new();
    write(&recording(&[]), &mut bytes).unwrap();
    let with = |packets: &[TracePacket]| {
        let more = Trace {
            packet: packets.to_vec(),
        };
        [bytes.clone(), more.encode_to_vec()].concat()
    };
    let (begin, end) = (event(5, Type::SliceBegin), event(7, Type::SliceEnd));
    assert_eq!(check(&with(&[begin.clone(), end.clone()])), Ok(2));
    assert_eq!(check(&with(&[begin])), Err(Flaw::Open(ROOT)));
    assert_eq!(check(&with(std::slice::from_ref(&end))), Err(Flaw::NotOpen(ROOT)));
    assert_eq!(check(&with(&[end, event(6, Type::Instant)])), Err(Flaw::NotOpen(ROOT)));
    let instants = [event(7, Type::Instant), event(6, Type::Instant)];
    assert_eq!(check(&with(&instants)), Err(Flaw::Backwards(6)));
    assert_eq!(check(b"\x0b"), Err(Flaw::Malformed));
    // A field that the schema does not have.
    assert_eq!(check(&[&bytes[..], b"\x10\x01"].concat()), Err(Flaw::Malformed));
}
