//! What guard agrees to sign: a TLS server's handshake message for edge, a TLS 1.3 client's for egress, and nothing that
//! could be read as anything else.
//!
//! Edge sends the message unhashed, so a taken-over edge cannot have a certificate, a request, a JWT or an SSH
//! blob signed: none of them has one of these two forms.
//!
//! * TLS 1.3 (RFC 8446 section 4.4.3): 64 × 0x20 ‖ "TLS 1.3, server CertificateVerify" ‖ 0 ‖ transcript hash. For egress
//!   "client" stands in the place of "server". TLS 1.2's client message is the whole handshake, which guard could not
//!   tell from other things: it is not signed.
//! * TLS 1.2 (RFC 5246 section 7.4.3, RFC 8422 section 5.4): client random ‖ server random ‖ ECDHE parameters with a
//!   named curve. The point's length must be the curve's, and the point must lie on it.

/// The version whose form a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// Who signs in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Edge's certificates.
    Server,
    /// Egress's, towards upstreams that want one.
    Client,
}

/// Not a message that this side of a TLS handshake signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAHandshake;

const PADDING_BYTES: usize = 64;
const SERVER_CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";
const CLIENT_CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";
/// Two randoms of 32 bytes.
const RANDOM_BYTES: usize = 64;
/// ECCurveType.named_curve (RFC 8422 section 5.4).
const NAMED_CURVE: u8 = 3;

/// Whether guard may sign the message for this side, and in which version it stands.
pub(crate) fn check(side: Side, message: &[u8]) -> Result<Version, NotAHandshake> {
    let context = match side {
        Side::Server => SERVER_CONTEXT,
        Side::Client => CLIENT_CONTEXT,
    };
    if is_certificate_verify(context, message) {
        Ok(Version::Tls13)
    } else if side == Side::Server && is_server_key_exchange(message) {
        Ok(Version::Tls12)
    } else {
        Err(NotAHandshake)
    }
}

fn is_certificate_verify(context: &[u8], message: &[u8]) -> bool {
    let Some((padding, rest)) = message.split_at_checked(PADDING_BYTES) else {
        return false;
    };
    let hash = rest.strip_prefix(context);
    padding.iter().all(|byte| *byte == 0x20)
        && hash.is_some_and(|hash| matches!(hash.len(), 32 | 48))
}

fn is_server_key_exchange(message: &[u8]) -> bool {
    match message.get(RANDOM_BYTES..) {
        Some([NAMED_CURVE, high, low, length, point @ ..]) => {
            usize::from(*length) == point.len()
                && is_point(u16::from_be_bytes([*high, *low]), point)
        }
        _ => false,
    }
}

