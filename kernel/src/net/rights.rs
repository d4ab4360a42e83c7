//! Open files on their way through sockets (`SCM_RIGHTS`).
//!
//! # Chains
//!
//! A socket on its way may have other sockets in its inbox, and so on, as deep as programs like. So the end of a message with
//! open files drops none of them: they go into a list, from which a task of the kernel takes one after the other.
//!
//! # Circles
//!
//! A socket that is only held by messages which only such sockets could receive is garbage: no program can reach it. When a
//! socket is closed while others are on their way, the task looks for garbage ([`collect`]), by counting:
//!
//! 1. A *candidate* is a socket all of whose references are in messages.
//! 2. What candidates have in their inboxes, and in those of the connections that wait in them, is taken off the counts.
//! 3. A candidate with something left is held from outside; what is in its inbox is held, too, and so on.
//! 4. The others are garbage. Their messages lose their open files, and with these the circle ends.
//!
//! A message that is in no inbox, because it is being sent or received, counts as held from outside. References can't come
//! into being meanwhile: a candidate has no descriptor, so that nobody can receive from it, send it, or open it. So the
//! search may find too little garbage, for which there is a next time, but never too much.
//!
//! How many open files are on their way in the machine is bounded, so the search is.

use core::convert::Infallible;
use core::ops::Bound;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use faultline_executor::{Class, WaitQueue, yield_now};
use faultline_fallible::{Arc, Box, OrderedMap, Vec, Weak};
use spin::Mutex;

use super::Socket;
use crate::fs::{FileKind, OpenFile};
use crate::machine::executor;
use crate::syscall::Errno;

/// Most open files in one message, as on Linux.
pub const MOST: usize = 253;

/// Most sockets on their way in the machine, through all of which a search for garbage goes in one step.
const MOST_SOCKETS: usize = 1024;

/// Most open files on their way in the machine.
const MOST_IN_ALL: usize = 4096;

/// Open files in a message.
pub struct Rights {
    /// None when they were received.
    parcel: Option<Box<Parcel>>,
    /// Whether they count as being on their way.
    is_counted: bool,
}

/// Open files, and the place of the parcel in the list of what is to be dropped.
struct Parcel {
    files: Vec<Arc<OpenFile>>,
    next: Option<Box<Parcel>>,
}

/// A socket on its way.
struct Flight {
    file: Weak<OpenFile>,
    /// In how many messages.
    count: usize,
    /// References that no candidate's inbox holds; none for who is no candidate, or was found to be held.
    unexplained: Option<usize>,
    /// The next of those that are held and were not looked into.
    next: Option<usize>,
}

/// The sockets on their way, by the addresses of their open files.
static FLIGHTS: Mutex<OrderedMap<usize, Flight>> = Mutex::new(OrderedMap::new());

/// Open files on their way.
static FILES: AtomicUsize = AtomicUsize::new(0);

/// What is to be dropped.
static DROPPED: Mutex<Option<Box<Parcel>>> = Mutex::new(None);

/// A socket was closed since the last search for garbage.
static IS_DUE: AtomicBool = AtomicBool::new(false);

/// The task, while there is nothing to do.
static TASK: WaitQueue = WaitQueue::new();

impl Rights {
    /// Open files that are to be sent.
    ///
    /// # Errors
    /// `ETOOMANYREFS` if too many are on their way already, `ENOMEM`.
    pub fn try_new(files: Vec<Arc<OpenFile>>) -> Result<Box<Self>, Errno> {
        let count = files.len();
        let add = |all| (all + count <= MOST_IN_ALL).then_some(all + count);
        let parcel = Box::try_new(Parcel { files, next: None })?;
        let mut rights = Box::try_new(Self {
            parcel: Some(parcel),
            is_counted: false,
        })?;
        let added = FILES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.map_err(|_| Errno::ETOOMANYREFS)?;
        let mut flights = FLIGHTS.lock();
        let files = rights.files();
        for (index, file) in files.iter().enumerate() {
            if socket_of(file).is_some()
                && let Err(errno) = depart(&mut flights, file)
            {
                files[..index].iter().for_each(|file| arrive(&mut flights, file));
                FILES.fetch_sub(count, Ordering::Relaxed);
                drop(flights);
                return Err(errno);
            }
        }
        drop(flights);
        rights.is_counted = true;
        Ok(rights)
    }

