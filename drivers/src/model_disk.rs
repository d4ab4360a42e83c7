//! The timing of a disk that does not exist: when each of its transfers is done, and how it ends.
//!
//! # The model
//!
//! ```text
//!  push ─► waiting ─► in service (`depth` places, each for the latency) ─► on the line (one, for its bytes) ─► over
//! ```
//!
//! A transfer is in service as soon as one of `depth` places is free, and stays there for the latency, which varies by the
//! jitter. Then its bytes go over a line that carries one transfer at a time, in the order in which their service ended; its
//! place is free when it leaves the line. Times are computed from each other and not from when somebody looks: whoever
//! looks late gets the same times. All that is random comes from the seed, so that the same transfers at the same times end
//! at the same times and in the same way.
//!
//! Nothing here moves a byte: whoever takes a transfer with [`ModelDisk::take`] moves its bytes, then completes it.

use faultline_fallible::{AllocError, VecDeque};
use faultline_mm::{SECTOR_SIZE, Transfer, TransferError, TransferQueue, TransferResult};

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// How the disk behaves. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// How long a transfer is in service.
    pub latency: u64,
    /// Bytes a second over the line; 0 for no limit.
    pub bandwidth: u64,
    /// Transfers in service or on the line at once; at least 1.
    pub depth: u16,
    /// The latency varies by at most this many millionths of it, either way.
    pub jitter: u32,
    /// This many transfers of a thousand million fail.
    pub errors: u32,
    /// Where chance begins.
    pub seed: u64,
    /// This transfer never ends, counted from 1, nor does any after it; 0 for none.
    pub hang: u64,
    /// A transfer that has not ended after this long ends the disk; `u64::MAX` for never.
    pub limit: u64,
}

/// A transfer in service or on the line.
#[derive(Debug)]
struct Active {
    /// When that is over.
    at: u64,
    transfer: Transfer,
    fails: bool,
}

/// The disk.
#[derive(Debug)]
pub struct ModelDisk {
    behaviour: Behaviour,
    waiting: TransferQueue,
    /// The earliest end first.
    in_service: VecDeque<Active>,
    on_line: VecDeque<Active>,
    /// When the line has carried all that was given to it.
    line_free: u64,
    done: TransferQueue,
    failed: TransferQueue,
    /// What never ends.
    hung: TransferQueue,
    /// When the first of those came.
    hung_since: Option<u64>,
    /// It was given up.
    is_dead: bool,
    /// The next time at which anything changes; `u64::MAX` for none.
    due: u64,
    random: u64,
    started: u64,
}

impl ModelDisk {
    /// A disk of this behaviour.
    ///
    /// # Errors
    /// There is no memory for the transfers in service.
    pub fn new(behaviour: Behaviour) -> Result<Self, AllocError> {
        let depth = usize::from(behaviour.depth.max(1));
        let (mut in_service, mut on_line) = (VecDeque::new(), VecDeque::new());
        in_service.try_reserve_exact(depth)?;
        on_line.try_reserve_exact(depth)?;
        Ok(Self {
            behaviour,
            waiting: TransferQueue::new(),
            in_service,
            on_line,
            line_free: 0,
            done: TransferQueue::new(),
            failed: TransferQueue::new(),
            hung: TransferQueue::new(),
            hung_since: None,
            is_dead: false,
            due: u64::MAX,
            random: behaviour.seed,
            started: 0,
        })
    }

    /// Gives the disk a transfer at the time `now`. Says whether somebody has to look before what was the
    /// [`deadline`](Self::deadline).
    pub fn push(&mut self, now: u64, transfer: Transfer) -> bool {
        let before = self.due;
        self.settle(now);
        if self.waiting.is_empty() && self.has_place() {
            self.begin(now, transfer);
        } else {
            self.waiting.push(transfer);
        }
        self.due = self.next_event().min(self.given_up_at());
        self.due < before || self.is_dead
    }

