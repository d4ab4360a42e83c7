//! Every operation that allocates, with an allocation that fails at each index: the error comes back, nothing is
//! changed, and nothing leaks. Run under Miri as well: `cargo +nightly miri test -p faultline-fallible`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::{Debug, Write},
    task::{Context, Poll, Waker},
};

use faultline_fallible::{
    AllocError, Arc, Box, OrderedMap, Spare, String, Vec, VecDeque, Weak, try_format, try_future, unsize,
};

/// The system's allocator, which fails on command and counts the blocks of each thread.
struct Failing;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static BLOCKS: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every block comes from and goes to the system's allocator.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LEFT.get() == 0 {
            return core::ptr::null_mut();
        }
        LEFT.set(LEFT.get().saturating_sub(1));
        BLOCKS.set(BLOCKS.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BLOCKS.set(BLOCKS.get() - 1);
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `f` with the n-th allocation failing, for each n until it succeeds; returns how many failed.
fn at_each_index<T: PartialEq + Debug>(right: &T, f: impl Fn() -> Result<T, AllocError>) -> usize {
    for n in 0.. {
        let before = BLOCKS.get();
        LEFT.set(n);
        let result = f();
        LEFT.set(usize::MAX);
        match result {
            Ok(value) => {
                assert_eq!(&value, right);
                drop(value);
                assert_eq!(BLOCKS.get(), before, "a leak when nothing fails");
                return n;
            }
            Err(AllocError) => assert_eq!(BLOCKS.get(), before, "a leak when allocation {n} fails"),
        }
    }
    unreachable!()
}

/// A value whose drops are counted.
struct Counts<'a>(&'a Cell<u32>);

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn boxes_fail() {
    assert_eq!(at_each_index(&7, || Ok(Box::try_new(7)?.into_inner())), 1);
    assert_eq!(at_each_index(&[0; 0], || Ok(Box::try_new([])?.into_inner())), 0);
    let poll = || {
        let number = 5;
        let mut future = try_future(async { number + 1 })?;
        Ok(future.as_mut().poll(&mut Context::from_waker(Waker::noop())))
    };
    assert_eq!(at_each_index(&Poll::Ready(6), poll), 1);
    let slice = || Box::try_from_iter([3, 1, 2].into_iter());
    assert_eq!(at_each_index(&slice().unwrap(), slice), 1);
    assert_eq!(at_each_index(&3, || Ok(slice()?.len())), 1);
}

#[test]
fn a_value_that_finds_no_memory_is_dropped() {
    let drops = Cell::new(0);
    LEFT.set(0);
    let results = [
        Box::try_new(Counts(&drops)).is_err(),
        Box::try_pin(Counts(&drops)).is_err(),
        Arc::try_new(Counts(&drops)).is_err(),
        Vec::new().try_push(Counts(&drops)).is_err(),
        VecDeque::new().try_push_back(Counts(&drops)).is_err(),
    ];
    let back = Vec::new().try_push_or_return(Counts(&drops));
    LEFT.set(usize::MAX);
    assert_eq!(results, [true; 5]);
    assert_eq!(drops.get(), 5);
    drop(back);
    assert_eq!(drops.get(), 6);
}

#[test]
fn counted_references_fail() {
    let shared = || {
        let arc = Arc::try_new(vec_of(3)?)?;
        let weak = Arc::downgrade(&arc);
        let other = arc.clone();
        assert_eq!((Arc::strong_count(&arc), Arc::weak_count(&arc)), (2, 1));
        drop(arc);
        assert!(weak.upgrade().is_some_and(|arc| Arc::ptr_eq(&arc, &other)));
        let len = other.len();
        drop(other);
        assert!(weak.upgrade().is_none());
        Ok(len)
    };
    assert_eq!(at_each_index(&3, shared), 2);
    let object = || {
        let object: Arc<dyn Debug + Send + Sync> = unsize!(Arc::try_new(9)? => dyn Debug + Send + Sync);
        let weak = Arc::downgrade(&object);
        drop(object.clone());
        drop(object);
        Ok(weak.upgrade().is_none())
    };
    assert_eq!(at_each_index(&true, object), 1);
    let changed = || {
        let mut first = Arc::try_new([1, 2])?;
        Arc::try_make_mut(&mut first)?[0] = 5;
        let second = first.clone();
        Arc::try_make_mut(&mut first)?[1] = 6;
        Ok((*first, *second))
    };
    assert_eq!(at_each_index(&([5, 6], [5, 2]), changed), 2);
}

