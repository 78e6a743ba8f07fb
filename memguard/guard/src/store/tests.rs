use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::random::tests::fail_after;

type P256 = p256::Scalar;

fn store() -> Store {
    Store::new(Root::in_pages().unwrap())
}

fn split(store: &Store, secret: &[u8]) -> Split {
    Split::new(store, LockedBytes::copy_from(secret).unwrap()).unwrap()
}

fn first<F>(share: &Share<F>) -> Vec<u8> {
    let generation = *share.store.in_force();
    share.read(generation).expose().to_vec()
}

fn pad<F>(share: &Share<F>, len: usize) -> Vec<u8> {
    let mut pad = vec![0; len];
    share
        .store
        .root
        .pad(*share.store.in_force(), share.id)
        .unwrap()
        .apply(&mut pad);
    pad
}

fn sum(share: &SplitScalar<P256>) -> P256 {
    share
        .with_halves(|halves| halves.scalars[0] + halves.scalars[1])
        .unwrap()
}

fn difference(share: &SplitInteger) -> Vec<u8> {
    share
        .with_terms(|minuend, subtrahend| {
            let mut difference = minuend.to_vec();
            add(&mut difference, subtrahend, true);
            difference
        })
        .unwrap()
}

fn scalars() -> Vec<P256> {
    let (zero, one) = (P256::ZERO, P256::ONE);
    vec![zero, one, zero - one, one + one, P256::from(1_u64 << 40)]
}

#[test]
fn joined_is_what_was_split() {
    let secret = split(&store(), b"a secret of some length");

    assert_eq!(
        secret.with_joined(<[u8]>::to_vec).unwrap(),
        b"a secret of some length"
    );
    assert_eq!(secret.len(), 23);
}

#[test]
fn neither_part_is_the_secret() {
    let secret = split(&store(), &[0x5a; 64]);

    assert_ne!(first(&secret.0), [0x5a; 64]);
    assert_ne!(pad(&secret.0, 64), [0x5a; 64]);
}

#[test]
fn every_form_keeps_its_secret_over_many_changes() {
    let store = store();
    let secret = split(&store, &[7; 33]);
    let numbers: Vec<_> = scalars()
        .into_iter()
        .map(|d| (d, SplitScalar::new(&store, d).unwrap()))
        .collect();
    let integers: Vec<_> = [[0; 256], [0xff; 256], [7; 256]]
        .map(|whole| (whole, SplitInteger::new(&store, &whole).unwrap()))
        .into();
    for generation in 0..50 {
        assert_eq!(store.generation(), generation);
        assert_eq!(secret.with_joined(<[u8]>::to_vec).unwrap(), [7; 33]);
        for (whole, share) in &numbers {
            assert_eq!(sum(share), *whole);
        }
        for (whole, share) in &integers {
            let difference = difference(share);
            assert_eq!(difference[difference.len() - 256..], *whole);
            assert!(
                difference[..difference.len() - 256]
                    .iter()
                    .all(|byte| *byte == 0)
            );
        }
        store.reshare().unwrap();
    }
}

#[test]
fn a_change_changes_both_parts_and_both_seeds() {
    let store = store();
    let (secret, number) = (
        split(&store, &[7; 64]),
        SplitScalar::new(&store, P256::ONE).unwrap(),
    );
    let parts = || {
        let halves = number
            .with_halves(|halves| (halves.scalars, halves.seeds))
            .unwrap();
        (first(&secret.0), pad(&secret.0, 64), halves)
    };
    let before = parts();

    store.reshare().unwrap();
    let after = parts();

    assert!(before.0 != after.0 && before.1 != after.1);
    for at in [0, 1] {
        assert_ne!(before.2.0[at], after.2.0[at]);
        assert_ne!(before.2.1[at], after.2.1[at]);
    }
}

#[test]
fn what_a_generation_leaves_behind_is_wiped() {
    let store = store();
    let secret = split(&store, &[7; 64]);

    store.reshare().unwrap();

    assert_eq!(secret.0.read(0).expose(), [0; 64]);
    assert_ne!(secret.0.read(1).expose(), [0; 64]);
}

#[test]
fn two_shares_of_one_secret_have_nothing_in_common() {
    let store = store();
    let (one, other) = (split(&store, &[7; 32]), split(&store, &[7; 32]));

    assert_ne!(first(&one.0), first(&other.0));
}

