//! Secrets at rest: two parts, in two places, of which neither says anything about the secret.
//!
//! Part A lies in locked memory (memfd_secret where the kernel has it), part B is a pad that comes from a root in the
//! process keyring and exists only while it is used. Three forms:
//!
//! * [`Split`] – A = secret ⊕ pad; joined in locked memory for one use, then wiped. Tokens, ticket chains, RSA factors.
//! * [`SplitScalar`] – d = d1 + d2 modulo the group's order; A holds d1, the pad gives d2. Never joined. Beside them lie
//!   two seeds for nonces, one in A, one from the pad.
//! * [`SplitInteger`] – d = A − pad over the integers; for RSA exponents that are never joined.
//!
//! Rule 1: a change of both parts is computed from the difference of the two pads, so no change joins anything.
//! Rule 2: every A has two slots and there are two roots. A change fills the ones that are not in use, and one
//! assignment of the generation's number puts them in force: whoever reads takes both parts of one generation, and
//! whatever fails before leaves the old generation whole.
//! Rule 3: what a generation leaves behind is wiped as soon as the next one is in force.

mod root;
mod stack;

use std::io;
use std::marker::PhantomData;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use unlatch_locked::LockedBytes;

use crate::crypto::scalar::{Field, MAX_WIDE_BYTES};
use crate::random;
use root::{Pad, slot};

pub(crate) use root::Root;
pub(crate) use stack::with_wiped_stack;

/// Bytes of a nonce seed.
pub(crate) const SEED_BYTES: usize = 32;

/// Every share of one guard.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

struct Inner {
    root: Root,
    /// The generation in force. Held for reading while both parts of a share are taken.
    generation: RwLock<u64>,
    /// Held while a share is added and while all are changed.
    shares: Mutex<Shares>,
}

#[derive(Default)]
struct Shares {
    next_id: u32,
    live: Vec<Weak<dyn Change>>,
}

/// What a change of generation needs to know of a share.
trait Change: Send + Sync {
    /// Fill the next generation's slot from the one in force.
    fn prepare(&self, root: &Root, generation: u64) -> io::Result<()>;

    /// Wipe the slot of a generation.
    fn wipe(&self, generation: u64);
}

impl Store {
    /// Empty, with its pads from `root`.
    pub(crate) fn new(root: Root) -> Self {
        Self(Arc::new(Inner {
            root,
            generation: RwLock::new(0),
            shares: Mutex::default(),
        }))
    }

    pub(crate) fn has_keyring(&self) -> bool {
        self.0.root.is_in_keyring()
    }

    /// Changes since start.
    pub(crate) fn generation(&self) -> u64 {
        *self.0.in_force()
    }

    /// Give every share two new parts. Signers go on meanwhile; when it fails, the old parts stay in force.
    pub(crate) fn reshare(&self) -> io::Result<()> {
        let inner = &*self.0;
        let mut shares = inner.shares();
        shares.live.retain(|share| share.strong_count() > 0);
        let live: Vec<_> = shares.live.iter().filter_map(Weak::upgrade).collect();
        let old = *inner.in_force();
        inner.root.renew(old + 1)?;
        for share in &live {
            share.prepare(&inner.root, old)?;
        }
        *inner
            .generation
            .write()
            .unwrap_or_else(PoisonError::into_inner) = old + 1;
        for share in &live {
            share.wipe(old);
        }
        inner.root.forget(old)
    }

    /// Add a share whose first part `make` computes from its pad.
    fn add<F: Form>(
        &self,
        make: impl FnOnce(&Pad) -> io::Result<LockedBytes>,
    ) -> io::Result<Arc<Share<F>>> {
        let inner = &self.0;
        let mut shares = inner.shares();
        let id = shares.next_id;
        shares.next_id = id.checked_add(1).ok_or(io::ErrorKind::OutOfMemory)?;
        let generation = *inner.in_force();
        let first = make(&inner.root.pad(generation, id)?)?;
        let other = LockedBytes::zeroed(first.len())?;
        let mut slots = [RwLock::new(first), RwLock::new(other)];
        slots.rotate_left(slot(generation));
        let share = Arc::new(Share {
            id,
            store: Arc::clone(inner),
            slots,
            form: PhantomData,
        });
        let live: Arc<dyn Change> = share.clone();
        shares.live.push(Arc::downgrade(&live));
        Ok(share)
    }
}

