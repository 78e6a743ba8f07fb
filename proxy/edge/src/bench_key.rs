//! For the benchmark only: edge with a key of its own, as other servers have it, so that guard's cost can be told.

use std::sync::{Arc, OnceLock};

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;

use crate::error::StartError;

/// A file with the key, PKCS#8 in DER.
const VARIABLE: &str = "UNLATCH_BENCH_KEY";

static KEY: OnceLock<Arc<dyn SigningKey>> = OnceLock::new();

/// Take the key from the file that the environment names.
pub(crate) fn load() -> Result<(), StartError> {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return Err(StartError::Usage("a build for benchmarks needs a key"));
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::fs::read(path)?));
    let key = any_supported_type(&key).map_err(|_| StartError::Usage("not a PKCS#8 key"))?;
    let _ = KEY.set(key);
    Ok(())
}

/// A signature with it, where it can sign so.
pub(crate) fn sign(scheme: SignatureScheme, message: &[u8]) -> Option<Vec<u8>> {
    KEY.get()?.choose_scheme(&[scheme])?.sign(message).ok()
}
