//! Private key files: PEM in PKCS#8, SEC1 or PKCS#1, kept as PKCS#8 DER in locked memory.

use base64ct::{Base64, Encoding};
use pkcs8::PrivateKeyInfo;

use crate::LockedBytes;
use crate::error::Error;
use crate::text::LockedText;

/// What a private key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on secp256r1
    EcdsaP256,
    /// ECDSA on secp384r1
    EcdsaP384,
    /// ECDSA on secp521r1
    EcdsaP521,
    /// Ed25519
    Ed25519,
    /// RSA, with the modulus's size in bits
    Rsa(usize),
}

impl Algorithm {
    /// Of a PKCS#8 private key.
    ///
    /// # Errors
    /// `PrivateKeyFile` when it does not parse, `UnknownAlgorithm`.
    pub fn of(pkcs8: &LockedBytes) -> Result<Self, Error> {
        let info = PrivateKeyInfo::try_from(pkcs8.expose()).map_err(|_| Error::PrivateKeyFile)?;
        match info.algorithm.oid.to_string().as_str() {
            "1.2.840.10045.2.1" => {
                let curve = info
                    .algorithm
                    .parameters_oid()
                    .map_err(|_| Error::PrivateKeyFile)?;
                sec1::EcPrivateKey::try_from(info.private_key)
                    .map_err(|_| Error::PrivateKeyFile)?;
                match curve.to_string().as_str() {
                    "1.2.840.10045.3.1.7" => Ok(Self::EcdsaP256),
                    "1.3.132.0.34" => Ok(Self::EcdsaP384),
                    "1.3.132.0.35" => Ok(Self::EcdsaP521),
                    _ => Err(Error::UnknownAlgorithm),
                }
            }
            "1.3.101.112" => Ok(Self::Ed25519),
            "1.2.840.113549.1.1.1" => {
                let key = pkcs1::RsaPrivateKey::try_from(info.private_key)
                    .map_err(|_| Error::PrivateKeyFile)?;
                let modulus = key.modulus.as_bytes();
                let unused = modulus
                    .first()
                    .map_or(0, |byte| byte.leading_zeros() as usize);
                Ok(Self::Rsa(modulus.len() * 8 - unused))
            }
            _ => Err(Error::UnknownAlgorithm),
        }
    }

    /// The name in configurations and descriptions.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::EcdsaP256 => "ecdsa-p256".to_owned(),
            Self::EcdsaP384 => "ecdsa-p384".to_owned(),
            Self::EcdsaP521 => "ecdsa-p521".to_owned(),
            Self::Ed25519 => "ed25519".to_owned(),
            Self::Rsa(bits) => format!("rsa-{bits}"),
        }
    }
}

/// The first private key of a PEM file, as PKCS#8 DER. Other blocks (certificates, EC parameters) are passed over.
///
/// # Errors
/// `PrivateKeyFile`, `EncryptedKeyFile`, `UnknownAlgorithm`.
pub fn from_pem(pem: &LockedBytes) -> Result<LockedBytes, Error> {
    let (label, der) = first_key(pem.expose())?;
    let pkcs8 = match label {
        Label::Pkcs8 => der,
        Label::Pkcs1 => wrap(&der, RSA_ALGORITHM)?,
        Label::Sec1 => {
            let curve = {
                let key = sec1::EcPrivateKey::try_from(der.expose())
                    .map_err(|_| Error::PrivateKeyFile)?;
                let oid = key.parameters.and_then(sec1::EcParameters::named_curve);
                oid.ok_or(Error::UnknownAlgorithm)?
            };
            let mut parameters = EC_ALGORITHM_OID.to_vec();
            parameters.extend(tlv_header(0x06, curve.as_bytes().len()));
            parameters.extend(curve.as_bytes());
            let mut algorithm = tlv_header(0x30, parameters.len());
            algorithm.extend(parameters);
            wrap(&der, &algorithm)?
        }
    };
    Algorithm::of(&pkcs8)?;
    Ok(pkcs8)
}

/// PKCS#8 DER as PEM, 64 characters a line (RFC 7468).
///
/// # Errors
/// When no locked memory is to be had.
pub fn to_pem(pkcs8: &LockedBytes) -> Result<LockedBytes, Error> {
    let mut out = LockedText::with_capacity(pkcs8.len() * 3 / 2 + 64)?;
    out.push(b"-----BEGIN PRIVATE KEY-----\n")?;
    for line in pkcs8.expose().chunks(48) {
        out.push_base64(line)?;
        out.push(b"\n")?;
    }
    out.push(b"-----END PRIVATE KEY-----\n")?;
    Ok(out.finish())
}

