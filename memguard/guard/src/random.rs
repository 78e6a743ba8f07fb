//! Where guard's randomness comes from: the kernel's generator, asked each time.
//!
//! No generator of our own keeps state here, so that a snapshot of guard's memory foretells nothing, and what a
//! restored snapshot draws is fresh. Nonces do not rest on it alone: see `crypto::nonce`.

use std::io;

use unlatch_locked::LockedBytes;

/// Fill with random bytes.
pub(crate) fn fill(out: &mut [u8]) -> io::Result<()> {
    #[cfg(test)]
    tests::fail_when_due()?;
    #[cfg(feature = "test-variant")]
    if crate::variant::is("fixed-random") {
        crate::variant::fill(out);
        return Ok(());
    }
    unlatch_locked::random(out)
}

/// So many random bytes in locked pages.
pub(crate) fn locked(len: usize) -> io::Result<LockedBytes> {
    let mut bytes = LockedBytes::zeroed(len)?;
    fill(bytes.expose_mut())?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// In this thread, fail after so many calls more; `None`: never.
    pub(crate) fn fail_after(calls: Option<u32>) {
        LEFT.set(calls);
    }

    pub(super) fn fail_when_due() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("the generator failed")),
            left => {
                LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}