#[test]
fn references_alone_give_the_value() {
    let mut arc = Arc::try_new(1).unwrap();
    *Arc::get_mut(&mut arc).unwrap() = 2;
    let weak = Arc::downgrade(&arc);
    assert!(Arc::get_mut(&mut arc).is_none());
    drop(weak);
    let other = arc.clone();
    assert!(Arc::get_mut(&mut arc).is_none());
    let arc = arc.try_unwrap().unwrap_err();
    drop(other);
    let weak = Arc::downgrade(&arc);
    assert_eq!(arc.try_unwrap(), Ok(2));
    assert!(weak.upgrade().is_none());
    assert!(Weak::<u32>::new().upgrade().is_none());
    assert!(Weak::<u32>::new().clone().ptr_eq(&Weak::new()));
}

#[test]
fn references_are_counted_on_several_threads() {
    let arc = Arc::try_new(Cell::new(0).into_inner()).unwrap();
    let weak = Arc::downgrade(&arc);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (arc, weak) = (arc.clone(), weak.clone());
            scope.spawn(move || {
                for _ in 0..20 {
                    drop((arc.clone(), Arc::downgrade(&arc), weak.upgrade()));
                }
                drop(arc);
                while weak.upgrade().is_some() {
                    std::thread::yield_now();
                }
            });
        }
        drop(arc);
    });
    assert!(weak.upgrade().is_none());
}

fn vec_of(len: u32) -> Result<Vec<u32>, AllocError> {
    let mut new = Vec::new();
    for element in 0..len {
        new.try_push(element)?;
    }
    Ok(new)
}

#[test]
fn vectors_fail() {
    let grown = || {
        let mut first = vec_of(9)?;
        first.try_insert(0, 7)?;
        first.try_extend_from_slice(&[8, 9])?;
        let mut second = first.try_clone()?;
        second.try_append(&mut first)?;
        let tail = second.try_split_off(10)?;
        second.try_resize(12, 1)?;
        second.shrink();
        assert!(first.is_empty());
        Ok((second.try_into_boxed_slice()?.len(), tail.len()))
    };
    assert!(at_each_index(&(12, 14), grown) >= 6);
    let nested = || {
        let names = Vec::try_from_iter([vec_of(1)?, vec_of(2)?])?;
        names.try_clone_with(Vec::try_clone)
    };
    assert_eq!(at_each_index(&nested().unwrap(), nested), 6);
}

#[test]
fn an_error_changes_nothing() {
    let mut vec = vec_of(4).unwrap();
    vec.shrink();
    let mut deque = VecDeque::new();
    deque.try_extend_from_slice(&[1, 2]).unwrap();
    let mut text = String::try_from_str("text").unwrap();
    let mut map = OrderedMap::new();
    map.try_insert(1, 1).unwrap();
    let spare = Spare::try_new().unwrap();
    LEFT.set(0);
    assert_eq!(vec.try_extend_from_slice(&[0; 100]), Err(AllocError));
    assert_eq!(vec.try_insert(0, 0), Err(AllocError));
    assert_eq!(deque.try_extend_from_slice(&[0; 100]), Err(AllocError));
    assert_eq!(text.try_push_str("a longer text that has no room"), Err(AllocError));
    assert_eq!(map.try_insert(2, 2), Err(AllocError));
    // A value that is replaced, or has room, needs no memory.
    assert_eq!(map.try_insert(1, 3), Ok(Some(1)));
    assert_eq!(map.insert_spare(spare, 4, 4), None);
    LEFT.set(usize::MAX);
    assert_eq!(vec, [0, 1, 2, 3]);
    assert_eq!(deque.iter().copied().collect::<std::vec::Vec<_>>(), [1, 2]);
    assert_eq!(text, "text");
    assert_eq!(map.iter().collect::<std::vec::Vec<_>>(), [(&1, &3), (&4, &4)]);
}

#[test]
fn text_fails() {
    let text = || try_format!("{}: {:?} {}", 1, [2, 3], "a text that is longer than the first block");
    assert!(at_each_index(&text().unwrap(), text) >= 2);
    let bytes = || {
        let mut bytes = Vec::new();
        write!(bytes, "{:08x}", 0xabc).map_err(|_| AllocError)?;
        bytes.try_push(b'\n')?;
        Ok(bytes)
    };
    assert_eq!(&bytes().unwrap()[..], b"00000abc\n");
    assert!(at_each_index(&bytes().unwrap(), bytes) >= 1);
}

#[test]
fn maps_fail() {
    let map = || {
        let mut map = OrderedMap::new();
        for key in [5, 1, 3, 4, 2] {
            map.try_insert(Vec::try_of(key, 1)?, key)?;
        }
        map.remove(&[3][..]);
        Ok(map)
    };
    assert_eq!(at_each_index(&map().unwrap(), map), 10);
}
