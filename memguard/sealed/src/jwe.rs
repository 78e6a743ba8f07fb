//! Compact JWE (RFC 7516), the part of it that sealed files use.
//!
//! Rule 1: five fields, the second empty; `alg` "dir" or "ECDH-ES"; `enc` "A256GCM" or "A128GCM"; no `zip`, no `crit`.
//! Rule 2: base64url is canonical, no member repeats, nothing is over 1 MiB: one file has one spelling.
//! Rule 3: nothing leaves before the tag is verified.

use aes::cipher::{BlockCipher, BlockEncrypt, BlockSizeUser};
use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use rand_core::{OsRng, RngCore};
use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::LockedBytes;
use crate::curve::{Point, generate};
use crate::error::{Error, JwkFault};
use crate::exchange::Derivation;
use crate::json;
use crate::jwk;
use crate::text::{decode_locked, decode_public, encode_public};

/// Largest sealed file; larger ones are configuration mistakes, not secrets.
pub const MAX_BYTES: usize = 1 << 20;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The content encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// A128GCM
    Aes128Gcm,
    /// A256GCM
    Aes256Gcm,
}

impl Encryption {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "A128GCM",
            Self::Aes256Gcm => "A256GCM",
        }
    }

    pub(crate) fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }
}

/// A protected header that keeps the rules.
pub struct Header(Map<String, Value>);

impl Header {
    /// Read a protected header's JSON.
    ///
    /// # Errors
    /// `Header`, `DuplicateMember`, or `Unsupported` with the member's name.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let header = Self(json::object(json)?);
        for member in ["zip", "crit"] {
            if header.0.contains_key(member) {
                return Err(Error::Unsupported(member));
            }
        }
        if !matches!(header.text("alg"), Some("dir" | "ECDH-ES")) {
            return Err(Error::Unsupported("alg"));
        }
        header.encryption()?;
        Ok(header)
    }

    /// `cty`, which tells a bundle from raw bytes.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.text("cty")
    }

    pub(crate) fn encryption(&self) -> Result<Encryption, Error> {
        match self.text("enc") {
            Some("A256GCM") => Ok(Encryption::Aes256Gcm),
            Some("A128GCM") => Ok(Encryption::Aes128Gcm),
            _ => Err(Error::Unsupported("enc")),
        }
    }

    pub(crate) fn ephemeral(&self) -> Result<Point, Error> {
        match self.0.get("epk") {
            Some(Value::Object(epk)) => jwk::read_public(epk).map_err(Error::Ephemeral),
            _ => Err(Error::Ephemeral(JwkFault::NotJson)),
        }
    }

    pub(crate) fn party(&self, name: &'static str) -> Result<Vec<u8>, Error> {
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(value) => value
                .as_str()
                .and_then(decode_public)
                .ok_or(Error::Encoding(name)),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
}

/// The header of a compact JWE, and the checks that need no key.
///
/// # Errors
/// As `open`, but for the tag.
pub fn header(compact: &[u8]) -> Result<Header, Error> {
    Ok(Parts::parse(compact)?.header)
}

/// Open a compact JWE with its content key.
///
/// # Errors
/// What breaks one of the rules above; `ContentKey` for a key of the wrong length; `Unauthentic` when the tag does
/// not fit.
pub fn open(compact: &[u8], key: &LockedBytes) -> Result<LockedBytes, Error> {
    Parts::parse(compact)?.open(key)
}

/// Check the tag without decrypting: tells whether this is the content key, and leaves no plaintext anywhere.
///
/// # Errors
/// As `open`.
pub fn verify(compact: &[u8], key: &LockedBytes) -> Result<(), Error> {
    Parts::parse(compact)?.verify(key)
}

/// Seal with a content key ("dir"). The header is written sorted and compact.
///
/// # Errors
/// `Unsupported` for a header with another `alg` or `enc` than dir and A256GCM.
pub fn seal(header: &[u8], plaintext: &LockedBytes, key: &LockedBytes) -> Result<String, Error> {
    let mut members = json::object(header)?;
    expect(&mut members, "alg", "dir")?;
    expect(&mut members, "enc", "A256GCM")?;
    encrypt(members, plaintext, key)
}

/// Seal to an EC public key by ECDH-ES with a fresh ephemeral; adds `alg`, `enc` and `epk`.
///
/// # Errors
/// As `seal`.
pub fn seal_to(header: &[u8], plaintext: &LockedBytes, recipient: &Point) -> Result<String, Error> {
    let mut members = json::object(header)?;
    expect(&mut members, "alg", "ECDH-ES")?;
    expect(&mut members, "enc", "A256GCM")?;
    if members.contains_key("epk") {
        return Err(Error::Unsupported("epk"));
    }
    let (scalar, ephemeral) = generate(recipient.curve())?;
    members.insert(
        "epk".to_owned(),
        json::object(jwk::bare_json(&ephemeral).as_bytes())?.into(),
    );
    let members = Header(members);
    let key = Derivation::of(&members)?.key(&recipient.agree(&scalar)?)?;
    encrypt(members.0, plaintext, &key)
}

