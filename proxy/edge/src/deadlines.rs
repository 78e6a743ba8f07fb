//! Time-outs of all connections of one worker: a number each, looked at ten times a second.
//!
//! Setting a deadline is one store, so every phase of every request has one. A deadline that has passed marks its
//! slot and wakes the task; the task sees the mark before it waits again.

use std::cell::RefCell;
use std::task::{Context, Waker};

use crate::sys;

/// How often deadlines are looked at; a time-out is late by at most this much.
pub(crate) const TICK_MS: u32 = 100;
const NEVER: u64 = u64::MAX;
const PASSED: u64 = 0;

#[derive(Default)]
pub(crate) struct Deadlines {
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    /// Milliseconds of the monotonic clock, [`NEVER`] or [`PASSED`].
    due: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One connection's place in the table; given back when dropped.
pub(crate) struct Deadline {
    deadlines: &'static Deadlines,
    slot: usize,
}

impl Deadlines {
    /// A place for the task of `cx`, with no deadline yet.
    pub(crate) fn enter(&'static self, cx: &Context<'_>) -> Deadline {
        let mut table = self.table.borrow_mut();
        let waker = Some(cx.waker().clone());
        let slot = match table.free.pop() {
            Some(slot) => {
                table.due[slot] = NEVER;
                table.wakers[slot] = waker;
                slot
            }
            None => {
                table.due.push(NEVER);
                table.wakers.push(waker);
                table.due.len() - 1
            }
        };
        Deadline {
            deadlines: self,
            slot,
        }
    }

    /// Mark what is due at `now` and wake its tasks.
    pub(crate) fn sweep(&self, now: u64) {
        let mut table = self.table.borrow_mut();
        let Table { due, wakers, .. } = &mut *table;
        for (due, waker) in due.iter_mut().zip(wakers) {
            if *due <= now && *due != PASSED {
                *due = PASSED;
                if let Some(waker) = waker {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Wake every task, so that it looks at what has changed.
    pub(crate) fn wake_all(&self) {
        self.table
            .borrow()
            .wakers
            .iter()
            .flatten()
            .for_each(Waker::wake_by_ref);
    }
}

impl Deadline {
    /// Due in `milliseconds` from now.
    pub(crate) fn set(&self, milliseconds: u64) {
        self.deadlines.table.borrow_mut().due[self.slot] =
            sys::coarse_ms().saturating_add(milliseconds);
    }

    /// Whether it was due.
    pub(crate) fn has_passed(&self) -> bool {
        self.deadlines.table.borrow().due[self.slot] == PASSED
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut table = self.deadlines.table.borrow_mut();
        table.due[self.slot] = NEVER;
        table.wakers[self.slot] = None;
        table.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_passes_once_and_can_be_set_again() {
        let deadlines: &'static Deadlines = Box::leak(Box::default());
        let deadline = deadlines.enter(&Context::from_waker(Waker::noop()));
        deadline.set(50);
        deadlines.sweep(sys::coarse_ms());
        assert!(!deadline.has_passed());

        deadlines.sweep(sys::coarse_ms() + 60);
        assert!(deadline.has_passed());

        deadline.set(50);
        assert!(!deadline.has_passed());
    }

    #[test]
    fn slots_are_used_again_without_the_old_deadline() {
        let deadlines: &'static Deadlines = Box::leak(Box::default());
        let first = deadlines.enter(&Context::from_waker(Waker::noop()));
        first.set(0);
        deadlines.sweep(u64::MAX - 1);
        drop(first);

        let second = deadlines.enter(&Context::from_waker(Waker::noop()));

        assert_eq!(0, second.slot);
        assert!(!second.has_passed());
    }
}