    /// The same files once more, for who only peeks: these do not count as being on their way.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn try_share(&self) -> Result<Box<Self>, Errno> {
        let files = Vec::try_from_iter(self.files().iter().cloned())?;
        let parcel = Box::try_new(Parcel { files, next: None })?;
        Ok(Box::try_new(Self {
            parcel: Some(parcel),
            is_counted: false,
        })?)
    }

    fn files(&self) -> &[Arc<OpenFile>] {
        self.parcel.as_ref().map_or(&[], |parcel| &parcel.files)
    }

    /// The next open file for the receiver.
    pub fn take(&mut self) -> Option<Arc<OpenFile>> {
        self.land();
        let parcel = self.parcel.as_mut()?;
        (!parcel.files.is_empty()).then(|| parcel.files.remove(0))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files().len()
    }

    /// They are not on their way any more.
    fn land(&mut self) {
        if !core::mem::take(&mut self.is_counted) {
            return;
        }
        let files = self.files();
        FILES.fetch_sub(files.len(), Ordering::Relaxed);
        if files.iter().any(|file| socket_of(file).is_some()) {
            let mut flights = FLIGHTS.lock();
            files.iter().for_each(|file| arrive(&mut flights, file));
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        self.land();
        if let Some(mut parcel) = self.parcel.take().filter(|parcel| !parcel.files.is_empty()) {
            let mut dropped = DROPPED.lock();
            parcel.next = dropped.take();
            *dropped = Some(parcel);
            drop(dropped);
            TASK.wake_one();
        }
    }
}

fn socket_of(file: &OpenFile) -> Option<&Arc<Socket>> {
    match &file.kind {
        FileKind::Socket(end) => Some(&end.0),
        _ => None,
    }
}

fn key(file: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(file).addr()
}

fn depart(flights: &mut OrderedMap<usize, Flight>, file: &Arc<OpenFile>) -> Result<(), Errno> {
    if let Some(flight) = flights.get_mut(&key(file)) {
        flight.count += 1;
        return Ok(());
    }
    if flights.len() >= MOST_SOCKETS {
        return Err(Errno::ETOOMANYREFS);
    }
    let flight = Flight {
        file: Arc::downgrade(file),
        count: 1,
        unexplained: None,
        next: None,
    };
    flights.try_insert(key(file), flight)?;
    Ok(())
}

fn arrive(flights: &mut OrderedMap<usize, Flight>, file: &Arc<OpenFile>) {
    if let Some(flight) = flights.get_mut(&key(file)) {
        flight.count -= 1;
        if flight.count == 0 {
            flights.remove(&key(file));
        }
    }
}

/// A socket was closed: others may be garbage now.
pub fn socket_was_closed() {
    if FILES.load(Ordering::Relaxed) > 0 {
        IS_DUE.store(true, Ordering::Release);
        TASK.wake_one();
    }
}

/// Starts the task that drops open files and looks for garbage.
///
/// # Panics
/// Without memory for it.
pub fn start() {
    let task = executor().spawn("open files of sockets", Class::User, serve());
    task.expect("the first tasks find memory").detach();
}

async fn serve() -> Infallible {
    loop {
        TASK.wait_until(|| (DROPPED.lock().is_some() || IS_DUE.load(Ordering::Acquire)).then_some(()))
            .await;
        step();
        yield_now().await;
    }
}

/// One step of the task; what it drops is dropped in it.
fn step() {
    match take_dropped() {
        Some(file) => drop(file),
        None if IS_DUE.swap(false, Ordering::AcqRel) => collect(),
        None => {}
    }
}