fn expect(members: &mut Map<String, Value>, name: &'static str, value: &str) -> Result<(), Error> {
    match members.insert(name.to_owned(), value.into()) {
        None => Ok(()),
        Some(old) if old == value => Ok(()),
        Some(_) => Err(Error::Unsupported(name)),
    }
}

fn encrypt(
    members: Map<String, Value>,
    plaintext: &LockedBytes,
    key: &LockedBytes,
) -> Result<String, Error> {
    let header = Value::Object(members).to_string();
    Header::parse(header.as_bytes())?;
    let cipher = Aes256Gcm::new_from_slice(key.expose()).map_err(|_| Error::ContentKey)?;
    let protected = encode_public(header.as_bytes());
    let mut iv = [0; IV_BYTES];
    OsRng
        .try_fill_bytes(&mut iv)
        .map_err(std::io::Error::from)?;
    let mut buffer = LockedBytes::copy_from(plaintext.expose())?;
    let tag = cipher
        .encrypt_in_place_detached(&iv.into(), protected.as_bytes(), buffer.expose_mut())
        .map_err(|_| Error::TooLarge)?;
    let (iv, text, tag) = (
        encode_public(&iv),
        encode_public(buffer.expose()),
        encode_public(&tag),
    );
    let compact = format!("{protected}..{iv}.{text}.{tag}");
    if compact.len() > MAX_BYTES {
        return Err(Error::TooLarge);
    }
    Ok(compact)
}

/// The fields of a compact JWE.
struct Parts<'a> {
    protected: &'a str,
    header: Header,
    iv: [u8; IV_BYTES],
    ciphertext: &'a str,
    tag: [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn parse(compact: &'a [u8]) -> Result<Self, Error> {
        let compact = compact.trim_ascii();
        if compact.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let compact = std::str::from_utf8(compact).map_err(|_| Error::NotCompact)?;
        let mut fields = compact.split('.');
        let mut next = || fields.next().ok_or(Error::NotCompact);
        let (protected, encrypted_key, iv, ciphertext, tag) =
            (next()?, next()?, next()?, next()?, next()?);
        if fields.next().is_some() {
            return Err(Error::NotCompact);
        }
        if !encrypted_key.is_empty() {
            return Err(Error::Unsupported("encrypted_key"));
        }
        let json = decode_public(protected).ok_or(Error::Encoding("protected header"))?;
        Ok(Self {
            protected,
            header: Header::parse(&json)?,
            iv: fixed(iv, "iv")?,
            ciphertext,
            tag: fixed(tag, "tag")?,
        })
    }

    fn verify(&self, key: &LockedBytes) -> Result<(), Error> {
        let encryption = self.header.encryption()?;
        if key.len() != encryption.key_bytes() {
            return Err(Error::ContentKey);
        }
        let ciphertext = decode_public(self.ciphertext).ok_or(Error::Encoding("ciphertext"))?;
        let aad = self.protected.as_bytes();
        let tag = match encryption {
            Encryption::Aes128Gcm => tag_of::<aes::Aes128>(key, &self.iv, aad, &ciphertext)?,
            Encryption::Aes256Gcm => tag_of::<aes::Aes256>(key, &self.iv, aad, &ciphertext)?,
        };
        let difference = tag
            .iter()
            .zip(&self.tag)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            Ok(())
        } else {
            Err(Error::Unauthentic)
        }
    }

    fn open(&self, key: &LockedBytes) -> Result<LockedBytes, Error> {
        let encryption = self.header.encryption()?;
        if key.len() != encryption.key_bytes() {
            return Err(Error::ContentKey);
        }
        let mut buffer =
            decode_locked(self.ciphertext.as_bytes())?.ok_or(Error::Encoding("ciphertext"))?;
        let (aad, text) = (self.protected.as_bytes(), buffer.expose_mut());
        let (iv, tag) = (&self.iv.into(), &self.tag.into());
        // Both ciphers compare the tag before they touch the buffer.
        match encryption {
            Encryption::Aes128Gcm => Aes128Gcm::new_from_slice(key.expose())
                .map_err(|_| Error::ContentKey)?
                .decrypt_in_place_detached(iv, aad, text, tag),
            Encryption::Aes256Gcm => Aes256Gcm::new_from_slice(key.expose())
                .map_err(|_| Error::ContentKey)?
                .decrypt_in_place_detached(iv, aad, text, tag),
        }
        .map_err(|_| Error::Unauthentic)?;
        Ok(buffer)
    }
}

