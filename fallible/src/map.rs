//! An ordered map: a red-black tree of nodes in blocks of their own.
//!
//! The tree (of `intrusive-collections`) never allocates. Each entry is one block, so that a map of any size needs no
//! large piece of memory, and inserting into a map with a [`Spare`] can't fail.

use alloc::boxed::Box as Boxed;
use core::{
    borrow::Borrow,
    fmt,
    mem::MaybeUninit,
    ops::{Bound, RangeBounds},
    ptr::NonNull,
};

use intrusive_collections::{
    KeyAdapter, RBTree, RBTreeLink, intrusive_adapter,
    rbtree::{self, CursorMut},
};

use crate::{AllocError, Box};

/// One entry.
struct Node<K, V> {
    link: RBTreeLink,
    key: K,
    value: V,
}

intrusive_adapter!(NodeAdapter<K, V> = Boxed<Node<K, V>>: Node<K, V> { link => RBTreeLink });

impl<'a, K: Ord + 'static, V: 'static> KeyAdapter<'a> for NodeAdapter<K, V> {
    type Key = Key<'a, K>;

    fn get_key(&self, node: &'a Node<K, V>) -> Key<'a, K> {
        Key(&node.key)
    }
}

/// A node's key, as the tree compares it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a, K>(&'a K);

/// A form of the key that is looked for: a slice where the keys are vectors. A type of its own, because the tree wants
/// to borrow it from [`Key`], where the standard library has an implementation for references already.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
struct Form<Q: ?Sized>(Q);

impl<Q: ?Sized> Form<Q> {
    fn of(form: &Q) -> &Self {
        // SAFETY: a transparent structure has the layout of its only field, and so has a pointer to it.
        unsafe { &*(core::ptr::from_ref(form) as *const Self) }
    }
}

impl<K: Borrow<Q>, Q: ?Sized> Borrow<Form<Q>> for Key<'_, K> {
    fn borrow(&self) -> &Form<Q> {
        Form::of(self.0.borrow())
    }
}

/// An ordered map, as the standard library's `BTreeMap`: lookup, insertion and removal take a number of steps that is
/// logarithmic in its size. It can be sent to another thread, but not shared without a lock. Keys and values own what
/// they refer to, as the tree's trait for keys wants it.
pub struct OrderedMap<K, V> {
    tree: RBTree<NodeAdapter<K, V>>,
    len: usize,
}

/// Room for one entry of an [`OrderedMap`]: what is inserted with it later can't fail.
pub struct Spare<K, V>(Boxed<MaybeUninit<Node<K, V>>>);

impl<K, V> Spare<K, V> {
    /// Allocates room for one entry.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_new() -> Result<Self, AllocError> {
        let block = Box::try_new_with(MaybeUninit::uninit)?;
        Ok(Self(block.into_std()))
    }

    fn fill(self, key: K, value: V) -> Boxed<Node<K, V>> {
        Boxed::write(
            self.0,
            Node {
                link: RBTreeLink::new(),
                key,
                value,
            },
        )
    }
}

impl<K, V> OrderedMap<K, V> {
    /// An empty map; allocates nothing.
    pub const fn new() -> Self {
        Self {
            tree: RBTree::new(NodeAdapter::NEW),
            len: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops all entries.
    pub fn clear(&mut self) {
        self.tree.clear();
        self.len = 0;
    }

    /// The entries in ascending order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter(self.tree.iter())
    }

    /// The entries in ascending order of their keys.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        IterMut(self.tree.front_mut())
    }

    /// The keys in ascending order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values in ascending order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The values in ascending order of their keys.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// The entry with the lowest key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.tree.front().get().map(Node::parts)
    }

    /// The entry with the highest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        self.tree.back().get().map(Node::parts)
    }

    /// Removes the entry with the lowest key.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let node = self.tree.front_mut().remove()?;
        self.len -= 1;
        Some((node.key, node.value))
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let mut cursor = self.tree.front_mut();
        while let Some(node) = cursor.get_ptr() {
            // SAFETY: as in `value_of`; the key and the value are different parts of the node.
            let keeps = unsafe { keep(&(*node.as_ptr()).key, &mut (*node.as_ptr()).value) };
            if keeps {
                cursor.move_next();
            } else {
                cursor.remove();
                self.len -= 1;
            }
        }
    }
}