impl Inner {
    fn in_force(&self) -> RwLockReadGuard<'_, u64> {
        self.generation
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One secret in two parts.
struct Share<F> {
    id: u32,
    store: Arc<Inner>,
    /// Part A of the generation in force, and room for the next one's.
    slots: [RwLock<LockedBytes>; 2],
    form: PhantomData<fn() -> F>,
}

impl<F> Share<F> {
    /// Take both parts of one generation.
    fn take<R>(&self, work: impl FnOnce(&[u8], &Pad) -> io::Result<R>) -> io::Result<R> {
        let generation = self.store.in_force();
        let pad = self.store.root.pad(*generation, self.id)?;
        work(self.read(*generation).expose(), &pad)
    }

    fn read(&self, generation: u64) -> RwLockReadGuard<'_, LockedBytes> {
        self.slots[slot(generation)]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, generation: u64) -> RwLockWriteGuard<'_, LockedBytes> {
        self.slots[slot(generation)]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the first part follows its pad.
trait Form: 'static {
    /// Fill `next` so that it and `new` hold the secret that `first` and `old` held.
    fn shift(first: &[u8], next: &mut [u8], old: &Pad, new: &Pad) -> io::Result<()>;
}

impl<F: Form> Change for Share<F> {
    fn prepare(&self, root: &Root, generation: u64) -> io::Result<()> {
        let (old, new) = (
            root.pad(generation, self.id)?,
            root.pad(generation + 1, self.id)?,
        );
        let mut next = self.write(generation + 1);
        F::shift(
            self.read(generation).expose(),
            next.expose_mut(),
            &old,
            &new,
        )
    }

    fn wipe(&self, generation: u64) {
        unlatch_locked::wipe(self.write(generation).expose_mut());
    }
}

/// A secret as A ⊕ pad, joined for one use.
pub(crate) struct Split(Arc<Share<Joined>>);

struct Joined;

impl Form for Joined {
    fn shift(first: &[u8], next: &mut [u8], old: &Pad, new: &Pad) -> io::Result<()> {
        // The pads meet each other before they meet the first part.
        next.fill(0);
        old.apply(next);
        new.apply(next);
        for (byte, first) in next.iter_mut().zip(first) {
            *byte ^= first;
        }
        Ok(())
    }
}

impl Split {
    /// Split; the whole is covered where it lies.
    pub(crate) fn new(store: &Store, mut whole: LockedBytes) -> io::Result<Self> {
        let share = store.add(|pad| {
            pad.apply(whole.expose_mut());
            Ok(whole)
        })?;
        Ok(Self(share))
    }

    /// Bytes of the secret.
    pub(crate) fn len(&self) -> usize {
        self.0.read(0).len()
    }

    /// Use the secret. The joined bytes lie in locked memory and are wiped before this returns, as is the stack that
    /// `work` used.
    pub(crate) fn with_joined<R>(&self, work: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let joined = self.0.take(|first, pad| {
            let mut joined = LockedBytes::copy_from(first)?;
            pad.apply(joined.expose_mut());
            Ok(joined)
        })?;
        #[cfg(feature = "test-variant")]
        crate::variant::leak("leak-token", joined.expose());
        Ok(with_wiped_stack(|| work(joined.expose())))
    }
}

/// A number modulo a group's order as d1 + d2, with a seed beside each.
pub(crate) struct SplitScalar<F: Field>(Arc<Share<Summed<F>>>);

struct Summed<F>(PhantomData<F>);

/// Both parts of a scalar and their seeds, for one signature. They lie on the stack that is wiped behind the use.
pub(crate) struct Halves<F> {
    /// Names the key in nonces.
    pub(crate) id: u32,
    pub(crate) scalars: [F; 2],
    pub(crate) seeds: [[u8; SEED_BYTES]; 2],
}

/// d2 and its seed.
fn second<F: Field>(pad: &Pad) -> (F, [u8; SEED_BYTES]) {
    let mut bytes = [0; MAX_WIDE_BYTES + SEED_BYTES];
    let bytes = &mut bytes[..F::WIDE + SEED_BYTES];
    pad.apply(bytes);
    let mut seed = [0; SEED_BYTES];
    seed.copy_from_slice(&bytes[F::WIDE..]);
    let scalar = F::wide(&bytes[..F::WIDE]);
    (scalar, seed)
}

fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl<F: Field + 'static> Form for Summed<F> {
    fn shift(first: &[u8], next: &mut [u8], old: &Pad, new: &Pad) -> io::Result<()> {
        let (scalar, seed) = next.split_at_mut(F::BYTES);
        with_wiped_stack(|| {
            let change = second::<F>(old).0.subtract(second::<F>(new).0);
            let first = F::read(&first[..F::BYTES]).ok_or_else(damaged)?;
            first.add(change).write(scalar);
            io::Result::Ok(())
        })?;
        random::fill(seed)
    }
}