/// A public value of the named group (RFC 8422 section 5.1.1): uncompressed, on the curve, not at infinity.
fn is_point(group: u16, point: &[u8]) -> bool {
    match group {
        23 => point.len() == 65 && p256::PublicKey::from_sec1_bytes(point).is_ok(),
        24 => point.len() == 97 && p384::PublicKey::from_sec1_bytes(point).is_ok(),
        25 => point.len() == 133 && p521::PublicKey::from_sec1_bytes(point).is_ok(),
        29 => point.len() == 32,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use p256::elliptic_curve::sec1::ToEncodedPoint;
    use proptest::prelude::*;

    use super::*;

    fn verify(hash_len: usize) -> Vec<u8> {
        [
            &[0x20; 64][..],
            b"TLS 1.3, server CertificateVerify\0",
            &vec![0xab; hash_len],
        ]
        .concat()
    }

    fn exchange(group: u16, point: &[u8]) -> Vec<u8> {
        let length = u8::try_from(point.len()).unwrap();
        let [high, low] = group.to_be_bytes();
        [&[0x11; 64][..], &[3, high, low, length], point].concat()
    }

    fn p256_point() -> Vec<u8> {
        p256::AffinePoint::GENERATOR
            .to_encoded_point(false)
            .as_bytes()
            .to_vec()
    }

    fn p384_point() -> Vec<u8> {
        p384::AffinePoint::GENERATOR
            .to_encoded_point(false)
            .as_bytes()
            .to_vec()
    }

    fn p521_point() -> Vec<u8> {
        p521::AffinePoint::GENERATOR
            .to_encoded_point(false)
            .as_bytes()
            .to_vec()
    }

    #[test]
    fn server_messages_of_both_versions_are_signed() {
        for (message, version) in [
            (verify(32), Version::Tls13),
            (verify(48), Version::Tls13),
            (exchange(23, &p256_point()), Version::Tls12),
            (exchange(24, &p384_point()), Version::Tls12),
            (exchange(25, &p521_point()), Version::Tls12),
            (exchange(29, &[9; 32]), Version::Tls12),
        ] {
            assert_eq!(check(Side::Server, &message), Ok(version));
        }
    }

    #[test]
    fn each_side_signs_its_own_messages_only() {
        let mut client = verify(32);
        client[73..79].copy_from_slice(b"client");

        assert_eq!(check(Side::Client, &client), Ok(Version::Tls13));
        assert_eq!(check(Side::Server, &client), Err(NotAHandshake));
        assert_eq!(check(Side::Client, &verify(32)), Err(NotAHandshake));
        let exchange = exchange(23, &p256_point());
        assert_eq!(check(Side::Client, &exchange), Err(NotAHandshake));
    }

    #[test]
    fn other_certificate_verify_forms_are_refused() {
        let client = [
            &[0x20; 64][..],
            b"TLS 1.3, client CertificateVerify\0",
            &[1; 32],
        ]
        .concat();
        let exporter = [&[0x20; 64][..], b"Exported Authenticator\0", &[1; 32]].concat();
        let short_padding = verify(32)[1..].to_vec();
        let long_padding = [&[0x20][..], &verify(32)].concat();
        let mut other_padding = verify(32);
        other_padding[63] = 0x21;
        let mut no_separator = verify(32);
        no_separator[64 + 33] = 1;
        for message in [
            client,
            exporter,
            short_padding,
            long_padding,
            other_padding,
            no_separator,
        ] {
            assert_eq!(check(Side::Server, &message), Err(NotAHandshake));
        }
        for hash_len in [0, 20, 28, 31, 33, 47, 49, 64] {
            assert_eq!(
                check(Side::Server, &verify(hash_len)),
                Err(NotAHandshake),
                "{hash_len}"
            );
        }
    }

    #[test]
    fn wrong_key_exchanges_are_refused() {
        let mut off_curve = p256_point();
        off_curve[64] ^= 1;
        let mut compressed = p256_point()[..33].to_vec();
        compressed[0] = 2;
        let mut hybrid = p256_point();
        hybrid[0] = 6 | (hybrid[64] & 1);
        let whole = exchange(23, &p256_point());
        let mut explicit_curve = whole.clone();
        explicit_curve[64] = 1;
        let mut wrong_length = whole.clone();
        wrong_length[67] = 64;
        for message in [
            exchange(23, &off_curve),
            exchange(23, &compressed),
            exchange(23, &hybrid),
            exchange(23, &[0]),
            exchange(23, &[]),
            exchange(24, &p256_point()),
            exchange(29, &[9; 31]),
            exchange(29, &[9; 33]),
            exchange(30, &[9; 56]),
            exchange(22, &p256_point()),
            exchange(0x11ec, &[9; 32]),
            explicit_curve,
            wrong_length,
            [whole.as_slice(), &[0]].concat(),
            whole[..whole.len() - 1].to_vec(),
            whole[1..].to_vec(),
        ] {
            assert_eq!(check(Side::Server, &message), Err(NotAHandshake));
        }
    }

    #[test]
    fn documents_that_keys_are_abused_for_are_refused() {
        let digest_info = [&[0x30, 0x31][..], &[7; 49]].concat();
        for message in [
            b"".as_slice(),
            b"hello",
            &[0x30; 600],
            b"eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZG1pbiIsImV4cCI6MTc5NTU5NjE2MX0",
            b"SSHSIG\0\0\0\x04file\0\0\0\0\0\0\0\x06sha512\0\0\0\x40aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            &digest_info,
        ] {
            assert_eq!(check(Side::Server, message), Err(NotAHandshake));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_stop_the_check(message: Vec<u8>, tail in proptest::collection::vec(any::<u8>(), 0..150)) {
            let _ = check(Side::Server, &message).is_ok();
            let _ = check(Side::Server, &[&[0x20; 64][..], &tail].concat()).is_ok();
            let _ = check(Side::Server, &[&[0x11; 64][..], &[3], &tail].concat()).is_ok();
        }

        #[test]
        fn one_changed_byte_outside_randoms_and_hash_is_refused(place in 64_usize..98, change in 1_u8..) {
            let mut message = verify(32);
            message[place] ^= change;
            prop_assert_eq!(check(Side::Server, &message), Err(NotAHandshake));
        }
    }
}
