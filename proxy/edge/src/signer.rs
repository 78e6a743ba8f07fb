//! A private key that is somewhere else: rustls asks this for signatures, this asks guard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::sign::{Signer, SigningKey};
use rustls::{Error, OtherError, SignatureAlgorithm, SignatureScheme};

use crate::guard::{Guard, GuardError};
use crate::health::{Health, is_unwell};
use crate::latency::Latency;
use crate::{slow, sys};

/// One of guard's keys.
#[derive(Debug)]
pub(crate) struct GuardKey {
    guard: Arc<Guard>,
    key: u16,
    kind: KeyKind,
    /// Workers do not wait for it.
    is_slow: bool,
    part: Part,
    latency: Arc<Latency>,
}

/// What a key is to a certificate with a fallback.
#[derive(Debug, Clone, Default)]
pub(crate) enum Part {
    /// Nothing: there is no fallback.
    #[default]
    Alone,
    /// The key in hardware.
    Hardware(Arc<Health>),
    /// The one that signs in its place.
    StandIn(Arc<Health>),
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
            part: Part::Alone,
        }
    }

    /// The same with a fallback, or as one.
    pub(crate) fn with_part(self, part: Part) -> Self {
        Self { part, ..self }
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
            part: self.part.clone(),
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
    part: Part,
    latency: Arc<Latency>,
}

impl GuardSigner {
    /// What came of a signature: whose failure it is, where another key may sign.
    fn judge(
        &self,
        signature: Result<Vec<u8>, GuardError>,
        taken: Duration,
    ) -> Result<Vec<u8>, GuardError> {
        match (&self.part, signature) {
            (Part::Hardware(health), Ok(signature)) => {
                health.note_signature();
                Ok(signature)
            }
            (Part::Hardware(health), Err(error)) if is_unwell(error) => {
                let taken = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
                health.note_failure(sys::coarse_ms(), taken);
                Err(GuardError::Unwell)
            }
            (Part::StandIn(health), Ok(signature)) => {
                health.note_stand_in();
                Ok(signature)
            }
            (_, signature) => signature,
        }
    }
}

impl Signer for GuardSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        #[cfg(feature = "bench-key")]
        if let Some(signature) = crate::bench_key::sign(self.scheme, message) {
            return Ok(signature);
        }
        let started = Instant::now();
        let signature = match slow::sign(self.key, self.scheme, message) {
            Some(signature) => signature,
            None if self.is_slow => return Err(failed(GuardError::Slow(self.key))),
            None => self.guard.sign(self.key, self.scheme.into(), message),
        };
        let taken = started.elapsed();
        self.latency.note(taken, signature.is_ok());
        self.judge(signature, taken).map_err(failed)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

fn failed(error: GuardError) -> Error {
    Error::Other(OtherError(Arc::new(error)))
}