impl<K: Ord + 'static, V: 'static> OrderedMap<K, V> {
    /// The value of `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.tree.find(Form::of(key)).get().map(|node| &node.value)
    }

    /// The value of `key`.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        value_of(&mut self.tree.find_mut(Form::of(key)))
    }

    /// Whether there is a value of `key`.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Sets the value of `key`; returns the one that it had.
    ///
    /// # Errors
    /// There is no memory; the key and the value have been dropped.
    pub fn try_insert(&mut self, key: K, value: V) -> Result<Option<V>, AllocError> {
        match self.get_mut(&key) {
            Some(old) => Ok(Some(core::mem::replace(old, value))),
            None => {
                self.add(Spare::try_new()?, key, value);
                Ok(None)
            }
        }
    }

    /// Sets the value of `key`, in the room of `spare` if it is new; returns the one that it had.
    pub fn insert_spare(&mut self, spare: Spare<K, V>, key: K, value: V) -> Option<V> {
        match self.get_mut(&key) {
            Some(old) => Some(core::mem::replace(old, value)),
            None => {
                self.add(spare, key, value);
                None
            }
        }
    }

    /// Adds a key that is not there yet.
    fn add(&mut self, spare: Spare<K, V>, key: K, value: V) {
        self.tree.insert(spare.fill(key, value));
        self.len += 1;
    }

    /// Removes the entry of `key`.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Removes the entry of `key`.
    pub fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let node = self.tree.find_mut(Form::of(key)).remove()?;
        self.len -= 1;
        Some((node.key, node.value))
    }

    /// The entries whose keys are in `range`, in ascending order.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> impl DoubleEndedIterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (start, end) = (form_of(range.start_bound()), form_of(range.end_bound()));
        self.tree.range::<Form<Q>, Form<Q>>(start, end).map(Node::parts)
    }

    /// The entry with the lowest key that is above `bound`.
    pub fn lower_bound<Q: Ord + ?Sized>(&self, bound: Bound<&Q>) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.tree.lower_bound::<Form<Q>>(form_of(bound)).get().map(Node::parts)
    }

    /// The entry with the highest key that is below `bound`.
    pub fn upper_bound<Q: Ord + ?Sized>(&self, bound: Bound<&Q>) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.tree.upper_bound::<Form<Q>>(form_of(bound)).get().map(Node::parts)
    }
}

impl<K, V> Node<K, V> {
    fn parts(&self) -> (&K, &V) {
        (&self.key, &self.value)
    }
}

/// A bound as the tree has it.
fn form_of<Q: ?Sized>(bound: Bound<&Q>) -> intrusive_collections::Bound<&Form<Q>> {
    match bound {
        Bound::Included(key) => intrusive_collections::Bound::Included(Form::of(key)),
        Bound::Excluded(key) => intrusive_collections::Bound::Excluded(Form::of(key)),
        Bound::Unbounded => intrusive_collections::Bound::Unbounded,
    }
}

/// The value of the node that the cursor is at, for as long as the tree is borrowed.
fn value_of<'a, K, V>(cursor: &mut CursorMut<'a, NodeAdapter<K, V>>) -> Option<&'a mut V> {
    // SAFETY: 1. the node is in the tree, which is borrowed exclusively for 'a; 2. both callers give out the value of a
    //    node once in that time: `get_mut` drops the cursor, `IterMut` moves it on; 3. moving a cursor uses links only.
    cursor
        .get_ptr()
        .map(|node: NonNull<Node<K, V>>| unsafe { &mut (*node.as_ptr()).value })
}

/// The entries of an [`OrderedMap`].
pub struct Iter<'a, K, V>(rbtree::Iter<'a, NodeAdapter<K, V>>);

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(Node::parts)
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(Node::parts)
    }
}

/// The entries of an [`OrderedMap`], whose values may be changed.
pub struct IterMut<'a, K, V>(CursorMut<'a, NodeAdapter<K, V>>);

impl<'a, K, V> Iterator for IterMut<'a, K, V> {
    type Item = (&'a K, &'a mut V);

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the key is in a node of the tree, which is borrowed for 'a; nobody changes keys.
        let key = self.0.get_ptr().map(|node| unsafe { &(*node.as_ptr()).key })?;
        let value = value_of(&mut self.0)?;
        self.0.move_next();
        Some((key, value))
    }
}

impl<'a, K, V> IntoIterator for &'a OrderedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K, V> Default for OrderedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for OrderedMap<K, V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for OrderedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for OrderedMap<K, V> {}
