//! McCallum-Relyea exchange: the client's blinded recovery, the offline recovery, and the server's answer.
//!
//! With server key S = sG and the header's `epk` C = cG, the secret is K = cS. The client posts X = C + eG, the
//! server answers Y = sX, and K = Y − eS. The content key is the Concat KDF of K's x coordinate (RFC 7518 4.6).

use sha2::{Digest, Sha256};

use crate::LockedBytes;
use crate::curve::Point;
use crate::error::{Error, JwkFault};
use crate::jwe::{Encryption, Header};
use crate::jwk::{self, PrivateJwk, Use};

/// One blinded recovery. The blinding scalar stays inside.
pub struct Exchange {
    derivation: Derivation,
    server: Point,
    scalar: LockedBytes,
    request: Point,
}

impl Exchange {
    /// Start a recovery from a protected header's JSON and the server's exchange key (public JWK).
    ///
    /// # Errors
    /// `Header`, `Unsupported`, `Ephemeral` or `ServerKey`: the sealed file is damaged.
    pub fn begin(header: &[u8], server_key: &[u8]) -> Result<Self, Error> {
        let header = Header::parse(header)?;
        let ephemeral = header.ephemeral()?;
        let server = jwk::parse_public(server_key).map_err(Error::ServerKey)?;
        if server.curve() != ephemeral.curve() {
            return Err(Error::Ephemeral(JwkFault::Curve));
        }
        let (scalar, request) = ephemeral.blind()?;
        Ok(Self {
            derivation: Derivation::of(&header)?,
            server,
            scalar,
            request,
        })
    }

    /// The JWK to post, with a trailing newline.
    #[must_use]
    pub fn request(&self) -> String {
        jwk::request_json(&self.request)
    }

    /// Thumbprint of the posted point.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        jwk::thumbprint(&self.request)
    }

    /// Unblind the server's answer into the content key.
    ///
    /// # Errors
    /// `Answer`: not an EC point of this curve.
    pub fn finish(&self, answer: &[u8]) -> Result<LockedBytes, Error> {
        let answer = jwk::parse_exchange(answer).map_err(Error::Answer)?;
        if answer.curve() != self.server.curve() {
            return Err(Error::Answer(JwkFault::Curve));
        }
        self.derivation
            .key(&answer.unblind(&self.server, &self.scalar)?)
    }
}

/// The content key from a header and the private exchange key itself.
///
/// # Errors
/// As `Exchange::begin`; `Key` for a key that is not for exchange or on another curve.
pub fn derive_content_key(header: &[u8], private: &PrivateJwk) -> Result<LockedBytes, Error> {
    private.expect(Use::Exchange)?;
    let header = Header::parse(header)?;
    let ephemeral = header.ephemeral()?;
    if ephemeral.curve() != private.public.curve() {
        return Err(Error::Key(JwkFault::Curve));
    }
    Derivation::of(&header)?.key(&ephemeral.agree(&private.scalar)?)
}

/// A Tang server's answer to a client's point: sorted, compact JWK.
///
/// # Errors
/// `Point` for a wrong point, `Key` for a key that is not for exchange.
pub fn answer(private: &PrivateJwk, point: &[u8]) -> Result<String, Error> {
    private.expect(Use::Exchange)?;
    let point = jwk::parse_exchange(point).map_err(Error::Point)?;
    if point.curve() != private.public.curve() {
        return Err(Error::Point(JwkFault::Curve));
    }
    let answer = point.times(&private.scalar).map_err(Error::Key)?;
    Ok(jwk::public_json(&answer, Use::Exchange))
}

/// The public inputs of the key derivation.
pub(crate) struct Derivation {
    encryption: Encryption,
    party_u: Vec<u8>,
    party_v: Vec<u8>,
}

impl Derivation {
    pub(crate) fn of(header: &Header) -> Result<Self, Error> {
        Ok(Self {
            encryption: header.encryption()?,
            party_u: header.party("apu")?,
            party_v: header.party("apv")?,
        })
    }

    /// Concat KDF with SHA-256. One round is enough: no `enc` here needs more than 32 bytes.
    pub(crate) fn key(&self, shared: &LockedBytes) -> Result<LockedBytes, Error> {
        let length = self.encryption.key_bytes();
        let mut hash = Sha256::new();
        hash.update(1u32.to_be_bytes());
        hash.update(shared.expose());
        for field in [
            self.encryption.name().as_bytes(),
            &self.party_u,
            &self.party_v,
        ] {
            let size = u32::try_from(field.len()).map_err(|_| Error::TooLarge)?;
            hash.update(size.to_be_bytes());
            hash.update(field);
        }
        hash.update((length as u32 * 8).to_be_bytes());
        let mut digest = LockedBytes::zeroed(32)?;
        hash.finalize_into(digest.expose_mut().into());
        digest.truncate(length);
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::decode_public;

    fn vectors(text: &str) -> Vec<serde_json::Value> {
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        file["vectors"].as_array().unwrap().clone()
    }

    #[test]
    fn concat_kdf_gives_the_published_keys() {
        for vector in vectors(include_str!("../../../tests/vectors/concat_kdf.json")) {
            let bytes = |name: &str| decode_public(vector[name].as_str().unwrap()).unwrap();
            let derivation = Derivation {
                encryption: if vector["alg_id"] == "A128GCM" {
                    Encryption::Aes128Gcm
                } else {
                    Encryption::Aes256Gcm
                },
                party_u: bytes("apu"),
                party_v: bytes("apv"),
            };

            let key = derivation
                .key(&LockedBytes::copy_from(&bytes("Z")).unwrap())
                .unwrap();

            assert_eq!(key.expose(), bytes("key"));
        }
    }

    #[test]
    fn answers_of_other_curves_are_refused() {
        use crate::curve::Curve;
        let server = PrivateJwk::generate(Curve::P256, Use::Exchange).unwrap();
        let client = PrivateJwk::generate(Curve::P256, Use::Exchange).unwrap();
        let header = format!(
            r#"{{"alg":"ECDH-ES","enc":"A256GCM","epk":{}}}"#,
            jwk::bare_json(&client.public)
        );
        let exchange =
            Exchange::begin(header.as_bytes(), jwk::bare_json(&server.public).as_bytes()).unwrap();
        let other = PrivateJwk::generate(Curve::P384, Use::Exchange).unwrap();

        let finished = exchange.finish(jwk::bare_json(&other.public).as_bytes());

        assert!(matches!(finished, Err(Error::Answer(JwkFault::Curve))));
    }

    #[test]
    fn answer_that_unblinds_to_infinity_is_refused() {
        use crate::curve::Curve;
        let server = PrivateJwk::generate(Curve::P256, Use::Exchange).unwrap();
        let (scalar, _) = crate::curve::generate(Curve::P256).unwrap();
        let mask = server.public.times(&scalar).unwrap();

        assert!(matches!(
            mask.unblind(&server.public, &scalar),
            Err(Error::Answer(JwkFault::OffCurve))
        ));
    }
}
