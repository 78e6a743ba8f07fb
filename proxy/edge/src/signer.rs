//! A private key that is somewhere else: rustls asks this for signatures, this asks guard.

use std::sync::Arc;
use std::time::Instant;

use rustls::sign::{Signer, SigningKey};
use rustls::{Error, OtherError, SignatureAlgorithm, SignatureScheme};

use crate::guard::{Guard, GuardError};
use crate::latency::Latency;
use crate::slow;

/// One of guard's keys.
#[derive(Debug)]
pub(crate) struct GuardKey {
    guard: Arc<Guard>,
    key: u16,
    kind: KeyKind,
    /// Workers do not wait for it.
    is_slow: bool,
    latency: Arc<Latency>,
}

/// What a key can sign with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyKind {
    algorithm: SignatureAlgorithm,
    schemes: &'static [SignatureScheme],
}

impl KeyKind {
    /// From the configuration's `algorithm`: `ecdsa-p256`, `ecdsa-p384`, `ed25519`, `rsa…`.
    pub(crate) fn parse(algorithm: &str) -> Option<Self> {
        use SignatureScheme as Scheme;
        let (algorithm, schemes): (_, &'static [Scheme]) = match algorithm {
            "ecdsa-p256" => (SignatureAlgorithm::ECDSA, &[Scheme::ECDSA_NISTP256_SHA256]),
            "ecdsa-p384" => (SignatureAlgorithm::ECDSA, &[Scheme::ECDSA_NISTP384_SHA384]),
            "ed25519" => (SignatureAlgorithm::ED25519, &[Scheme::ED25519]),
            other if other.starts_with("rsa") => (
                SignatureAlgorithm::RSA,
                &[
                    Scheme::RSA_PSS_SHA256,
                    Scheme::RSA_PSS_SHA384,
                    Scheme::RSA_PSS_SHA512,
                    Scheme::RSA_PKCS1_SHA256,
                    Scheme::RSA_PKCS1_SHA384,
                    Scheme::RSA_PKCS1_SHA512,
                ],
            ),
            _ => return None,
        };
        Some(Self { algorithm, schemes })
    }

    /// Whether this key signs with `scheme`.
    pub(crate) fn signs(self, scheme: SignatureScheme) -> bool {
        self.schemes.contains(&scheme)
    }

    /// Whether TLS 1.2's suites name this key's certificate `ECDHE_RSA` (else `ECDHE_ECDSA`).
    pub(crate) fn is_rsa(self) -> bool {
        self.algorithm == SignatureAlgorithm::RSA
    }
}

impl GuardKey {
    pub(crate) fn new(guard: Arc<Guard>, key: u16, kind: KeyKind, is_slow: bool) -> Self {
        Self {
            latency: guard.latency(key),
            guard,
            key,
            kind,
            is_slow,
        }
    }
}

impl SigningKey for GuardKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self
            .kind
            .schemes
            .iter()
            .find(|scheme| offered.contains(scheme))?;
        Some(Box::new(GuardSigner {
            guard: Arc::clone(&self.guard),
            key: self.key,
            scheme,
            is_slow: self.is_slow,
            latency: Arc::clone(&self.latency),
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.kind.algorithm
    }
}

#[derive(Debug)]
struct GuardSigner {
    guard: Arc<Guard>,
    key: u16,
    scheme: SignatureScheme,
    is_slow: bool,
    latency: Arc<Latency>,
}

impl Signer for GuardSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        #[cfg(feature = "bench-key")]
        if let Some(signature) = crate::bench_key::sign(self.scheme, message) {
            return Ok(signature);
        }
        let started = Instant::now();
        let signature = if self.is_slow {
            slow::sign(self.key, self.scheme, message)
        } else {
            self.guard.sign(self.key, self.scheme.into(), message)
        };
        if !matches!(signature, Err(GuardError::Slow(_))) {
            self.latency.note(started.elapsed(), signature.is_ok());
        }
        signature.map_err(|error| Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