    /// Takes a transfer that is over at the time `now`, and how it ended; the caller moves the bytes of a good one.
    pub fn take(&mut self, now: u64) -> Option<(Transfer, TransferResult)> {
        self.settle(now);
        if let Some(transfer) = self.done.pop() {
            return Some((transfer, Ok(())));
        }
        if let Some(transfer) = self.failed.pop() {
            let sector = transfer.segments().first().map_or(0, |segment| segment.sector);
            return Some((transfer, Err(TransferError::Device { sector })));
        }
        if self.is_dead {
            let left = self.hung.pop().or_else(|| self.waiting.pop())?;
            return Some((left, Err(TransferError::Timeout)));
        }
        None
    }

    /// Gives the disk up: what hangs or has not begun fails, and so does all that comes later.
    pub fn give_up(&mut self) {
        self.is_dead = true;
        self.due = self.next_event();
    }

    /// When to look again; none if the disk has nothing to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        Some(self.due).filter(|&due| due != u64::MAX)
    }

    /// Transfers that it was given and has not given back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let queues = [&self.waiting, &self.done, &self.failed, &self.hung];
        let queued: usize = queues.into_iter().map(TransferQueue::len).sum();
        queued + self.in_service.len() + self.on_line.len()
    }

    /// The next time at which a transfer moves on.
    fn next_event(&self) -> u64 {
        let at = |active: Option<&Active>| active.map_or(u64::MAX, |active| active.at);
        let served = at(self.in_service.front());
        if self.on_line.is_empty() {
            return served;
        }
        at(self.on_line.front()).min(served)
    }

    /// When the disk is given up.
    fn given_up_at(&self) -> u64 {
        match self.hung_since {
            Some(since) if !self.is_dead => since.saturating_add(self.behaviour.limit),
            _ => u64::MAX,
        }
    }

    /// Brings everything to where it is at the time `now`.
    fn settle(&mut self, now: u64) {
        if now >= self.due {
            self.move_on(now);
        }
    }

    fn move_on(&mut self, now: u64) {
        let mut at = self.next_event();
        while at <= now {
            if !self.on_line.is_empty() && self.on_line.front().is_some_and(|active| active.at == at) {
                if let Some(active) = self.on_line.pop_front() {
                    self.end(active);
                }
                self.fill(at);
            } else {
                let Some(mut active) = self.in_service.pop_front() else {
                    break;
                };
                active.at = self.line_free.max(at) + self.time_on_line(&active.transfer);
                self.line_free = active.at;
                if active.at > at {
                    push_back(&mut self.on_line, active);
                } else {
                    self.end(active);
                    self.fill(at);
                }
            }
            at = self.next_event();
        }
        let limit = self.behaviour.limit;
        self.is_dead |= self.hung_since.is_some_and(|since| now >= since.saturating_add(limit));
        self.due = at.min(self.given_up_at());
    }

    fn end(&mut self, active: Active) {
        let over = if active.fails { &mut self.failed } else { &mut self.done };
        over.push(active.transfer);
    }

    fn has_place(&self) -> bool {
        let depth = usize::from(self.behaviour.depth.max(1));
        !self.is_dead && self.in_service.len() + self.on_line.len() < depth
    }

    /// Starts what finds a place at the time `now`.
    fn fill(&mut self, now: u64) {
        while !self.waiting.is_empty() && self.has_place() {
            let Some(transfer) = self.waiting.pop() else { return };
            self.begin(now, transfer);
        }
    }

    /// Takes a transfer into service at the time `now`.
    #[inline]
    fn begin(&mut self, now: u64, transfer: Transfer) {
        self.started += 1;
        if self.behaviour.hang != 0 && self.started >= self.behaviour.hang {
            self.hung_since.get_or_insert(now);
            self.hung.push(transfer);
            return;
        }
        let at = now.saturating_add(self.draw_latency());
        let fails = self.behaviour.errors != 0 && self.draw() % 1_000_000_000 < u64::from(self.behaviour.errors);
        push_back(&mut self.in_service, Active { at, transfer, fails });
        if self.behaviour.jitter != 0 {
            self.sort_newest(at);
        }
    }

    /// Moves the transfer that came into service last, whose service ends at `at`, before those that end later.
    fn sort_newest(&mut self, at: u64) {
        let mut index = self.in_service.len() - 1;
        while index > 0
            && let [earlier, later] = [index - 1, index]
            && self.in_service.get(earlier).is_some_and(|active| active.at > at)
        {
            swap(&mut self.in_service, earlier, later);
            index -= 1;
        }
    }

    fn time_on_line(&self, transfer: &Transfer) -> u64 {
        let bandwidth = u128::from(self.behaviour.bandwidth);
        if bandwidth == 0 {
            return 0;
        }
        let bytes = transfer.length();
        debug_assert!(bytes.is_multiple_of(SECTOR_SIZE));
        (u128::from(bytes) * SECOND / bandwidth) as u64
    }

    fn draw_latency(&mut self) -> u64 {
        let (latency, jitter) = (self.behaviour.latency, u64::from(self.behaviour.jitter));
        if jitter == 0 {
            return latency;
        }
        // Millionths from `1_000_000 - jitter` to `1_000_000 + jitter`.
        let part = 1_000_000 + self.draw() % (2 * jitter + 1) - jitter.min(1_000_000);
        (u128::from(latency) * u128::from(part) / 1_000_000) as u64
    }

    /// The next random number (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// Both queues have room for `depth` from the start, and no more are in them together.
