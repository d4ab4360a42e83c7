//! The names in a directory.
//!
//! Names are kept in the order of a hash, in one tree: a name is found in a number of steps that is the logarithm of
//! how many there are, and a listing goes on behind any place, whatever came or went since it was there. The place of a
//! name, which is its hash, is also the offset that a listing shows to programs. It does not change while the name
//! exists, so a listing names what was there all the time exactly once, as POSIX asks. The hash is keyed by chance of
//! the run, so that nobody can choose names that have the same.

use core::borrow::Borrow;
use core::cmp::Ordering;
use core::ops::{Bound, Deref};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faultline_fallible::{AllocError, Arc, OrderedMap, Spare, Vec};
use spin::Mutex;

use super::Node;

/// Longest name of a file.
pub const NAME_MAX: usize = 255;

/// The places of names lie from here up to [`LAST`]: those below are `.` and `..`.
const FIRST: u64 = 8;

/// The end of the places of names; what a directory lists beside them is above.
pub const LAST: u64 = 1 << 62;

/// The key of the hash.
static KEY: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Sets the key of the hash; before the tree is built.
pub fn set_key(key: u64) {
    KEY.store(key | 1, Relaxed);
}

/// A name.
#[derive(Debug)]
pub enum Name {
    /// Where it stands in the boot archive.
    Archive(&'static [u8]),
    /// A copy.
    Own(Vec<u8>),
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Archive(name) => name,
            Self::Own(name) => name,
        }
    }
}

/// Where a name is among the others: first by its hash, then by its bytes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    place: u64,
    name: &'a [u8],
}

/// What a name can be compared by: itself, or what is looked for.
trait AsKey {
    fn key(&self) -> Key<'_>;
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn AsKey + '_ {}

impl PartialOrd for dyn AsKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn AsKey + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl AsKey for Key<'_> {
    fn key(&self) -> Key<'_> {
        Key { ..*self }
    }
}

struct Placed {
    place: u64,
    name: Name,
}

impl AsKey for Placed {
    fn key(&self) -> Key<'_> {
        Key {
            place: self.place,
            name: &self.name,
        }
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a> Borrow<dyn AsKey + 'a> for Placed {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        self
    }
}

/// Memory for a name that is to come.
pub struct Room {
    spare: Spare<Placed, Arc<Node>>,
    name: Name,
}

impl Room {
    /// Room for `name`.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn new(name: &[u8]) -> Result<Self, AllocError> {
        Self::of(Name::Own(Vec::try_from_slice(name)?))
    }

    /// Room for a name that needs no copy.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn of(name: Name) -> Result<Self, AllocError> {
        Ok(Self {
            spare: Spare::try_new()?,
            name,
        })
    }
}

/// The names in a directory.
#[derive(Default)]
pub struct Entries {
    names: Mutex<OrderedMap<Placed, Arc<Node>>>,
    /// Whether it is `/proc`, where the directories of processes are listed as well.
    pub processes: bool,
}

impl Entries {
    /// Those of `/proc`.
    #[must_use]
    pub fn of_processes() -> Self {
        Self {
            processes: true,
            ..Self::default()
        }
    }

    /// What a name names.
    pub fn get(&self, name: &[u8]) -> Option<Arc<Node>> {
        let place = place_of(name);
        let names = self.names.lock();
        names.get::<dyn AsKey>(&Key { place, name }).cloned()
    }

    /// Adds a name; returns its place, and what it named before.
    pub fn insert(&self, room: Room, node: Arc<Node>) -> (u64, Option<Arc<Node>>) {
        let place = place_of(&room.name);
        let placed = Placed { place, name: room.name };
        let mut names = self.names.lock();
        (place, names.insert_spare(room.spare, placed, node))
    }

    /// Takes a name away.
    pub fn remove(&self, name: &[u8]) -> Option<Arc<Node>> {
        let place = place_of(name);
        let removed = {
            let mut names = self.names.lock();
            names.remove_entry::<dyn AsKey>(&Key { place, name })
        };
        removed.map(|(_, node)| node)
    }

    /// Lets a name that there is name something else; returns what it named.
    pub fn replace(&self, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        let place = place_of(name);
        let mut names = self.names.lock();
        let old = names.get_mut::<dyn AsKey>(&Key { place, name })?;
        Some(core::mem::replace(old, node))
    }

    /// Calls `each` with the names behind `after`, and their places, in order, as long as it returns true.
    pub fn list(&self, after: u64, mut each: impl FnMut(&[u8], u64, &Arc<Node>) -> bool) {
        let from = Key {
            place: after.saturating_add(1),
            name: b"",
        };
        let names = self.names.lock();
        let range = (Bound::Included(&from as &dyn AsKey), Bound::Unbounded);
        for (placed, node) in names.range::<dyn AsKey>(range) {
            if !each(&placed.name, placed.place, node) {
                return;
            }
        }
    }

    /// Calls `with` with the name of a node whose name has this place.
    pub fn name_at<T>(&self, place: u64, node: &Node, with: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let from = Key { place, name: b"" };
        let names = self.names.lock();
        let range = (Bound::Included(&from as &dyn AsKey), Bound::Unbounded);
        names
            .range::<dyn AsKey>(range)
            .take_while(|(placed, _)| placed.place == place)
            .find(|(_, found)| core::ptr::eq(&raw const ***found, node))
            .map(|(placed, _)| with(&placed.name))
    }

    /// The first of the names, if it names a directory that has names; takes it away if not. `None` when no name is left.
    pub fn take_apart(&self) -> Option<Option<Arc<Node>>> {
        let mut names = self.names.lock();
        let (_, node) = names.first()?;
        if node.entries().is_some_and(|entries| !entries.is_empty()) {
            return Some(Some(node.clone()));
        }
        let removed = names.pop_first();
        drop(names);
        drop(removed);
        Some(None)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.lock().is_empty()
    }
}

/// Where a name goes: its hash, between the places of `.` and `..` and [`LAST`].
pub fn place_of(name: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;
    let key = KEY.load(Relaxed);
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(key ^ MULTIPLIER);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut hash = fold(key, name.len() as u64);
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = fold(hash.rotate_left(23), u64::from_le_bytes(word));
    }
    (fold(hash, key) >> 2).clamp(FIRST, LAST - 1)
}