/// However often the generator fails in the middle of a change, the secret stays, and a later change works.
#[test]
fn interrupted_changes_lose_nothing() {
    let store = store();
    let numbers: Vec<_> = scalars()
        .into_iter()
        .map(|d| (d, SplitScalar::new(&store, d).unwrap()))
        .collect();
    for calls in 0..=5 {
        fail_after(Some(calls));
        assert!(store.reshare().is_err(), "{calls}");
        fail_after(None);
        assert_eq!(store.generation(), 0);
        for (whole, share) in &numbers {
            assert_eq!(sum(share), *whole);
        }
    }
    store.reshare().unwrap();
    for (whole, share) in &numbers {
        assert_eq!(sum(share), *whole);
    }
}

#[test]
fn users_beside_a_change_never_see_a_mix() {
    let store = store();
    let (secret, number) = (
        split(&store, &[7; 100]),
        SplitScalar::new(&store, P256::from(42_u64)).unwrap(),
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(secret.with_joined(<[u8]>::to_vec).unwrap(), [7; 100]);
                    assert_eq!(sum(&number), P256::from(42_u64));
                }
            });
        }
        for _ in 0..500 {
            store.reshare().unwrap();
            // Shares that come and go meanwhile are nobody's mix either.
            assert_eq!(
                split(&store, &[9; 10]).with_joined(<[u8]>::to_vec).unwrap(),
                [9; 10]
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn dropped_shares_are_not_changed_any_more() {
    let store = store();
    drop(split(&store, &[7; 32]));
    store.reshare().unwrap();

    assert!(store.0.shares().live.is_empty());
}

#[test]
fn addition_carries_and_borrows() {
    let mut number = [0, 0xff, 0xff];
    add(&mut number, &[0, 0, 1], false);
    assert_eq!(number, [1, 0, 0]);
    add(&mut number, &[0, 0, 1], true);
    assert_eq!(number, [0, 0xff, 0xff]);
    add(&mut number, &[1, 0, 0], true);
    assert_eq!(number, [0xff, 0xff, 0xff]);
}

/// Chi-square over the 256 byte values, 255 degrees of freedom: beyond these bounds lies one in 10^9.
fn assert_uniform(bytes: impl Iterator<Item = u8>) {
    let mut counts = [0_u32; 256];
    bytes.for_each(|byte| counts[usize::from(byte)] += 1);
    let expected = f64::from(counts.iter().sum::<u32>()) / 256.0;
    let distance: f64 = counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum();

    assert!((140.0..420.0).contains(&distance), "{distance}");
}

/// Part A alone and the pad alone look alike whatever the secret is: here the worst one, all zeros.
#[test]
fn each_part_alone_is_uniform() {
    let store = store();
    let zeros = split(&store, &[0; 64]);
    let number = SplitScalar::new(&store, P256::ZERO).unwrap();
    let integer = SplitInteger::new(&store, &[0; 64]).unwrap();
    let (mut joined, mut pads, mut summed, mut integers) = (vec![], vec![], vec![], vec![]);
    for _ in 0..2000 {
        joined.extend(first(&zeros.0));
        pads.extend(pad(&zeros.0, 64));
        summed.extend(first(&number.0));
        integers.extend(&first(&integer.0)[2..]);
        store.reshare().unwrap();
    }
    for bytes in [joined, pads, summed, integers] {
        assert_uniform(bytes.into_iter());
    }
}

/// What is left on the stack after a use is not what was used.
#[test]
fn stack_below_a_use_is_wiped() {
    #[inline(never)]
    fn peek() -> bool {
        let below = std::hint::black_box([const { std::mem::MaybeUninit::<u8>::uninit() }; 4096]);
        // SAFETY: this test reads what earlier frames left, as an attacker would; any byte is a valid u8.
        #[allow(unsafe_code)]
        let below = unsafe { std::slice::from_raw_parts(below.as_ptr().cast::<u8>(), 4096) };
        below.windows(16).any(|window| window == [0xa7; 16])
    }
    #[inline(never)]
    fn leave() {
        std::hint::black_box([0xa7_u8; 2048]);
    }
    leave();
    let control = peek();
    with_wiped_stack(leave);

    assert!(control, "the control left nothing: this test sees nothing");
    assert!(!peek());
}