/// AlgorithmIdentifier of rsaEncryption with NULL parameters.
const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];
/// id-ecPublicKey.
const EC_ALGORITHM_OID: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// INTEGER 0: PKCS#8 version 1.
const VERSION: &[u8] = &[2, 1, 0];

enum Label {
    Pkcs8,
    Pkcs1,
    Sec1,
}

fn first_key(pem: &[u8]) -> Result<(Label, LockedBytes), Error> {
    let mut lines = pem.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let label = loop {
        match lines.next().ok_or(Error::PrivateKeyFile)? {
            b"-----BEGIN PRIVATE KEY-----" => break Label::Pkcs8,
            b"-----BEGIN RSA PRIVATE KEY-----" => break Label::Pkcs1,
            b"-----BEGIN EC PRIVATE KEY-----" => break Label::Sec1,
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----" => return Err(Error::EncryptedKeyFile),
            _ => {}
        }
    };
    let mut body = LockedText::with_capacity(pem.len())?;
    for line in lines {
        if line.starts_with(b"-----END ") {
            return Ok((label, decode(body.written())?));
        }
        if line.starts_with(b"Proc-Type:") || line.starts_with(b"DEK-Info:") {
            return Err(Error::EncryptedKeyFile);
        }
        body.push(line)?;
    }
    Err(Error::PrivateKeyFile)
}

fn decode(base64: &[u8]) -> Result<LockedBytes, Error> {
    let padding = base64
        .iter()
        .rev()
        .take_while(|byte| **byte == b'=')
        .count();
    let length = (base64.len() / 4 * 3).saturating_sub(padding);
    if length == 0 {
        return Err(Error::PrivateKeyFile);
    }
    let mut der = LockedBytes::zeroed(length)?;
    let written = Base64::decode(base64, der.expose_mut())
        .map_err(|_| Error::PrivateKeyFile)?
        .len();
    if written != length {
        return Err(Error::PrivateKeyFile);
    }
    Ok(der)
}

/// PrivateKeyInfo around a SEC1 or PKCS#1 key.
fn wrap(key: &LockedBytes, algorithm: &[u8]) -> Result<LockedBytes, Error> {
    let octets = tlv_header(0x04, key.len());
    let inside = VERSION.len() + algorithm.len() + octets.len() + key.len();
    let mut out = LockedText::with_capacity(inside + 8)?;
    for part in [
        &tlv_header(0x30, inside),
        VERSION,
        algorithm,
        &octets,
        key.expose(),
    ] {
        out.push(part)?;
    }
    Ok(out.finish())
}

/// Tag and length in DER.
fn tlv_header(tag: u8, length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len() - 1)..];
    match significant {
        [short] if *short < 0x80 => vec![tag, *short],
        _ => [&[tag, 0x80 | significant.len() as u8], significant].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256_SEC1: &str = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
        -----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIC2oGiVq7j0Z5ZWzhzQNnHEWJqMTgtmFhJCw9+cJRU6NoAoGCCqGSM49\n\
        AwEHoUQDQgAE1+9VHFcnkgDkSx5DUbFmKo+3l4sqoGMSpjGHC6GNIzBzZbAJGPQU\nfpJ3pZxRZCqXUnKUmzFhCYz4v3KXqG3pdQ==\n\
        -----END EC PRIVATE KEY-----\n";

    fn locked(text: &str) -> LockedBytes {
        LockedBytes::copy_from(text.as_bytes()).unwrap()
    }

    #[test]
    fn sec1_key_becomes_pkcs8_and_reads_back() {
        let pkcs8 = from_pem(&locked(P256_SEC1)).unwrap();
        let again = from_pem(&to_pem(&pkcs8).unwrap()).unwrap();

        assert_eq!(Algorithm::of(&pkcs8).unwrap(), Algorithm::EcdsaP256);
        assert!(again.is_same(&pkcs8));
    }

    #[test]
    fn encrypted_keys_are_told_apart_from_no_keys() {
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n-----END RSA PRIVATE KEY-----",
        ] {
            assert!(matches!(
                from_pem(&locked(text)),
                Err(Error::EncryptedKeyFile)
            ));
        }
        for text in [
            "",
            "hello",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ] {
            assert!(
                matches!(from_pem(&locked(text)), Err(Error::PrivateKeyFile)),
                "{text}"
            );
        }
    }

    #[test]
    fn der_lengths_are_minimal() {
        for (length, header) in [
            (0, &[0x30, 0][..]),
            (127, &[0x30, 127]),
            (128, &[0x30, 0x81, 128]),
            (256, &[0x30, 0x82, 1, 0]),
        ] {
            assert_eq!(tlv_header(0x30, length), header);
        }
    }
}
