//! Secrets at rest: two halves in locked pages, of which neither says anything about the secret.
//!
//! What calls this knows only [`Split::with_joined`] and [`Split::reshare`]; how the halves are kept is decided here.

use std::io;

use unlatch_locked::LockedBytes;

/// A secret as `left ⊕ right`.
pub(crate) struct Split {
    left: LockedBytes,
    right: LockedBytes,
}

impl Split {
    /// Split; the whole is wiped.
    pub(crate) fn new(mut whole: LockedBytes) -> io::Result<Self> {
        let right = LockedBytes::random(whole.len())?;
        exclusive_or(whole.expose_mut(), right.expose());
        Ok(Self { left: whole, right })
    }

    /// Bytes of the secret.
    pub(crate) fn len(&self) -> usize {
        self.left.len()
    }

    /// Use the secret. The joined bytes lie in locked pages and are wiped before this returns, as is the stack that
    /// `work` used.
    pub(crate) fn with_joined<R>(&self, work: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let mut joined = LockedBytes::copy_from(self.left.expose())?;
        exclusive_or(joined.expose_mut(), self.right.expose());
        let result = work(joined.expose());
        drop(joined);
        wipe_stack();
        Ok(result)
    }

    /// Change both halves; the secret stays and is never whole.
    pub(crate) fn reshare(&mut self) -> io::Result<()> {
        let change = LockedBytes::random(self.left.len())?;
        exclusive_or(self.left.expose_mut(), change.expose());
        exclusive_or(self.right.expose_mut(), change.expose());
        Ok(())
    }
}

fn exclusive_or(into: &mut [u8], other: &[u8]) {
    for (byte, other) in into.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// Bytes of stack below the caller that are overwritten: more than aws-lc's deepest call uses.
const STACK_BYTES: usize = 24 * 1024;

/// Overwrite what earlier calls left on the stack.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut below = [0_u8; STACK_BYTES];
    unlatch_locked::wipe(&mut below);
    std::hint::black_box(&mut below);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(secret: &[u8]) -> Split {
        Split::new(LockedBytes::copy_from(secret).unwrap()).unwrap()
    }

    #[test]
    fn joined_is_what_was_split() {
        let secret = split(b"a secret of some length");

        assert_eq!(
            secret.with_joined(<[u8]>::to_vec).unwrap(),
            b"a secret of some length"
        );
        assert_eq!(secret.len(), 23);
    }

    #[test]
    fn neither_half_is_the_secret() {
        let secret = split(&[0x5a; 64]);

        assert_ne!(secret.left.expose(), [0x5a; 64]);
        assert_ne!(secret.right.expose(), [0x5a; 64]);
    }

    #[test]
    fn resharing_changes_both_halves_and_keeps_the_secret() {
        let mut secret = split(&[7; 32]);
        let before = (
            secret.left.expose().to_vec(),
            secret.right.expose().to_vec(),
        );

        secret.reshare().unwrap();

        assert_ne!(secret.left.expose(), before.0);
        assert_ne!(secret.right.expose(), before.1);
        assert_eq!(secret.with_joined(<[u8]>::to_vec).unwrap(), [7; 32]);
    }
}