#[inline]
fn push_back(queue: &mut VecDeque<Active>, active: Active) {
    let pushed = queue.push_within_capacity(active);
    debug_assert!(pushed.is_ok(), "room was reserved for every transfer");
}

fn swap(queue: &mut VecDeque<Active>, one: usize, other: usize) {
    let (front, back) = queue.as_mut_slices();
    let split = front.len();
    match (one < split, other < split) {
        (true, true) => front.swap(one, other),
        (true, false) => core::mem::swap(&mut front[one], &mut back[other - split]),
        _ => back.swap(one - split, other - split),
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::sync::Mutex;
    use std::vec::Vec;

    use faultline_mm::{BlockDevice, Completion, Direction, Finished, Segment, Transfers};
    use x86_64::PhysAddr;
    use x86_64::structures::paging::PhysFrame;

    use super::*;

    const QUICK: Behaviour = Behaviour {
        latency: 10_000,
        bandwidth: 0,
        depth: 2,
        jitter: 0,
        errors: 0,
        seed: 7,
        hang: 0,
        limit: u64::MAX,
    };

    /// A disk, the time, and what ended when.
    struct Bench {
        disk: Mutex<ModelDisk>,
        now: Mutex<u64>,
        ended: Mutex<Vec<(u64, u64, TransferResult)>>,
        transfers: Transfers,
    }

    impl BlockDevice for Bench {
        fn name(&self) -> &str {
            "model"
        }
        fn sectors(&self) -> u64 {
            1 << 20
        }
        fn start(&self, transfer: Transfer) {
            self.disk.lock().unwrap().push(*self.now.lock().unwrap(), transfer);
        }
    }

    impl Completion for Bench {
        fn finished(&'static self, finished: Finished, result: TransferResult) {
            let now = *self.now.lock().unwrap();
            self.ended.lock().unwrap().push((finished.tag(), now, result));
        }
    }

    impl Bench {
        fn new(behaviour: Behaviour) -> &'static Self {
            let bench: &'static Self = Box::leak(Box::new(Self {
                disk: Mutex::new(ModelDisk::new(behaviour).unwrap()),
                now: Mutex::default(),
                ended: Mutex::default(),
                transfers: Transfers::new(),
            }));
            bench.transfers.add(64).unwrap();
            bench
        }

        fn read(&'static self, tag: u64, pages: u64) {
            let mut prepared = self.transfers.prepare(Direction::Read).unwrap();
            for page in 0..pages {
                let frame = PhysFrame::containing_address(PhysAddr::new(0x1000));
                prepared.push(Segment::page(8 * page, frame));
            }
            prepared.start(self, self, tag);
        }

        /// Looks at every deadline until there is none. Returns number and time of each end.
        fn run(&'static self) -> Vec<(u64, u64)> {
            while let Some(deadline) = { self.disk.lock().unwrap().deadline() } {
                *self.now.lock().unwrap() = deadline;
                while let Some((transfer, result)) = { self.disk.lock().unwrap().take(deadline) } {
                    transfer.complete(result);
                }
            }
            assert_eq!(self.disk.lock().unwrap().in_flight(), 0);
            assert_eq!(self.transfers.in_use(), 0);
            let ended = self.ended.lock().unwrap();
            ended.iter().map(|(tag, at, _)| (*tag, *at)).collect()
        }
    }

    #[test]
    fn depth_is_how_many_are_served_at_once() {
        let bench = Bench::new(QUICK);
        (0..5).for_each(|tag| bench.read(tag, 1));
        let expected = [(0, 10_000), (1, 10_000), (2, 20_000), (3, 20_000), (4, 30_000)];
        assert_eq!(bench.run(), expected);
    }

    #[test]
    fn the_line_carries_one_after_the_other() {
        let bench = Bench::new(Behaviour {
            bandwidth: 4_096_000_000,
            depth: 8,
            ..QUICK
        });
        bench.read(0, 10);
        bench.read(1, 1);
        bench.read(2, 1);
        assert_eq!(bench.run(), [(0, 20_000), (1, 21_000), (2, 22_000)]);
    }

    #[test]
    fn who_looks_late_changes_nothing() {
        let bench = Bench::new(QUICK);
        (0..4).for_each(|tag| bench.read(tag, 1));
        *bench.now.lock().unwrap() = 17_000;
        // Two are over for the disk, though nobody has taken them: the next starts at once.
        bench.read(4, 1);
        let expected = [(0, 20_000), (1, 20_000), (2, 20_000), (3, 20_000), (4, 30_000)];
        assert_eq!(bench.run(), expected);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_repeats() {
        let shaky = Behaviour {
            jitter: 100_000,
            depth: 32,
            ..QUICK
        };
        let run = |seed| {
            let bench = Bench::new(Behaviour { seed, ..shaky });
            (0..32).for_each(|tag| bench.read(tag, 1));
            bench.run()
        };
        let ended = run(7);
        assert!(ended.iter().all(|&(_, at)| (9_000..=11_000).contains(&at)), "{ended:?}");
        assert!(!ended.is_sorted_by_key(|&(tag, _)| tag), "they overtake each other");
        assert_eq!(ended, run(7));
        assert_ne!(ended, run(8));
    }

    #[test]
    fn errors_come_at_their_rate() {
        let bench = Bench::new(Behaviour {
            errors: 250_000_000,
            depth: 64,
            ..QUICK
        });
        for _ in 0..100 {
            (0..10).for_each(|tag| bench.read(tag, 1));
            bench.run();
        }
        let failed = bench
            .ended
            .lock()
            .unwrap()
            .iter()
            .filter(|(.., end)| end.is_err())
            .count();
        assert!((200..300).contains(&failed), "{failed} of 1000");
    }

    #[test]
    fn a_disk_that_hangs_ends_everything_at_its_limit() {
        let bench = Bench::new(Behaviour {
            hang: 3,
            limit: 1_000_000,
            ..QUICK
        });
        (1..6).for_each(|tag| bench.read(tag, 1));
        let ended = bench.run();
        assert_eq!(ended[..2], [(1, 10_000), (2, 10_000)]);
        assert_eq!(ended[2..], [(3, 1_010_000), (4, 1_010_000), (5, 1_010_000)]);
        bench.read(6, 1);
        let dead = { bench.disk.lock().unwrap().take(2_000_000) };
        let (transfer, result) = dead.expect("a dead disk answers at once");
        assert_eq!(result, Err(TransferError::Timeout));
        transfer.complete(result);
    }
}
