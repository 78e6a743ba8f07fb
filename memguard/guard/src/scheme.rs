//! TLS signature schemes (RFC 8446 section 4.2.3), and which key may use which in which version.

use crate::context::Version;
use crate::crypto::Hash;
use crate::crypto::ec::Curve;
use crate::crypto::rsa::Padding;

/// What kind of key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Ecdsa(Curve),
    Ed25519,
    Rsa,
}

/// How to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Ecdsa(Hash),
    Ed25519,
    Rsa(Padding, Hash),
}

impl Method {
    /// TLS's number of the scheme that signs like this.
    pub(crate) fn code(self) -> u16 {
        let hash = |hash| match hash {
            Hash::Sha256 => 0,
            Hash::Sha384 => 1,
            Hash::Sha512 => 2,
        };
        match self {
            Self::Rsa(Padding::Pkcs1, digest) => 0x0401 + 0x0100 * hash(digest),
            Self::Rsa(Padding::Pss, digest) => 0x0804 + hash(digest),
            Self::Ecdsa(digest) => 0x0403 + 0x0100 * hash(digest),
            Self::Ed25519 => 0x0807,
        }
    }
}

/// The method for a scheme, or `None` where key or version does not allow it.
///
/// TLS 1.3 ties each ECDSA hash to one curve and knows no PKCS#1 in handshakes; TLS 1.2 allows both.
pub(crate) fn method(key: KeyType, scheme: u16, version: Version) -> Option<Method> {
    use Hash::{Sha256, Sha384, Sha512};
    let method = match scheme {
        0x0401 => Method::Rsa(Padding::Pkcs1, Sha256),
        0x0501 => Method::Rsa(Padding::Pkcs1, Sha384),
        0x0601 => Method::Rsa(Padding::Pkcs1, Sha512),
        0x0804 => Method::Rsa(Padding::Pss, Sha256),
        0x0805 => Method::Rsa(Padding::Pss, Sha384),
        0x0806 => Method::Rsa(Padding::Pss, Sha512),
        0x0403 => Method::Ecdsa(Sha256),
        0x0503 => Method::Ecdsa(Sha384),
        0x0603 => Method::Ecdsa(Sha512),
        0x0807 => Method::Ed25519,
        _ => return None,
    };
    let fits = match (key, method) {
        (KeyType::Rsa, Method::Rsa(Padding::Pss, _)) | (KeyType::Ed25519, Method::Ed25519) => true,
        (KeyType::Rsa, Method::Rsa(Padding::Pkcs1, _)) => version == Version::Tls12,
        (KeyType::Ecdsa(curve), Method::Ecdsa(hash)) => {
            version == Version::Tls12 || hash == own_hash(curve)
        }
        _ => false,
    };
    fits.then_some(method)
}

/// The hash that belongs to a curve.
pub(crate) fn own_hash(curve: Curve) -> Hash {
    match curve {
        Curve::P256 => Hash::Sha256,
        Curve::P384 => Hash::Sha384,
        Curve::P521 => Hash::Sha512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u16; 11] = [
        0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806, 0x0403, 0x0503, 0x0603, 0x0807, 0x0201,
    ];

    fn allowed(key: KeyType, version: Version) -> Vec<u16> {
        ALL.into_iter()
            .filter(|&scheme| method(key, scheme, version).is_some())
            .collect()
    }

    #[test]
    fn tls13_allows_one_scheme_for_each_curve_and_pss_only() {
        assert_eq!(
            allowed(KeyType::Rsa, Version::Tls13),
            [0x0804, 0x0805, 0x0806]
        );
        assert_eq!(
            allowed(KeyType::Ecdsa(Curve::P256), Version::Tls13),
            [0x0403]
        );
        assert_eq!(
            allowed(KeyType::Ecdsa(Curve::P384), Version::Tls13),
            [0x0503]
        );
        assert_eq!(
            allowed(KeyType::Ecdsa(Curve::P521), Version::Tls13),
            [0x0603]
        );
        assert_eq!(allowed(KeyType::Ed25519, Version::Tls13), [0x0807]);
    }

    #[test]
    fn tls12_allows_pkcs1_and_any_hash_but_never_sha1() {
        let rsa = [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806];
        assert_eq!(allowed(KeyType::Rsa, Version::Tls12), rsa);
        assert_eq!(
            allowed(KeyType::Ecdsa(Curve::P256), Version::Tls12),
            [0x0403, 0x0503, 0x0603]
        );
        assert_eq!(allowed(KeyType::Ed25519, Version::Tls12), [0x0807]);
    }

    #[test]
    fn methods_name_the_scheme_they_came_from() {
        for key in [KeyType::Rsa, KeyType::Ed25519, KeyType::Ecdsa(Curve::P256)] {
            for scheme in allowed(key, Version::Tls12) {
                assert_eq!(method(key, scheme, Version::Tls12).unwrap().code(), scheme);
            }
        }
    }

    #[test]
    fn unknown_schemes_are_refused_for_every_key() {
        for scheme in [0, 0x0203, 0x0420, 0x0808, 0x0809, 0x0904, 0xffff] {
            for key in [KeyType::Rsa, KeyType::Ed25519, KeyType::Ecdsa(Curve::P256)] {
                assert_eq!(method(key, scheme, Version::Tls12), None, "{scheme:04x}");
            }
        }
    }
}
