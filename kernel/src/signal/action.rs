//! What a process does about each signal.

use alloc::sync::Arc;

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

    /// Whether `flag`, one of the `SA_*`, is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag as u64 != 0
    }
}

/// The actions of a process for all signals. A copy, as `fork` makes one, shares them until one of the two changes an
/// action: only then are they copied, by calls and deliveries that have seen to room in the kernel heap.
#[derive(Clone)]
pub struct Actions(Arc<[Action; 64]>);

impl Default for Actions {
    fn default() -> Self {
        Self(Arc::new([Action::default(); 64]))
    }
}

impl Actions {
    /// The action for `signal`.
    #[must_use]
    pub fn get(&self, signal: Signal) -> Action {
        self.0[signal.number() as usize - 1]
    }

    /// Sets the action for `signal`.
    pub fn set(&mut self, signal: Signal, action: Action) {
        Arc::make_mut(&mut self.0)[signal.number() as usize - 1] = action;
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

    /// As [`disposition`](Self::disposition), for a signal that is about to be delivered: a one-shot handler is reset.
    pub fn take(&mut self, signal: Signal) -> Disposition {
        let disposition = self.disposition(signal);
        if let Disposition::Handle(action) = disposition
            && action.has(linux::SA_RESETHAND)
        {
            self.set(signal, Action::default());
        }
        disposition
    }

    /// Forgets all handlers, as `execve` does; ignored signals stay ignored.
    pub fn forget_handlers(&mut self) {
        for action in Arc::make_mut(&mut self.0) {
            *action = Action {
                handler: u64::from(action.handler == 1),
                ..Action::default()
            };
        }
    }
}
