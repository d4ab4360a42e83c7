//! Slices of one track, put in order: what overlaps without being inside goes to a further track.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::schema::{TrackEvent, Type};
use super::texts::{Note, Texts};

/// A stretch of time with a name.
#[derive(Clone, Debug)]
pub struct Slice {
    pub category: &'static str,
    pub name: Cow<'static, str>,
    pub from: u64,
    pub to: u64,
    /// It has no length by nature.
    pub moment: bool,
    pub notes: Vec<Note>,
    /// Arrows that start here or pass through here.
    pub flows: Vec<u64>,
    /// Arrows that end here.
    pub arrives: Vec<u64>,
}

impl Slice {
    pub fn new(category: &'static str, name: impl Into<Cow<'static, str>>, from: u64, to: u64) -> Self {
        Self {
            category,
            name: name.into(),
            from,
            to,
            moment: false,
            notes: Vec::new(),
            flows: Vec::new(),
            arrives: Vec::new(),
        }
    }

    fn begin(self, r#type: Type, texts: &mut Texts) -> TrackEvent {
        TrackEvent {
            debug_annotations: self.notes.into_iter().map(|note| texts.annotation(note)).collect(),
            r#type: Some(r#type as i32),
            category_iids: (!self.category.is_empty())
                .then(|| texts.category(self.category))
                .into_iter()
                .collect(),
            name_iid: Some(texts.name(&self.name)),
            flow_ids: self.flows,
            terminating_flow_ids: self.arrives,
            ..Default::default()
        }
    }
}

/// The slices of a track.
#[derive(Debug, Default)]
pub struct Slices {
    groups: Vec<(Slice, Vec<Slice>)>,
}

impl Slices {
    pub fn add(&mut self, slice: Slice) {
        self.groups.push((slice, Vec::new()));
    }

    /// Adds a slice with others that lie inside of it, one after the other.
    pub fn add_with(&mut self, slice: Slice, inner: Vec<Slice>) {
        self.groups.push((slice, inner));
    }

    /// The events of each lane, in the order of their times.
    pub fn lanes(mut self, texts: &mut Texts) -> Vec<Vec<(u64, TrackEvent)>> {
        self.groups.sort_by_key(|(slice, _)| (slice.from, Reverse(slice.to)));
        let mut lanes: Vec<Lane> = Vec::new();
        for (slice, inner) in self.groups {
            let place = lanes.iter_mut().position(|lane| lane.fits(&slice)).unwrap_or_else(|| {
                lanes.push(Lane::default());
                lanes.len() - 1
            });
            lanes[place].add(slice, texts);
            inner.into_iter().for_each(|slice| lanes[place].add(slice, texts));
        }
        lanes.into_iter().map(Lane::finish).collect()
    }
}

#[derive(Default)]
struct Lane {
    events: Vec<(u64, TrackEvent)>,
    /// The ends of the slices that are open, the outermost first.
    open: Vec<u64>,
}

impl Lane {
    fn close_until(&mut self, time: u64) {
        while let Some(end) = self.open.pop_if(|end| *end <= time) {
            let event = TrackEvent {
                r#type: Some(Type::SliceEnd as i32),
                ..Default::default()
            };
            self.events.push((end, event));
        }
    }

    /// Whether the slice is after or inside of everything that is open.
    fn fits(&self, slice: &Slice) -> bool {
        let around = self.open.iter().rev().find(|end| **end > slice.from);
        around.is_none_or(|end| slice.to <= *end)
    }

    fn add(&mut self, slice: Slice, texts: &mut Texts) {
        self.close_until(slice.from);
        let (from, to) = (slice.from, slice.to);
        if slice.moment {
            self.events.push((from, slice.begin(Type::Instant, texts)));
        } else {
            self.open.push(to);
            self.events.push((from, slice.begin(Type::SliceBegin, texts)));
        }
    }

    fn finish(mut self) -> Vec<(u64, TrackEvent)> {
        self.close_until(u64::MAX);
        self.events
    }
}
