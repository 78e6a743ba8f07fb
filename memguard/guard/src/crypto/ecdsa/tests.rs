//! Edges in the manner of Wycheproof: parts of 0, 1 and n − 1, r and s of 0, and what verifiers that are not ours say.

use p256::elliptic_curve::Group;
use p256::elliptic_curve::sec1::ToEncodedPoint;

use super::*;

type P = p256::Scalar;
type Q = p384::Scalar;
type R = p521::Scalar;

fn edges<F: Field>() -> Vec<F> {
    let one = F::reduce(&[1]);
    let zero = one.subtract(one);
    let mut leading_zeros = vec![0; F::BYTES];
    leading_zeros[F::BYTES - 1] = 0x80;
    vec![
        zero,
        one,
        zero.subtract(one),
        F::reduce(&leading_zeros),
        F::reduce(&[0xa5; 64]),
    ]
}

/// Textbook verification over the p256 crate: s⁻¹ only where everybody may see it.
fn is_valid(public: p256::ProjectivePoint, z: P, r: P, s: P) -> bool {
    let inverse = s.inverse_of_blinded().unwrap();
    let point = p256::ProjectivePoint::GENERATOR * (z * inverse) + public * (r * inverse);
    let x = point.to_affine().to_encoded_point(false);
    x.x().is_some_and(|x| P::reduce(x) == r)
}

#[test]
fn every_combination_of_edges_signs_or_is_retried() {
    let mut signed = 0;
    for d1 in edges::<P>() {
        for d2 in edges::<P>() {
            for k1 in edges::<P>() {
                for k2 in edges::<P>() {
                    for z in [P::ZERO, P::ONE, P::from(77_u64)] {
                        let attempt =
                            attempt(Curve::P256, &[d1, d2], &[k1, k2], P::from(5_u64), z).unwrap();
                        let Some((r, s)) = attempt else {
                            let no_key = d1 + d2 == P::ZERO && z == P::ZERO;
                            assert!(k1 + k2 == P::ZERO || no_key);
                            continue;
                        };
                        let public = p256::ProjectivePoint::GENERATOR * (d1 + d2);
                        // A key of 0 does not exist: loading refuses it.
                        if !bool::from(public.is_identity()) {
                            assert!(is_valid(public, z, r, s));
                            signed += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(signed > 1000, "{signed}");
}

fn halves_make_one_nonce<F: Field>(curve: Curve) {
    let parts = edges::<F>();
    let (d, k) = ([parts[4], parts[2]], [parts[4], parts[3]]);
    let whole = |[one, other]: [F; 2]| [one.add(other), one.subtract(one)];
    let sign = |d, k| attempt(curve, &d, &k, parts[4], parts[1]).unwrap().unwrap();

    let (r, s) = sign(d, k);
    let (whole_r, whole_s) = sign(whole(d), whole(k));

    assert!(r.subtract(whole_r).is_zero() && s.subtract(whole_s).is_zero());
}

#[test]
fn parts_sign_as_their_sum_would() {
    halves_make_one_nonce::<P>(Curve::P256);
    halves_make_one_nonce::<Q>(Curve::P384);
    halves_make_one_nonce::<R>(Curve::P521);
}

#[test]
fn numbers_that_give_no_signature_are_retried() {
    let (zero, one) = (P::ZERO, P::ONE);
    let none = |d, k, b, z| attempt(Curve::P256, &d, &k, b, z).unwrap().is_none();

    assert!(none([one, one], [one, zero - one], one, one), "k is 0");
    assert!(
        none([one, one], [zero, zero], one, one),
        "both parts of k are 0"
    );
    assert!(none([one, one], [one, one], zero, one), "b is 0");
    // z = −r·d makes s zero.
    let (r, _) = attempt(Curve::P256, &[one, one], &[one, one], one, one)
        .unwrap()
        .unwrap();
    assert!(
        none([one, one], [one, one], one, zero - r * P::from(2_u64)),
        "s is 0"
    );
    assert!(!none([one, one], [one, one], one, one));
}

#[test]
fn blinding_does_not_show() {
    let sign = |b: u64| {
        attempt(
            Curve::P256,
            &[P::from(3_u64), P::from(4_u64)],
            &[P::from(5_u64), P::from(6_u64)],
            P::from(b),
            P::from(7_u64),
        )
        .unwrap()
    };

    assert!(sign(1) == sign(u64::MAX));
}

#[test]
fn integers_are_as_short_as_der_wants_them() {
    let (zero, one) = (P::ZERO, P::ONE);
    assert_eq!(
        der(one, P::from(0x80_u64)),
        [0x30, 7, 2, 1, 1, 2, 2, 0, 0x80]
    );
    assert_eq!(der(P::from(0x7f_u64), zero), [0x30, 6, 2, 1, 0x7f, 2, 1, 0]);
    assert_eq!(der(zero - one, zero - one).len(), 2 + 2 * 35);
    let minus_one = R::reduce(&[0]).subtract(R::reduce(&[1]));
    let long = der(minus_one, minus_one);
    assert_eq!(
        (long[0], long[1], usize::from(long[2])),
        (0x30, 0x81, long.len() - 3)
    );
}

#[test]
fn digests_are_cut_to_the_order_and_never_padded_on_the_right() {
    let hash = |hash: Hash| hash.digest(b"message");
    let cut: P = number(Curve::P256, &hash(Hash::Sha512));
    let short: Q = number(Curve::P384, &hash(Hash::Sha256));

    assert!(cut == P::reduce(&hash(Hash::Sha512).as_ref()[..32]));
    assert!(short == Q::reduce(hash(Hash::Sha256).as_ref()));
}
