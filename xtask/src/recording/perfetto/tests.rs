//! What is written is read back by the schema and held against the guarantees.

use super::super::lives::tests::{meeting, recording};
use super::check::packets;
use super::*;

fn written(recording: &Recording) -> Vec<TracePacket> {
    let mut bytes = Vec::new();
    write(recording, &mut bytes).unwrap();
    check(&bytes).unwrap();
    packets(&bytes).unwrap()
}

fn descriptors(trace: &[TracePacket]) -> impl Iterator<Item = &TrackDescriptor> {
    trace.iter().filter_map(|packet| match &packet.data {
        Some(Data::TrackDescriptor(descriptor)) => Some(descriptor),
        _ => None,
    })
}

/// The events of a track that is named so, or of the first track of a thread.
fn events<'a>(trace: &'a [TracePacket], track: &str) -> Vec<(u64, &'a TrackEvent)> {
    let is_meant = |descriptor: &&TrackDescriptor| {
        let thread = descriptor.thread.as_ref().and_then(|thread| thread.tid);
        descriptor.name.as_deref() == Some(track) || thread.is_some_and(|tid| track == format!("thread {tid}"))
    };
    let found = descriptors(trace).find(is_meant);
    let uuid = found.unwrap_or_else(|| panic!("there is no track {track}")).uuid;
    let on_track = trace.iter().filter_map(|packet| match &packet.data {
        Some(Data::TrackEvent(event)) if event.track_uuid == uuid => Some((packet.timestamp.unwrap(), event)),
        _ => None,
    });
    on_track.collect()
}

fn name(trace: &[TracePacket], event: &TrackEvent) -> String {
    let texts = trace.iter().find_map(|packet| packet.interned_data.as_ref()).unwrap();
    let text = &texts.event_names[event.name_iid.unwrap() as usize - 1];
    assert_eq!(text.iid, event.name_iid);
    text.text.clone().unwrap()
}

fn names(trace: &[TracePacket], events: &[(u64, &TrackEvent)]) -> Vec<String> {
    let begun = events.iter().filter(|(_, event)| event.r#type() == Type::SliceBegin);
    begun.map(|(_, event)| name(trace, event)).collect()
}

#[test]
fn a_fault_is_a_slice_with_its_stages_inside() {
    let trace = written(&meeting());
    let first = events(&trace, "thread 1");
    assert_eq!(
        names(&trace, &first),
        [
            "demand-zero",
            "trap",
            "queued",
            "serving",
            "filling",
            "commit",
            "woken",
            "runnable",
            "denied"
        ]
    );
    assert_eq!((first[0].0, first[1].0), (100, 100));
    let notes = &first[0].1.debug_annotations;
    assert!(notes.iter().any(|note| note.pointer_value == Some(0x5010)));
}

#[test]
fn a_flow_leads_from_each_fault_over_the_service_that_it_shares_back_to_its_thread() {
    let trace = written(&meeting());
    let served = events(&trace, "executor: fault service");
    let service = served.iter().find(|(_, event)| !event.flow_ids.is_empty()).unwrap();
    assert_eq!(service.1.flow_ids, [7, 8]);
    for (thread, flow) in [("thread 1", 7), ("thread 2", 8)] {
        let events = events(&trace, thread);
        let begins = events.iter().find(|(_, event)| event.flow_ids == [flow]).unwrap();
        let ends = events
            .iter()
            .find(|(_, event)| event.terminating_flow_ids == [flow])
            .unwrap();
        assert!(begins.0 < ends.0);
        assert_eq!(name(&trace, ends.1), "runnable");
    }
}

#[test]
fn a_thread_belongs_to_its_process() {
    let trace = written(&meeting());
    let tids: Vec<_> = descriptors(&trace)
        .filter_map(|track| track.thread.as_ref()?.tid)
        .collect();
    assert!(tids.contains(&1) && tids.contains(&2), "{tids:?}");
    for track in descriptors(&trace).filter(|track| track.thread.is_some()) {
        let parent = descriptors(&trace)
            .find(|other| other.uuid == track.parent_uuid)
            .unwrap();
        assert_eq!(parent.process.as_ref().unwrap().pid, track.thread.as_ref().unwrap().pid);
    }
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
    let first = descriptors(&trace).find(|track| track.thread.is_some()).unwrap();
    let further = descriptors(&trace).filter(|track| track.parent_uuid == first.uuid);
    assert_eq!(further.count(), 1);
}

#[test]
fn an_empty_recording_is_a_trace_without_events() {
    assert_eq!(written(&recording(&[])).len(), 2);
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
        ..Default::default()
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
