//! The lock of a space.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::sync::MutexGuard;

use super::{Inner, Space, VirtualAddressSpace};
use crate::platform::Platform;

/// The lock of a space, held. It is not `Send`, so a future that held it across an await would not be `Send` either, and
/// [`futures_hold_no_lock`] would not compile.
pub(crate) struct Guard<'a, P: Platform> {
    guard: MutexGuard<'a, Inner<P>>,
    _not_send: PhantomData<*const ()>,
}

impl<P: Platform> Deref for Guard<'_, P> {
    type Target = Inner<P>;

    #[inline(always)]
    fn deref(&self) -> &Inner<P> {
        &self.guard
    }
}

impl<P: Platform> DerefMut for Guard<'_, P> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Inner<P> {
        &mut self.guard
    }
}

impl<P: Platform> Space<P> {
    /// Takes the lock. It is short: it is never held across an await.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Guard<'_, P> {
        Guard {
            guard: self.inner.lock(),
            _not_send: PhantomData,
        }
    }
}

/// Compiles only if no async call of a space holds the lock across an await.
#[allow(dead_code, reason = "it is there to be compiled")]
fn futures_hold_no_lock<P: Platform>(space: &VirtualAddressSpace<P>) {
    fn is_send<T: Send>(_: T) {}
    is_send(space.read_user(0, &mut []));
    is_send(space.write_user(0, &[]));
    is_send(space.read_user_string(0, &mut []));
    is_send(space.flushed(0));
    is_send(space.handle_page_fault(crate::FaultInfo::user(0, crate::Access::Read)));
}

#[cfg(test)]
mod tests {
    use static_assertions::assert_not_impl_any;

    use super::Guard;
    use crate::tests::machine::Machine;

    // The other half of the proof: what `futures_hold_no_lock` asks for is what a future with a guard in it lacks.
    assert_not_impl_any!(Guard<'static, Machine>: Send);
}
