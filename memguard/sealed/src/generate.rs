//! Keys that are born sealed: made in native memory, with their first certificate request.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

use crate::LockedBytes;
use crate::csr;
use crate::error::Error;
use crate::keys::Algorithm;

/// A fresh key: PKCS#8 DER, and a PEM request for `names`.
///
/// # Errors
/// `UnknownAlgorithm` for what no web CA takes, `RequestName`, `System`.
pub(crate) fn generate(algorithm: &str, names: &[&str]) -> Result<(LockedBytes, String), Error> {
    match algorithm {
        "ecdsa-p256" => ecdsa(names),
        "ed25519" => ed25519(names),
        "rsa-2048" => rsa(KeySize::Rsa2048, 2048, names),
        "rsa-3072" => rsa(KeySize::Rsa3072, 3072, names),
        "rsa-4096" => rsa(KeySize::Rsa4096, 4096, names),
        _ => Err(Error::UnknownAlgorithm),
    }
}

/// Refuse a key that would sign nothing: parts that do not fit each other, RSA outside 2048 to 8192 bits.
///
/// # Errors
/// `UnusableKey`.
pub(crate) fn check(pkcs8: &LockedBytes) -> Result<(), Error> {
    let ecdsa = |suite| EcdsaKeyPair::from_pkcs8(suite, pkcs8.expose()).map(drop);
    match Algorithm::of(pkcs8)? {
        Algorithm::EcdsaP256 => ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        Algorithm::EcdsaP384 => ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        Algorithm::EcdsaP521 => ecdsa(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
        Algorithm::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.expose()).map(drop),
        Algorithm::Rsa(_) => RsaKeyPair::from_pkcs8(pkcs8.expose()).map(drop),
    }
    .map_err(|_| Error::UnusableKey)
}

fn ecdsa(names: &[&str]) -> Result<(LockedBytes, String), Error> {
    let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).map_err(system)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(system)?;
    let info = csr::info(names, spki.as_ref())?;
    let signature = key.sign(&SystemRandom::new(), &info).map_err(system)?;
    let request = csr::assemble(&info, Algorithm::EcdsaP256, signature.as_ref())?;
    Ok((
        LockedBytes::copy_from(key.to_pkcs8v1().map_err(system)?.as_ref())?,
        request,
    ))
}

fn ed25519(names: &[&str]) -> Result<(LockedBytes, String), Error> {
    let key = Ed25519KeyPair::generate().map_err(system)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(system)?;
    let info = csr::info(names, spki.as_ref())?;
    let request = csr::assemble(&info, Algorithm::Ed25519, key.sign(&info).as_ref())?;
    Ok((
        LockedBytes::copy_from(key.to_pkcs8v1().map_err(system)?.as_ref())?,
        request,
    ))
}

fn rsa(size: KeySize, bits: usize, names: &[&str]) -> Result<(LockedBytes, String), Error> {
    let key = RsaKeyPair::generate(size).map_err(system)?;
    let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(system)?;
    let info = csr::info(names, spki.as_ref())?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &signature::RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        &info,
        &mut signature,
    )
    .map_err(system)?;
    let request = csr::assemble(&info, Algorithm::Rsa(bits), &signature)?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(system)?;
    Ok((LockedBytes::copy_from(der.as_ref())?, request))
}

fn system(_: aws_lc_rs::error::Unspecified) -> Error {
    Error::System(std::io::Error::other("key generation failed"))
}
