//! What a process does about each signal.

use faultline_fallible::{AllocError, Arc};
use linux_raw_sys::general as linux;

use super::{DefaultAction, Signal, SignalSet};

/// The size of `struct sigaction` in the kernel's form, in bytes.
pub const SIZE: usize = 32;

/// What to do about one signal, as `rt_sigaction` passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Address of the handler, or 0 for the default, 1 to ignore.
    pub handler: u64,
    /// `SA_*` flags.
    pub flags: u64,
    /// Address of the code that calls `rt_sigreturn`.
    pub restorer: u64,
    /// Signals that are blocked while the handler runs.
    pub mask: SignalSet,
}

/// What an [`Action`] comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing happens.
    Ignore,
    /// The process ends.
    Terminate,
    /// The process stops.
    Stop,
    /// A handler runs.
    Handle(Action),
}

impl Action {
    /// Reads the form that user mode passes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            handler: word(0),
            flags: word(1),
            restorer: word(2),
            mask: SignalSet(word(3)).without(SignalSet::UNBLOCKABLE),
        }
    }

    /// The form that user mode reads.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        for (slot, word) in bytes
            .chunks_exact_mut(8)
            .zip([self.handler, self.flags, self.restorer, self.mask.0])
        {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    const fn without_handler(is_ignored: bool) -> Self {
        Self {
            handler: is_ignored as u64,
            flags: 0,
            restorer: 0,
            mask: SignalSet::EMPTY,
        }
    }

    /// Whether `flag`, one of the `SA_*`, is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag as u64 != 0
    }
}

/// The actions of a process for all signals. A copy, as `fork` makes one, shares them until one of the two changes an
/// action: only then are they copied.
#[derive(Clone, Default)]
pub struct Actions {
    /// The action of each signal; none while every signal is either ignored or left to its default.
    table: Option<Arc<[Action; 64]>>,
    /// Without a table: the signals that are ignored, one bit each.
    ignored: u64,
}

impl Actions {
    /// The action for `signal`.
    #[must_use]
    pub fn get(&self, signal: Signal) -> Action {
        let index = signal.number() as usize - 1;
        match &self.table {
            Some(table) => table[index],
            None => Action::without_handler(self.ignored >> index & 1 != 0),
        }
    }

    /// Sets the action for `signal`.
    ///
    /// # Errors
    /// There is no memory for a table of its own; nothing has changed. Where no signal has a handler yet, none is needed to
    /// ignore one or to leave it to its default: who wants to be spared by a signal in a shortage can have that.
    pub fn set(&mut self, signal: Signal, action: Action) -> Result<(), AllocError> {
        let index = signal.number() as usize - 1;
        let table = match &mut self.table {
            Some(table) => table,
            None => {
                let ignored = self.ignored;
                let own = || core::array::from_fn(|index| Action::without_handler(ignored >> index & 1 != 0));
                match Arc::try_new_with(own) {
                    Ok(table) => self.table.insert(table),
                    // Without a handler its flags and its mask mean nothing, but for the signal of children.
                    Err(_) if action.handler <= 1 && signal != Signal::SIGCHLD => {
                        self.ignored = self.ignored & !(1 << index) | action.handler << index;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        Arc::try_make_mut(table)?[index] = action;
        Ok(())
    }

    /// What the action for `signal` comes to.
    #[must_use]
    pub fn disposition(&self, signal: Signal) -> Disposition {
        let action = self.get(signal);
        match action.handler {
            0 => match signal.default_action() {
                DefaultAction::Terminate => Disposition::Terminate,
                DefaultAction::Ignore => Disposition::Ignore,
                DefaultAction::Stop => Disposition::Stop,
            },
            1 => Disposition::Ignore,
            _ => Disposition::Handle(action),
        }
    }

    /// As [`disposition`](Self::disposition), for a signal that is about to be delivered: a one-shot handler is reset. Where
    /// there is no memory for that, the process ends instead of running it twice.
    pub fn take(&mut self, signal: Signal) -> Disposition {
        let disposition = self.disposition(signal);
        if let Disposition::Handle(action) = disposition
            && action.has(linux::SA_RESETHAND)
            // The handler goes, and the flags stay.
            && self.set(signal, Action { handler: 0, ..action }).is_err()
        {
            return Disposition::Terminate;
        }
        disposition
    }

    /// Forgets all handlers, as `execve` does; ignored signals stay ignored. Needs no memory.
    pub fn forget_handlers(&mut self) {
        if let Some(table) = self.table.take() {
            let ignored = |(index, action): (usize, &Action)| u64::from(action.handler == 1) << index;
            self.ignored = table.iter().enumerate().map(ignored).sum();
        }
    }
}