/// The GCM tag of a ciphertext (NIST SP 800-38D section 7.1, steps 2 and 4 to 6; the iv has 12 bytes).
fn tag_of<C>(
    key: &LockedBytes,
    iv: &[u8; IV_BYTES],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<[u8; TAG_BYTES], Error>
where
    C: BlockEncrypt + BlockCipher + BlockSizeUser<BlockSize = U16> + KeyInit,
{
    let cipher = C::new_from_slice(key.expose()).map_err(|_| Error::ContentKey)?;
    let mut subkey = ghash::Key::default();
    cipher.encrypt_block(&mut subkey);
    let mut hash = GHash::new(&subkey);
    subkey[..].zeroize();
    hash.update_padded(aad);
    hash.update_padded(ciphertext);
    let mut block = ghash::Block::default();
    block[..8].copy_from_slice(&(aad.len() as u64 * 8).to_be_bytes());
    block[8..].copy_from_slice(&(ciphertext.len() as u64 * 8).to_be_bytes());
    hash.update(&[block]);
    let mut mask = ghash::Block::default();
    mask[..IV_BYTES].copy_from_slice(iv);
    mask[TAG_BYTES - 1] = 1;
    cipher.encrypt_block(&mut mask);
    let mut tag = [0; TAG_BYTES];
    for (place, (sum, mask)) in tag.iter_mut().zip(hash.finalize().iter().zip(&mask)) {
        *place = sum ^ mask;
    }
    Ok(tag)
}

fn fixed<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], Error> {
    let bytes = decode_public(text).ok_or(Error::Encoding(field))?;
    bytes.try_into().map_err(|_| Error::Length(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(size: usize) -> LockedBytes {
        LockedBytes::random(size).unwrap()
    }

    fn sealed(plaintext: &[u8], key: &LockedBytes) -> String {
        seal(
            br#"{"kid":"x"}"#,
            &LockedBytes::copy_from(plaintext).unwrap(),
            key,
        )
        .unwrap()
    }

    #[test]
    fn sealed_text_opens_with_white_space_around() {
        let key = key(32);
        let compact = format!(" \n{}\r\n", sealed(b"hello", &key));

        assert_eq!(open(compact.as_bytes(), &key).unwrap().expose(), b"hello");
        verify(compact.as_bytes(), &key).unwrap();
    }

    #[test]
    fn every_flipped_bit_is_refused_by_open_and_verify() {
        let key = key(32);
        let good = sealed(b"hello", &key).into_bytes();
        for place in 0..good.len() {
            for bit in 0..7 {
                let mut bad = good.clone();
                bad[place] ^= 1 << bit;

                assert!(open(&bad, &key).is_err(), "{place} {bit}");
                assert!(verify(&bad, &key).is_err(), "{place} {bit}");
            }
        }
    }

    #[test]
    fn other_numbers_of_fields_are_refused() {
        let key = key(32);
        let good = sealed(b"hello", &key);
        for bad in [
            format!("{good}."),
            format!("{good}.AAAA"),
            good.rsplit_once('.').unwrap().0.to_owned(),
            String::new(),
        ] {
            assert!(
                matches!(open(bad.as_bytes(), &key), Err(Error::NotCompact)),
                "{bad}"
            );
        }
    }

    #[test]
    fn rules_of_the_header_are_kept() {
        for (header, fault) in [
            (r#"{"alg":"dir","enc":"A256GCM","zip":"DEF"}"#, "zip"),
            (r#"{"alg":"dir","enc":"A256GCM","crit":[]}"#, "crit"),
            (r#"{"alg":"A256KW","enc":"A256GCM"}"#, "alg"),
            (r#"{"enc":"A256GCM"}"#, "alg"),
            (r#"{"alg":"dir","enc":"A256CBC-HS512"}"#, "enc"),
            (r#"{"alg":"dir"}"#, "enc"),
        ] {
            assert!(
                matches!(Header::parse(header.as_bytes()), Err(Error::Unsupported(found)) if found == fault)
            );
        }
    }

    #[test]
    fn file_over_one_mebibyte_is_neither_written_nor_read() {
        let plaintext = LockedBytes::zeroed(MAX_BYTES * 3 / 4).unwrap();

        assert!(matches!(
            seal(b"{}", &plaintext, &key(32)),
            Err(Error::TooLarge)
        ));
        assert!(matches!(
            open(&vec![b'A'; MAX_BYTES + 1], &key(32)),
            Err(Error::TooLarge)
        ));
    }
}
