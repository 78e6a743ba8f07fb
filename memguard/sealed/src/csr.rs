//! PKCS#10 certificate requests (RFC 2986): names as a critical-free subjectAltName, the first also as common name.
//!
//! The signature is made elsewhere: build `info`, sign it, `assemble`.

use std::net::IpAddr;
use std::str::FromStr;

use pkcs8::ObjectIdentifier;
use pkcs8::der::asn1::{BitString, Ia5String, Null, OctetString};
use pkcs8::der::pem::LineEnding;
use pkcs8::der::{Any, Decode, Encode, EncodePem};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::error::Error;
use crate::keys::Algorithm;

/// The part of a request that is signed, DER.
///
/// # Errors
/// `RequestName` when `names` is empty or holds what is neither a DNS name nor an address; `UnknownAlgorithm` when
/// `spki` is not a SubjectPublicKeyInfo.
pub fn info(names: &[&str], spki: &[u8]) -> Result<Vec<u8>, Error> {
    let alternatives = names
        .iter()
        .map(|name| general_name(name))
        .collect::<Result<Vec<_>, _>>()?;
    let first = names.first().ok_or(Error::RequestName)?;
    // RFC 5280 appendix A: a common name has at most 64 characters.
    let subject = if first.len() <= 64 {
        Name::from_str(&format!("CN={first}"))
    } else {
        Ok(Name::default())
    };
    let value = SubjectAltName(alternatives)
        .to_der()
        .and_then(OctetString::new);
    let extension = Extension {
        extn_id: ObjectIdentifier::new_unwrap("2.5.29.17"),
        critical: false,
        extn_value: value.map_err(|_| Error::RequestName)?,
    };
    let attribute = ExtensionReq(vec![extension])
        .try_into()
        .map_err(|_| Error::RequestName)?;
    let info = CertReqInfo {
        version: Version::V1,
        subject: subject.map_err(|_| Error::RequestName)?,
        public_key: SubjectPublicKeyInfoOwned::from_der(spki)
            .map_err(|_| Error::UnknownAlgorithm)?,
        attributes: vec![attribute].try_into().map_err(|_| Error::RequestName)?,
    };
    info.to_der().map_err(|_| Error::RequestName)
}

/// The request in PEM. RSA signatures are PKCS#1 v1.5 with SHA-256, ECDSA ones DER with the curve's hash.
///
/// # Errors
/// `RequestName` when `info` is not what the function above gives.
pub fn assemble(info: &[u8], algorithm: Algorithm, signature: &[u8]) -> Result<String, Error> {
    let oid = match algorithm {
        Algorithm::EcdsaP256 => "1.2.840.10045.4.3.2",
        Algorithm::EcdsaP384 => "1.2.840.10045.4.3.3",
        Algorithm::EcdsaP521 => "1.2.840.10045.4.3.4",
        Algorithm::Ed25519 => "1.3.101.112",
        Algorithm::Rsa(_) => "1.2.840.113549.1.1.11",
    };
    let parameters = matches!(algorithm, Algorithm::Rsa(_)).then(|| Any::from(Null));
    let request = CertReq {
        info: CertReqInfo::from_der(info).map_err(|_| Error::RequestName)?,
        algorithm: AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new_unwrap(oid),
            parameters,
        },
        signature: BitString::from_bytes(signature).map_err(|_| Error::RequestName)?,
    };
    request
        .to_pem(LineEnding::LF)
        .map_err(|_| Error::RequestName)
}

fn general_name(name: &str) -> Result<GeneralName, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        let octets = match address {
            IpAddr::V4(v4) => OctetString::new(v4.octets()),
            IpAddr::V6(v6) => OctetString::new(v6.octets()),
        };
        return octets
            .map(GeneralName::IpAddress)
            .map_err(|_| Error::RequestName);
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !host.split('.').all(label) {
        return Err(Error::RequestName);
    }
    Ia5String::new(name)
        .map(GeneralName::DnsName)
        .map_err(|_| Error::RequestName)
}
