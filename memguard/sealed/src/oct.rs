//! Content keys as symmetric JWKs: what the tpm2 and pkcs11 pins wrap (RFC 7518 section 6.4).

use crate::LockedBytes;
use crate::error::Error;
use crate::json::{Members, plain_string};
use crate::text::{LockedText, decode_locked};

/// Read the key of a symmetric JWK. White space around it, as `jose` leaves it, is ignored; so is a missing `alg`
/// (clevis's pin in Rust writes none).
///
/// # Errors
/// `WrappedKey` when it is no such JWK, or is marked for something else than decryption.
pub fn read(json: &LockedBytes) -> Result<LockedBytes, Error> {
    let mut members = Members::parse(json.expose()).ok_or(Error::WrappedKey)?;
    if members.take("kty").and_then(plain_string) != Some("oct") {
        return Err(Error::WrappedKey);
    }
    if let Some(operations) = members.take("key_ops") {
        let operations: Vec<&str> =
            serde_json::from_str(operations.get()).map_err(|_| Error::WrappedKey)?;
        if !operations.contains(&"decrypt") {
            return Err(Error::WrappedKey);
        }
    }
    let key = members.take("k").and_then(plain_string);
    decode_locked(key.ok_or(Error::WrappedKey)?.as_bytes())?.ok_or(Error::WrappedKey)
}

/// Write a 32-byte key as `clevis encrypt` does, without a newline: sorted, compact, 111 bytes. TPMs seal 128.
///
/// # Errors
/// `ContentKey` when the key has another length; when no locked memory is to be had.
pub fn write(key: &LockedBytes) -> Result<LockedBytes, Error> {
    if key.len() != 32 {
        return Err(Error::ContentKey);
    }
    let mut out = LockedText::with_capacity(128)?;
    out.push(br#"{"alg":"A256GCM","k":""#)?;
    out.push_base64url(key.expose())?;
    out.push(br#"","key_ops":["encrypt","decrypt"],"kty":"oct"}"#)?;
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(data: &[u8]) -> LockedBytes {
        let mut out = LockedBytes::with_capacity(data.len()).unwrap();
        out.extend_from_slice(data).unwrap();
        out
    }

    #[test]
    fn what_is_written_reads_back_and_fits_a_tpm() {
        let key = locked(&[7; 32]);

        let text = write(&key).unwrap();

        assert_eq!(text.len(), 111);
        assert_eq!(read(&text).unwrap().expose(), key.expose());
    }

    #[test]
    fn other_writers_are_read() {
        for text in [
            &br#"{"k":"AAEC","kty":"oct"}"#[..],
            b"{\"alg\":\"A256GCM\",\"k\":\"AAEC\",\"key_ops\":[\"encrypt\",\"decrypt\"],\"kty\":\"oct\"}\n",
            br#" {"kty" : "oct", "kid": "x", "k": "AAEC"} "#,
        ] {
            assert_eq!(read(&locked(text)).unwrap().expose(), [0, 1, 2]);
        }
    }

    #[test]
    fn what_is_no_symmetric_key_is_refused() {
        for text in [
            "",
            "[]",
            "AAEC",
            r#"{"kty":"oct"}"#,
            r#"{"kty":"EC","k":"AAEC"}"#,
            r#"{"kty":"oct","k":"AAE="}"#,
            r#"{"kty":"oct","k":1}"#,
            r#"{"kty":"oct","k":"AAEC","k":"AAEC"}"#,
            r#"{"kty":"oct","k":"AAEC","key_ops":["sign"]}"#,
            r#"{"kty":"oct","k":"AAEC","key_ops":"decrypt"}"#,
        ] {
            assert!(
                matches!(read(&locked(text.as_bytes())), Err(Error::WrappedKey)),
                "{text}"
            );
        }
        assert!(matches!(write(&locked(&[1; 16])), Err(Error::ContentKey)));
    }
}
