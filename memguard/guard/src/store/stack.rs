//! What computations leave on the stack.

/// Bytes of stack below the caller that are overwritten: more than aws-lc's deepest call uses, as a test of `thread` measures.
const STACK_BYTES: usize = 32 * 1024;

/// Do work that leaves parts of secrets on the stack, and overwrite them.
pub(crate) fn with_wiped_stack<R>(work: impl FnOnce() -> R) -> R {
    let result = below(work);
    wipe_stack();
    result
}

/// A frame of its own, below the one that calls.
#[inline(never)]
fn below<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(never)]
fn wipe_stack() {
    let mut below = [0_u8; STACK_BYTES];
    unlatch_locked::wipe(&mut below);
    std::hint::black_box(&mut below);
}
