//! What can go wrong, by whose bytes were wrong. No variant carries content.

use std::fmt;

/// Every failure of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// More bytes than a sealed file may have.
    TooLarge,
    /// Not five fields separated by dots.
    NotCompact,
    /// A field is not base64url without padding, or not canonical.
    Encoding(&'static str),
    /// A field has another length than the algorithm needs.
    Length(&'static str),
    /// The protected header is not one JSON object.
    Header,
    /// A JSON object names a member twice.
    DuplicateMember,
    /// The header asks for something this format does not allow.
    Unsupported(&'static str),
    /// The content key's length does not fit `enc`.
    ContentKey,
    /// What a TPM or token gave back is no symmetric JWK for decryption.
    WrappedKey,
    /// The authentication tag does not fit header, ciphertext and key.
    Unauthentic,
    /// The header's ephemeral key is wrong.
    Ephemeral(JwkFault),
    /// The exchange key inside the header is wrong.
    ServerKey(JwkFault),
    /// A share has the wrong length, is not below the prime, or repeats another.
    Share,
    /// The prime of a sharing is not an odd number of 32 bytes.
    Prime,
    /// The payload is not a bundle: the named part is missing or wrong.
    Bundle(&'static str),
    /// The bundle has a version or a kind of secret that this build does not know.
    NewerBundle,
    /// The server's answer is wrong.
    Answer(JwkFault),
    /// A client's point is wrong.
    Point(JwkFault),
    /// A key given by the caller is wrong.
    Key(JwkFault),
    /// A private key file is not PKCS#8, SEC1 or PKCS#1 in PEM.
    PrivateKeyFile,
    /// A private key's parts do not fit each other, or RSA has another size than 2048 to 8192 bits.
    UnusableKey,
    /// A private key file is encrypted with a passphrase.
    EncryptedKeyFile,
    /// An algorithm or curve that this build does not know.
    UnknownAlgorithm,
    /// A token is empty, over 64 KiB, not UTF-8, or holds a control character.
    Token,
    /// A PIN is empty, over 255 bytes, not UTF-8, or holds a control character.
    Pin,
    /// A secret's name is empty, too long, taken, or has characters outside `a-z A-Z 0-9 . _ -`.
    Name,
    /// The sealed rules (`use`) are not rules: the reason names the member.
    Rules(serde_json::Error),
    /// The sealed rules name a member twice.
    RepeatedRule,
    /// A name for a certificate request is not a DNS name or address.
    RequestName,
    /// A threshold outside 1 ..= count, or a count over the limit.
    Threshold,
    /// Bundle or secret over the size limit.
    BundleTooLarge,
    /// No secret of this name.
    NoSuchSecret,
    /// Locked memory or randomness is not to be had.
    System(std::io::Error),
}

/// Why a JWK was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwkFault {
    /// Not a JSON object.
    NotJson,
    /// `kty` is not "EC".
    KeyType,
    /// `crv` is missing, unknown, or another one than expected.
    Curve,
    /// A coordinate is missing, not base64url, or not of full length.
    Coordinate,
    /// The point is not on the curve, or at infinity.
    OffCurve,
    /// `alg` is not "ECMR".
    Algorithm,
    /// `key_ops` does not hold "deriveKey".
    Operation,
    /// The private part is missing or out of range.
    Private,
}

/// Whose bytes were wrong, so whom to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The sealed file.
    File,
    /// The server or client at the other end.
    Peer,
    /// The arguments.
    Caller,
    /// This machine.
    System,
}

impl Error {
    /// Whose bytes were wrong.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self {
            Self::Answer(_) | Self::Point(_) => Origin::Peer,
            Self::Key(_)
            | Self::PrivateKeyFile
            | Self::EncryptedKeyFile
            | Self::UnusableKey
            | Self::UnknownAlgorithm
            | Self::Name
            | Self::Token
            | Self::Pin
            | Self::Rules(_)
            | Self::RepeatedRule
            | Self::RequestName
            | Self::Threshold
            | Self::BundleTooLarge
            | Self::NoSuchSecret => Origin::Caller,
            Self::System(_) => Origin::System,
            _ => Origin::File,
        }
    }

    /// What a person may do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooLarge => {
                "a sealed file holds keys and tokens, not data: seal a key and encrypt the data with it"
            }
            Self::NotCompact
            | Self::Encoding(_)
            | Self::Length(_)
            | Self::Header
            | Self::DuplicateMember => {
                "the file is cut short, altered, or no sealed file: fetch it again from where it was sealed"
            }
            Self::Unsupported(_) => {
                "sealed files use alg dir or ECDH-ES and enc A256GCM or A128GCM, no zip, no crit: seal the secret again"
            }
            Self::Unauthentic => {
                "the file was altered after sealing, or opened with another file's key: restore it from a copy"
            }
            Self::ContentKey | Self::WrappedKey | Self::Share | Self::Prime => {
                "the file was altered, or its parts come from different sealings: restore it from a copy"
            }
            Self::Ephemeral(_) | Self::ServerKey(_) => {
                "the header was altered after sealing: restore the file from a copy"
            }
            Self::Answer(_) => {
                "whatever answers at this address is no Tang server, or not the one sealed to: check the url with inspect"
            }
            Self::Bundle(_) => {
                "the file opened, but was not written by this program: seal its secrets again"
            }
            Self::NewerBundle => "install the version that sealed the file, or a newer one",
            Self::EncryptedKeyFile => {
                "pipe it in: openssl pkey -in FILE | unlatch seal --key NAME=/dev/stdin"
            }
            Self::PrivateKeyFile => {
                "give a file that begins with -----BEGIN PRIVATE KEY-----, EC or RSA"
            }
            Self::UnknownAlgorithm => "use ecdsa-p256, ed25519 or rsa-2048, rsa-3072, rsa-4096",
            Self::RequestName => {
                "name every host that the certificate shall hold, as in pay.example or *.pay.example"
            }
            Self::System(_) => {
                "raise the limit on locked memory: ulimit -l 8192, or LimitMEMLOCK= in the unit"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("more than 1 MiB"),
            Self::NotCompact => {
                f.write_str("not a compact JWE: expected five fields separated by dots")
            }
            Self::Encoding(field) => write!(f, "{field} is not base64url without padding"),
            Self::Length(field) => write!(f, "{field} has the wrong length"),
            Self::Header => f.write_str("protected header is not one JSON object"),
            Self::DuplicateMember => f.write_str("JSON object names a member twice"),
            Self::Unsupported(what) => write!(f, "header member not allowed here: {what}"),
            Self::ContentKey => f.write_str("content key does not fit the header's enc"),
            Self::WrappedKey => f.write_str("what the hardware gave back is no content key"),
            Self::Unauthentic => {
                f.write_str("authentication tag does not fit: altered, or another content key")
            }
            Self::Ephemeral(fault) => write!(f, "ephemeral key (epk): {fault}"),
            Self::ServerKey(fault) => write!(f, "exchange key in the header: {fault}"),
            Self::Share => f.write_str("share is damaged or repeated"),
            Self::Prime => f.write_str("sharing's prime p is not an odd number of 32 bytes"),
            Self::Bundle(part) => write!(f, "payload is not a bundle: {part}"),
            Self::NewerBundle => f.write_str("bundle was made by a newer version"),
            Self::Answer(fault) => write!(f, "server's answer: {fault}"),
            Self::Point(fault) => write!(f, "client's point: {fault}"),
            Self::Key(fault) => write!(f, "key: {fault}"),
            Self::PrivateKeyFile => f.write_str("no private key in PEM (PKCS#8, SEC1 or PKCS#1)"),
            Self::UnusableKey => f.write_str("private key does not work: its parts do not fit each other, or RSA outside 2048 to 8192 bits"),
            Self::EncryptedKeyFile => f.write_str("private key is encrypted with a passphrase"),
            Self::UnknownAlgorithm => f.write_str("unknown algorithm or curve"),
            Self::Name => f.write_str(
                "name is empty, too long, taken, or has other characters than a-z A-Z 0-9 . _ -",
            ),
            Self::Token => {
                f.write_str("token is empty, over 64 KiB, not UTF-8, or holds a control character")
            }
            Self::Pin => {
                f.write_str("PIN is empty, over 255 bytes, not UTF-8, or holds a control character")
            }
            Self::Rules(reason) => write!(f, "sealed rules (use): {reason}"),
            Self::RepeatedRule => f.write_str("sealed rules (use) name a member twice"),
            Self::RequestName => f.write_str("not a DNS name or address for a certificate request"),
            Self::Threshold => {
                f.write_str("threshold must lie between 1 and the number of shares, at most 255")
            }
            Self::BundleTooLarge => f.write_str("bundle is over its size limit"),
            Self::NoSuchSecret => f.write_str("no secret of this name in the bundle"),
            Self::System(_) => f.write_str("locked memory or randomness is not available"),
        }
    }
}

impl fmt::Display for JwkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "not a JSON object",
            Self::KeyType => "kty is not EC",
            Self::Curve => "curve is missing, unknown or not the expected one",
            Self::Coordinate => "coordinate is missing or not of full length",
            Self::OffCurve => "point is not on the curve",
            Self::Algorithm => "alg is not ECMR",
            Self::Operation => "key_ops does not hold deriveKey",
            Self::Private => "private part is missing or out of range",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            Self::Rules(error) => Some(error),
            _ => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}