impl<F: Field + 'static> SplitScalar<F> {
    /// Split a number.
    pub(crate) fn new(store: &Store, whole: F) -> io::Result<Self> {
        let share = store.add(|pad| {
            let mut first = LockedBytes::zeroed(F::BYTES + SEED_BYTES)?;
            let (scalar, seed) = first.expose_mut().split_at_mut(F::BYTES);
            whole.subtract(second::<F>(pad).0).write(scalar);
            random::fill(seed)?;
            Ok(first)
        })?;
        Ok(Self(share))
    }

    /// Use both parts, side by side. The stack that `work` used is wiped before this returns.
    pub(crate) fn with_halves<R>(&self, work: impl FnOnce(&Halves<F>) -> R) -> io::Result<R> {
        #[cfg(feature = "test-variant")]
        if crate::variant::is("leak-joined") {
            self.leak_sum();
        }
        with_wiped_stack(|| Ok(work(&self.halves()?)))
    }

    #[cfg(feature = "test-variant")]
    fn leak_sum(&self) {
        if let Ok(halves) = self.halves() {
            let mut sum = vec![0; F::BYTES];
            halves.scalars[0].add(halves.scalars[1]).write(&mut sum);
            crate::variant::leak("leak-joined", &sum);
        }
    }

    fn halves(&self) -> io::Result<Halves<F>> {
        self.0.take(|first, pad| {
            let (other, other_seed) = second::<F>(pad);
            let (scalar, seed) = first.split_at(F::BYTES);
            Ok(Halves {
                id: self.0.id,
                scalars: [F::read(scalar).ok_or_else(damaged)?, other],
                seeds: [seed.try_into().map_err(|_| damaged())?, other_seed],
            })
        })
    }
}

/// An RSA private exponent d as A − pad over the integers.
///
/// The pad is uniform over half of d's range, so A hides the lower bits but for 2^-128 and more, and the highest ones only
/// in part. Those are no secret: d = (1 + k·(n − p − q + 1)) / e for some k below e, so n and e tell the upper half of d to
/// whoever tries every k.
pub(crate) struct SplitInteger(Arc<Share<Difference>>);

struct Difference;

/// The pad as an integer with the length of A, which is one byte longer than d. The highest bit that d can have is 0, so
/// that A rarely needs that byte.
fn integer(pad: &Pad, len: usize) -> io::Result<LockedBytes> {
    let mut bytes = LockedBytes::zeroed(len)?;
    pad.apply(bytes.expose_mut());
    if let [carry, highest, ..] = bytes.expose_mut() {
        *carry = 0;
        *highest &= 0x7f;
    }
    Ok(bytes)
}

/// into ± other, modulo 256^len; big-endian.
fn add(into: &mut [u8], other: &[u8], subtract: bool) {
    let mut carry = u16::from(subtract);
    for (byte, other) in into.iter_mut().zip(other).rev() {
        let other = if subtract { !other } else { *other };
        let [high, low] = (u16::from(*byte) + u16::from(other) + carry).to_be_bytes();
        (*byte, carry) = (low, u16::from(high));
    }
}

impl Form for Difference {
    fn shift(first: &[u8], next: &mut [u8], old: &Pad, new: &Pad) -> io::Result<()> {
        next.copy_from_slice(integer(new, next.len())?.expose());
        add(next, integer(old, next.len())?.expose(), true);
        add(next, first, false);
        Ok(())
    }
}

impl SplitInteger {
    /// Split a number, big-endian.
    pub(crate) fn new(store: &Store, whole: &[u8]) -> io::Result<Self> {
        let len = whole.len() + 1;
        let share = store.add(|pad| {
            let mut first = integer(pad, len)?;
            let mut whole_at_length = LockedBytes::zeroed(len)?;
            whole_at_length.expose_mut()[len - whole.len()..].copy_from_slice(whole);
            add(first.expose_mut(), whole_at_length.expose(), false);
            Ok(first)
        })?;
        Ok(Self(share))
    }

    /// Use minuend and subtrahend, side by side in locked memory, of equal length.
    pub(crate) fn with_terms<R>(&self, work: impl FnOnce(&[u8], &[u8]) -> R) -> io::Result<R> {
        let (minuend, subtrahend) = self
            .0
            .take(|first, pad| Ok((LockedBytes::copy_from(first)?, integer(pad, first.len())?)))?;
        Ok(with_wiped_stack(|| {
            work(minuend.expose(), subtrahend.expose())
        }))
    }
}

#[cfg(test)]
mod tests;
