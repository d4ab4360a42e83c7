//! Checks a file that is to be opened in Perfetto.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use flate2::read::ZlibDecoder;
use prost::Message;

use super::schema::{Data, Interned, InternedData, Trace, TracePacket, TrackEvent, Type};

/// What is wrong with a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes are no trace, or have fields that the schema does not have.
    #[error("the bytes are not what the schema says")]
    Malformed,
    /// A packet lacks what its kind must have.
    #[error("packet {0} is not complete")]
    Incomplete(usize),
    /// A track is described twice, or after its first event, or below one that is not.
    #[error("track {0} is not described once and in time")]
    Track(u64),
    /// Time goes back.
    #[error("time goes back to {0} ns")]
    Backwards(u64),
    /// A slice ends that did not begin.
    #[error("a slice ends on track {0} where none is open")]
    NotOpen(u64),
    /// A slice does not end.
    #[error("a slice on track {0} does not end")]
    Open(u64),
    /// A flow does not begin and then end once.
    #[error("flow {0} does not begin and then end once")]
    Flow(u64),
    /// An event names a text by a number that has none.
    #[error("packet {0} names a text that there is not")]
    Text(usize),
}

/// The packets of a trace, those that were compressed too. Every one is what the schema says.
///
/// # Errors
/// [`Flaw::Malformed`].
pub fn packets(bytes: &[u8]) -> Result<Vec<TracePacket>, Flaw> {
    let trace = Trace::decode(bytes).map_err(|_| Flaw::Malformed)?;
    // A field that the schema does not have would be missing from what is encoded again.
    if trace.encoded_len() != bytes.len() {
        return Err(Flaw::Malformed);
    }
    let mut all = Vec::new();
    for packet in trace.packet {
        if let Some(Data::CompressedPackets(group)) = &packet.data {
            let mut inner = Vec::new();
            let read = ZlibDecoder::new(group.as_slice()).read_to_end(&mut inner);
            read.map_err(|_| Flaw::Malformed)?;
            all.extend(packets(&inner)?);
        } else {
            all.push(packet);
        }
    }
    Ok(all)
}

/// Checks a trace: it is what the schema says, every text is there, every slice is closed, every flow begins and then ends
/// once, times go up, and every track is described before it is used. Returns the number of events.
///
/// # Errors
/// The first flaw.
pub fn check(bytes: &[u8]) -> Result<usize, Flaw> {
    let mut texts = InternedData::default();
    let mut described = HashSet::new();
    let mut open = HashMap::<u64, usize>::new();
    let (mut started, mut arrived) = (HashSet::new(), HashSet::new());
    let (mut before, mut count) = (0, 0);
    for (index, packet) in packets(bytes)?.iter().enumerate() {
        let incomplete = Flaw::Incomplete(index);
        if let Some(more) = &packet.interned_data {
            texts = more.clone();
            if packet.data.is_none() {
                continue;
            }
        }
        match packet.data.as_ref().ok_or(incomplete)? {
            Data::CompressedPackets(_) => return Err(Flaw::Malformed),
            Data::TrackDescriptor(track) => {
                let uuid = track.uuid.ok_or(incomplete)?;
                if !described.insert(uuid) || track.parent_uuid.is_some_and(|parent| !described.contains(&parent)) {
                    return Err(Flaw::Track(uuid));
                }
            }
            Data::TrackEvent(event) => {
                count += 1;
                let time = packet.timestamp.ok_or(incomplete)?;
                if time < before {
                    return Err(Flaw::Backwards(time));
                }
                before = time;
                let track = event.track_uuid.ok_or(incomplete)?;
                if !described.contains(&track) {
                    return Err(Flaw::Track(track));
                }
                let depth = open.entry(track).or_default();
                match event.r#type() {
                    Type::SliceBegin => *depth += 1,
                    Type::SliceEnd => *depth = depth.checked_sub(1).ok_or(Flaw::NotOpen(track))?,
                    Type::Counter if event.counter_value.is_some() => {}
                    Type::Instant => {}
                    Type::Counter | Type::Unspecified => return Err(incomplete),
                }
                if !has_texts(event, &texts) {
                    return Err(Flaw::Text(index));
                }
                started.extend(&event.flow_ids);
                for id in &event.terminating_flow_ids {
                    if !started.contains(id) || !arrived.insert(*id) {
                        return Err(Flaw::Flow(*id));
                    }
                }
            }
        }
    }
    if let Some((track, _)) = open.iter().find(|(_, depth)| **depth > 0) {
        return Err(Flaw::Open(*track));
    }
    match started.difference(&arrived).next() {
        Some(flow) => Err(Flaw::Flow(*flow)),
        None => Ok(count),
    }
}

/// Whether every text that the event names is there. The numbers of a kind of text go up from 1.
fn has_texts(event: &TrackEvent, texts: &InternedData) -> bool {
    let has = |kind: &[Interned], number: u64| (1..=kind.len() as u64).contains(&number);
    let notes = &event.debug_annotations;
    event.name_iid.is_none_or(|name| has(&texts.event_names, name))
        && event.category_iids.iter().all(|of| has(&texts.event_categories, *of))
        && notes.iter().all(|note| {
            let name = note
                .name_iid
                .is_some_and(|name| has(&texts.debug_annotation_names, name));
            let value = note.string_value_iid;
            name && value.is_none_or(|value| has(&texts.debug_annotation_string_values, value))
        })
}
