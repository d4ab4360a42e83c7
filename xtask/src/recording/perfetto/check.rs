//! Checks a file that is to be opened in Perfetto.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::schema::{Data, Trace, Type};

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
    /// An arrow does not have one start and then one end.
    #[error("arrow {0} does not start once and then end once")]
    Arrow(u64),
}

/// Checks a trace: it is what the schema says, every slice is closed, every arrow has two ends, times go up, and every
/// track is described before it is used. Returns the number of events.
///
/// # Errors
/// The first flaw.
pub fn check(bytes: &[u8]) -> Result<usize, Flaw> {
    let trace = Trace::decode(bytes).map_err(|_| Flaw::Malformed)?;
    // A field that the schema does not have would be missing from what is encoded again.
    if trace.encoded_len() != bytes.len() {
        return Err(Flaw::Malformed);
    }
    let mut described = HashSet::new();
    let mut open = HashMap::<u64, usize>::new();
    let (mut started, mut arrived) = (HashSet::new(), HashSet::new());
    let (mut before, mut count) = (0, 0);
    for (index, packet) in trace.packet.iter().enumerate() {
        let incomplete = Flaw::Incomplete(index);
        match packet.data.as_ref().ok_or(incomplete)? {
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
                if let Some(id) = event.flow_ids.iter().find(|id| !started.insert(**id)) {
                    return Err(Flaw::Arrow(*id));
                }
                for id in &event.terminating_flow_ids {
                    if !started.contains(id) || !arrived.insert(*id) {
                        return Err(Flaw::Arrow(*id));
                    }
                }
            }
        }
    }
    if let Some((track, _)) = open.iter().find(|(_, depth)| **depth > 0) {
        return Err(Flaw::Open(*track));
    }
    match started.difference(&arrived).next() {
        Some(arrow) => Err(Flaw::Arrow(*arrow)),
        None => Ok(count),
    }
}