/// At the end of a run: what is left goes at once.
pub fn clear() {
    IS_DUE.store(true, Ordering::Release);
    while DROPPED.lock().is_some() || IS_DUE.load(Ordering::Acquire) {
        step();
    }
}

fn take_dropped() -> Option<Arc<OpenFile>> {
    let mut dropped = DROPPED.lock();
    let first = dropped.as_mut()?;
    let file = first.files.pop();
    let is_done = first.files.is_empty();
    let next = if is_done { first.next.take() } else { None };
    let done = is_done.then(|| core::mem::replace(&mut *dropped, next));
    drop(dropped);
    drop(done);
    file
}

/// Calls `each` with the sockets in the messages to a socket on its way, and to the connections that wait in it.
fn for_each_inside(flights: &mut OrderedMap<usize, Flight>, from: usize, each: &mut dyn FnMut(&mut Flight, usize)) {
    let Some(file) = flights.get(&from).and_then(|flight| flight.file.upgrade()) else {
        return;
    };
    let Some(socket) = socket_of(&file) else { return };
    let mut look = |socket: &Socket| {
        for rights in socket.inbox().rights() {
            for inside in rights.files() {
                if let Some(flight) = flights.get_mut(&key(inside)) {
                    each(flight, key(inside));
                }
            }
        }
    };
    look(socket);
    socket.for_each_pending(&mut look);
}

/// Looks for garbage, and takes it apart.
fn collect() {
    let mut garbage = None;
    let mut flights = FLIGHTS.lock();
    for flight in flights.values_mut() {
        let is_candidate = flight.file.strong_count() == flight.count;
        flight.unexplained = is_candidate.then_some(flight.count);
        flight.next = None;
    }
    let mut at = flights.first().map(|(&first, _)| first);
    while let Some(from) = at {
        if flights.get(&from).is_some_and(|flight| flight.unexplained.is_some()) {
            for_each_inside(&mut flights, from, &mut |flight, _| {
                flight.unexplained = flight.unexplained.map(|count| count.saturating_sub(1));
            });
        }
        at = next_of(&flights, from);
    }
    // Those that are held from outside, and then what they hold.
    let mut held = None;
    for (&key, flight) in flights.iter_mut() {
        if flight.unexplained.is_some_and(|count| count > 0) {
            flight.unexplained = None;
            flight.next = held.replace(key);
        }
    }
    while let Some(from) = held {
        held = flights.get(&from).and_then(|flight| flight.next);
        for_each_inside(&mut flights, from, &mut |flight, key| {
            if flight.unexplained.take().is_some() {
                flight.next = held.replace(key);
            }
        });
    }
    for flight in flights.values().filter(|flight| flight.unexplained.is_some()) {
        let Some(file) = flight.file.upgrade() else { continue };
        let Some(socket) = socket_of(&file) else { continue };
        let mut take = |socket: &Socket| {
            for mut rights in socket.inbox().take_rights() {
                // They are dropped without the lock; the parcels are the list in which they are kept until then.
                if let Some(mut parcel) = rights.parcel.take() {
                    FILES.fetch_sub(
                        if rights.is_counted { parcel.files.len() } else { 0 },
                        Ordering::Relaxed,
                    );
                    rights.is_counted = false;
                    parcel.next = garbage.take();
                    garbage = Some(parcel);
                }
            }
        };
        take(socket);
        socket.for_each_pending(&mut take);
    }
    let mut at = garbage.as_deref();
    while let Some(parcel) = at {
        parcel.files.iter().for_each(|file| arrive(&mut flights, file));
        at = parcel.next.as_deref();
    }
    drop(flights);
    let mut dropped = DROPPED.lock();
    while let Some(mut parcel) = garbage {
        garbage = parcel.next.take();
        parcel.next = dropped.take();
        *dropped = Some(parcel);
    }
}

fn next_of(flights: &OrderedMap<usize, Flight>, key: usize) -> Option<usize> {
    let next = flights.lower_bound(Bound::Excluded(&key));
    next.map(|(&next, _)| next)
}
