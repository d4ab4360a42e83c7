//! The transitions of one state word, one after another.

use super::*;

#[test]
fn generations_count_up_from_0_to_the_end_and_change_nothing_else() {
    let word = |generation: u32| u64::from(generation >> 16) * HIGH + u64::from(generation & 0xffff) + FLAGS;
    for generation in [0, 1, 0xfffe, 0xffff, 0x1_0000, 0x1_ffff, u32::MAX - 1, u32::MAX] {
        let (before, after) = (word(generation), bump(word(generation)));
        assert_eq!(
            (generation_of(before), generation_of(after)),
            (generation, generation.wrapping_add(1))
        );
        assert_eq!(after & FLAGS, FLAGS);
        let carried = if after & CARRY == 0 { after } else { carry(after) };
        assert_eq!(carried, word(generation.wrapping_add(1)));
    }
}

#[test]
fn the_last_reference_frees_the_slot_and_the_end_bumps_the_generation() {
    let state = State::new();
    state.spawn::<true>();
    state.begin_poll();
    assert_eq!(state.complete::<OUTPUT>(), Completed::Released);
    assert_eq!(generation_of(state.load()), 1);
    assert_eq!(state.drop_handle().map_err(|word| word & OUTPUT), Err(OUTPUT));
    assert_eq!(state.release(HANDLE), Released::Freed);
    assert_eq!(state.load(), State::new().load() + 1);
}

#[test]
fn a_task_that_nobody_refers_to_is_freed_in_one_step() {
    let state = State::new();
    state.spawn::<true>();
    assert!(!state.complete_alone(), "there is a handle, and it is queued");
    assert_eq!(state.drop_handle(), Ok(()));
    state.begin_poll();
    assert!(state.wake(0));
    assert!(!state.complete_alone(), "it is queued");
    state.begin_poll();
    assert!(state.complete_alone());
    assert_eq!(state.load(), State::new().load() + 1);
}

#[test]
fn a_wake_during_the_last_poll_keeps_the_slot_until_the_queue_lets_go() {
    let state = State::new();
    state.spawn::<true>();
    assert_eq!(state.drop_handle(), Ok(()));
    state.begin_poll();
    assert!(state.wake(0));
    assert_eq!(state.complete::<0>(), Completed::Released);
    assert!(!state.wake(0));
    state.begin_poll();
    assert_eq!(state.leave_queue(), Released::Freed);
    assert_eq!(state.load(), State::new().load() + 1);
}

#[test]
fn a_waker_that_was_overtaken_by_the_end_of_its_task_does_no_harm() {
    // Only the second step of `wake`, as if the first had been long ago.
    let stray = |state: &State| state.0.fetch_or(ENQUEUED, Ordering::AcqRel) & ENQUEUED == 0;
    let state = State::new();
    assert!(!stray(&state), "nothing is pushed for a free slot");
    state.spawn::<true>();
    assert!(!stray(&state), "nothing is pushed for a new task: it is queued already");
    state.begin_poll();
    assert_eq!(state.complete::<0>(), Completed::Released);
    assert!(
        !stray(&state),
        "nothing is pushed for an ended task that is in no queue"
    );
    assert!(state.drop_handle().is_err());
    assert_eq!(state.release(HANDLE), Released::Freed);

    state.spawn::<true>();
    state.begin_poll();
    assert!(stray(&state));
    assert_eq!(state.complete::<0>(), Completed::Released);
    assert!(state.drop_handle().is_err());
    assert_eq!(state.release(HANDLE), Released::Shared, "it is in a queue");
    state.begin_poll();
    assert!(stray(&state), "an ended task that was just popped is queued once more");
    assert_eq!(state.leave_queue(), Released::Shared);
    state.begin_poll();
    assert_eq!(state.leave_queue(), Released::Freed);
    assert!(!stray(&state));
}
