//! JWS signatures of the gate's keys: ES256, ES384, ES512.

use p256::ecdsa::signature::RandomizedSigner;
use rand_core::OsRng;

use crate::curve::Curve;
use crate::error::{Error, JwkFault};
use crate::jwk::{PrivateJwk, Use};

/// Sign a message: raw r ‖ s, each of full length (RFC 7518 section 3.4).
///
/// # Errors
/// `Key` for a key that is not for signing.
pub fn sign(private: &PrivateJwk, message: &[u8]) -> Result<Vec<u8>, Error> {
    private.expect(Use::Signing)?;
    let scalar = private.scalar.expose();
    let fault = |_| Error::Key(JwkFault::Private);
    Ok(match private.public.curve() {
        Curve::P256 => {
            let key = p256::ecdsa::SigningKey::from_slice(scalar).map_err(fault)?;
            let signature: p256::ecdsa::Signature = key.sign_with_rng(&mut OsRng, message);
            signature.to_bytes().to_vec()
        }
        Curve::P384 => {
            let key = p384::ecdsa::SigningKey::from_slice(scalar).map_err(fault)?;
            let signature: p384::ecdsa::Signature = key.sign_with_rng(&mut OsRng, message);
            signature.to_bytes().to_vec()
        }
        Curve::P521 => {
            let key = p521::ecdsa::SigningKey::from_slice(scalar).map_err(fault)?;
            let signature: p521::ecdsa::Signature = key.sign_with_rng(&mut OsRng, message);
            signature.to_bytes().to_vec()
        }
    })
}
