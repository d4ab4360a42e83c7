//! The sorted array against an ordered map.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::backing::Backing;
use crate::protection::Protection;
use crate::region::RegionFlags;

fn region(end: u64) -> Region {
    Region {
        end,
        backing: Backing::Anonymous,
        protection: Protection::READ,
        flags: RegionFlags::empty(),
    }
}

impl Chunks {
    /// Panics unless the guarantees of the module hold.
    fn check(&self) {
        assert_eq!(
            (self.firsts.len(), self.gaps.len()),
            (self.groups.len(), self.groups.len())
        );
        let mut count = 0;
        let mut last = None;
        let mut below = 0;
        for (index, group) in self.groups.iter().enumerate() {
            assert!(group.len() > 0);
            assert_eq!(self.firsts[index], group.firsts[0]);
            assert!(group.firsts[group.len()..].iter().all(|&first| first == NONE));
            for (place, chunk) in group.chunks.iter().enumerate() {
                assert!(chunk.len() > 0);
                assert_eq!(group.firsts[place], chunk.starts[0]);
                assert!(chunk.starts[chunk.len()..].iter().all(|&start| start == NONE));
                for (&start, region) in chunk.starts.iter().zip(&chunk.regions) {
                    assert!(last < Some(start), "{last:?} before {start}");
                    let gap = start.saturating_sub(below);
                    assert!(
                        gap <= group.gaps[place] && gap <= self.gaps[index],
                        "a gap of {gap} is not known"
                    );
                    last = Some(start);
                    below = region.end;
                    count += 1;
                }
            }
        }
        assert_eq!(count, self.len);
    }

    fn put(&mut self, start: u64, end: u64) {
        let after = self.at_or_below(start);
        self.prepare(&[(after, 1)]).expect("the host has memory");
        self.insert_after(after, start, region(end));
    }

    fn all(&self) -> Vec<(u64, u64)> {
        core::iter::successors(self.first(), |&at| self.next(at))
            .map(|at| (self.start(at), self.region(at).end))
            .collect()
    }

    fn backwards(&self) -> Vec<(u64, u64)> {
        core::iter::successors(self.at_or_below(u64::MAX), |&at| self.previous(at))
            .map(|at| (self.start(at), self.region(at).end))
            .collect()
    }

    /// How many chunks there are.
    fn count(&self) -> usize {
        self.groups.iter().map(|group| group.len()).sum()
    }

    /// [`highest_gap`](Self::highest_gap), region by region.
    fn simple_gap(&self, start: u64, mut end: u64, size: u64) -> Option<u64> {
        for (first, last) in self.backwards() {
            if first >= end {
                continue;
            }
            let bottom = last.max(start);
            if bottom < end && end - bottom >= size {
                return Some(end - size);
            }
            if first <= start {
                return None;
            }
            end = first;
        }
        (start < end && end - start >= size).then(|| end - size)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    Take(u64),
    Move(u64, u64),
    End(u64, u64),
    Gap(u64, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4000_u64).prop_map(Step::Put),
        3 => (0..4000_u64).prop_map(Step::Take),
        1 => (0..4000_u64, 0..10_u64).prop_map(|(start, by)| Step::Move(start, by)),
        1 => (0..4000_u64, 11..17_u64).prop_map(|(start, by)| Step::End(start, by)),
        3 => (0..64_000_u64, 0..70_000_u64, 1..400_u64).prop_map(|(start, end, size)| Step::Gap(start, end, size)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_agrees_with_a_tree(steps in proptest::collection::vec(step(), 0..if cfg!(miri) { 100 } else { 2000 })) {
        let mut tree = BTreeMap::new();
        let mut chunks = Chunks::new();
        for step in steps {
            match step {
                // One region at most in each sixteen addresses, so that its start can be moved there.
                Step::Put(start) => {
                    if tree.range(start * 16..start * 16 + 16).next().is_none() {
                        tree.insert(start * 16, start * 16 + 11);
                        chunks.put(start * 16, start * 16 + 11);
                    }
                }
                Step::Take(address) => {
                    let below = tree.range(..=address * 16).next_back().map(|(&start, &end)| (start, end));
                    let at = chunks.at_or_below(address * 16);
                    prop_assert_eq!(below, at.map(|at| (chunks.start(at), chunks.region(at).end)));
                    if let (Some((start, end)), Some(at)) = (below, at) {
                        tree.remove(&start);
                        prop_assert_eq!(chunks.remove(at).end, end);
                    }
                }
                Step::Move(address, by) => {
                    if let Some(at) = chunks.at_or_below(address * 16 + 15) {
                        let start = chunks.start(at);
                        let end = tree.remove(&start);
                        let to = start / 16 * 16 + by;
                        prop_assert!(end.is_some());
                        tree.insert(to, end.unwrap_or_default());
                        chunks.set_start(at, to);
                    }
                }
                Step::End(address, by) => {
                    if let Some(at) = chunks.at_or_below(address * 16 + 15) {
                        let start = chunks.start(at);
                        tree.insert(start, start / 16 * 16 + by);
                        chunks.set_end(at, start / 16 * 16 + by);
                    }
                }
                Step::Gap(start, end, size) => {
                    prop_assert_eq!(chunks.simple_gap(start, end, size), chunks.highest_gap(start, end, size));
                }
            }
        }
        chunks.check();
        let expected: Vec<_> = tree.into_iter().collect();
        prop_assert_eq!(chunks.all(), expected.clone());
        prop_assert_eq!(chunks.backwards(), expected.into_iter().rev().collect::<Vec<_>>());
    }
}

#[test]
fn insertions_in_one_direction_fill_the_chunks() {
    const COUNT: u64 = if cfg!(miri) { 300 } else { 20_000 };
    let orders: [fn(u64) -> u64; 3] = [|index| index, |index| COUNT - index, |index| index * 7919 % COUNT];
    for order in orders {
        let mut chunks = Chunks::new();
        for index in 0..COUNT {
            chunks.put(order(index) * 16, order(index) * 16);
        }
        chunks.check();
        let filled = COUNT as usize * 100 / (chunks.count() * CHUNK);
        assert!(filled >= 66, "chunks are filled by {filled} %");
    }
}

#[test]
fn removals_join_chunks() {
    let mut chunks = Chunks::new();
    (0..640).for_each(|index| chunks.put(index * 16, index * 16));
    while chunks.len() > 8 {
        // Every other one, again and again.
        let mut at = chunks.first();
        while let Some(position) = at {
            let start = chunks.start(position);
            chunks.remove(position);
            at = chunks.at_or_below(start + 16).and_then(|kept| chunks.next(kept));
        }
        chunks.check();
    }
    assert_eq!(chunks.count(), 1);
}
