//! Priority classes and what each of them may use of a turn.

/// The priority class of a task. The executor polls the highest class that has a runnable task and a share left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// The service of page faults: what user threads wait for.
    FaultService = 0,
    /// Drivers: tasks that an interrupt handler wakes.
    Device = 1,
    /// User threads.
    User = 2,
    /// Work that nobody waits for, such as zeroing spare frames.
    Idle = 3,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 4;

    /// Every class, the highest first.
    pub const ALL: [Class; Class::COUNT] = [Class::FaultService, Class::Device, Class::User, Class::Idle];

    /// The name in tables and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Class::FaultService => "fault-service",
            Class::Device => "device",
            Class::User => "user",
            Class::Idle => "idle",
        }
    }

    /// The number of the class: the index of its queue.
    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// How many polls of each class one turn grants before it ends.
///
/// While a class has runnable tasks, every turn polls at least one of its tasks and at most its share. Between two
/// looks at the timers there are therefore at most [`Shares::budget`] polls, and a first-in first-out class of `n` runnable
/// tasks polls each of them within `n / share` turns, whatever the other classes do. In the user class the share decides how
/// much it gets beside the other classes; among its tasks time is shared, not polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares([u16; Class::COUNT]);

impl Shares {
    /// Shares for [`Class::FaultService`], [`Class::Device`], [`Class::User`] and [`Class::Idle`]. A share of 0 counts
    /// as 1, so that no class starves.
    #[must_use]
    pub const fn new(fault_service: u16, device: u16, user: u16, idle: u16) -> Self {
        let mut shares = [fault_service, device, user, idle];
        let mut class = 0;
        while class < Class::COUNT {
            if shares[class] == 0 {
                shares[class] = 1;
            }
            class += 1;
        }
        Self(shares)
    }

    /// The largest number of polls in one turn.
    #[must_use]
    pub const fn budget(self) -> u32 {
        self.0[0] as u32 + self.0[1] as u32 + self.0[2] as u32 + self.0[3] as u32
    }

    pub(crate) const fn by_class(self) -> [u16; Class::COUNT] {
        self.0
    }
}

impl Default for Shares {
    /// 64 polls for the fault service, 32 for devices, 32 for user threads, 1 for idle work: as each user poll causes
    /// at most one wake of the fault service, the service is never out of its share before the users are.
    fn default() -> Self {
        Self::new(64, 32, 32, 1)
    }
}
