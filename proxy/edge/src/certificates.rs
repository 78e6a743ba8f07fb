//! Which certificate a client gets: by the name it asks for, then by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};

use crate::health::Health;
use crate::signer::KeyKind;
use crate::{slow, sys, worker};

/// The certificates of one listener.
#[derive(Debug)]
pub(crate) struct Certificates {
    entries: Vec<Offered>,
    /// Lower-case name, or `.suffix` of a wildcard, to positions in `entries`.
    by_name: HashMap<String, Vec<usize>>,
    /// The first certificate and those that share a name with it.
    default: Vec<usize>,
}

/// A certificate as the configuration has it.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) kind: KeyKind,
    /// DNS names that it is valid for.
    pub(crate) names: Vec<String>,
    pub(crate) fallback: Option<Fallback>,
}

/// What is presented while a key in hardware does not sign.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) kind: KeyKind,
    pub(crate) health: Arc<Health>,
}

/// What decides between certificates for the same name.
struct Offer<'a> {
    schemes: &'a [SignatureScheme],
    suites: &'a [CipherSuite],
}

impl Certificates {
    /// In the order of the configuration.
    pub(crate) fn new(entries: Vec<Offered>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        let mut default = Vec::new();
        let first_names = entries
            .first()
            .map(|entry| entry.names.clone())
            .unwrap_or_default();
        for (position, Offered { names, .. }) in entries.iter().enumerate() {
            if position == 0 || names.iter().any(|name| first_names.contains(name)) {
                default.push(position);
            }
            for name in names {
                let name = name.to_ascii_lowercase();
                let name = name.strip_prefix('*').unwrap_or(&name).to_owned();
                by_name.entry(name).or_default().push(position);
            }
        }
        Self {
            entries,
            by_name,
            default,
        }
    }

    /// Every name of every certificate, `.suffix` for a wildcard.
    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    fn candidates(&self, name: Option<&str>) -> Vec<usize> {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return self.default.clone();
        };
        let exact = self.by_name.get(&name);
        // A wildcard stands for one label (RFC 9525 section 6.3).
        let wildcard = name
            .find('.')
            .and_then(|dot| self.by_name.get(&name[dot..]));
        let found: Vec<usize> = exact
            .into_iter()
            .chain(wildcard)
            .flatten()
            .copied()
            .collect();
        if found.is_empty() {
            self.default.clone()
        } else {
            found
        }
    }

    /// `is_well`: whether the hardware of a certificate that has a fallback may be asked.
    fn choose(
        &self,
        name: Option<&str>,
        offer: &Offer<'_>,
        is_well: impl Fn(&Health) -> bool,
    ) -> Option<Arc<CertifiedKey>> {
        let entries = self.candidates(name);
        let mut candidates: Vec<_> = entries
            .iter()
            .filter_map(|position| self.entries.get(*position))
            .map(|entry| (&entry.key, entry.kind, entry.fallback.as_ref()))
            .collect();
        loop {
            let candidate = offer.prefers(&mut candidates)?;
            // Only of what would be presented is asked whether it signs: that may be a trial.
            match candidate.2.take() {
                Some(fallback) if !is_well(&fallback.health) => {
                    (candidate.0, candidate.1) = (&fallback.key, fallback.kind);
                }
                _ => return Some(Arc::clone(candidate.0)),
            }
        }
    }
}

/// A certificate that may be presented, and what stands in for it.
type Candidate<'a> = (&'a Arc<CertifiedKey>, KeyKind, Option<&'a Fallback>);

impl Offer<'_> {
    /// The client's order of preference decides between RSA and ECDSA.
    fn prefers<'c, 'e>(
        &self,
        candidates: &'c mut [Candidate<'e>],
    ) -> Option<&'c mut Candidate<'e>> {
        let place = self.schemes.iter().find_map(|scheme| {
            candidates
                .iter()
                .position(|(_, kind, _)| kind.signs(*scheme) && self.has_suite_for(*kind))
        })?;
        candidates.get_mut(place)
    }

    /// TLS 1.3 suites go with every key; TLS 1.2 suites name the kind of key.
    fn has_suite_for(&self, kind: KeyKind) -> bool {
        self.suites.iter().any(|suite| match suite_key(*suite) {
            SuiteKey::Any => true,
            SuiteKey::Rsa => kind.is_rsa(),
            SuiteKey::Ecdsa => !kind.is_rsa(),
            SuiteKey::Other => false,
        })
    }
}

enum SuiteKey {
    Any,
    Rsa,
    Ecdsa,
    Other,
}

fn suite_key(suite: CipherSuite) -> SuiteKey {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => SuiteKey::Any,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => SuiteKey::Rsa,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => SuiteKey::Ecdsa,
        _ => SuiteKey::Other,
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        worker::note_server_name(hello.server_name());
        let offer = Offer {
            schemes: hello.signature_schemes(),
            suites: hello.cipher_suites(),
        };
        let now = sys::coarse_ms();
        self.choose(hello.server_name(), &offer, |health| {
            if slow::may_wait() {
                health.is_to_be_asked(now)
            } else {
                health.admits(now)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::guard::Guard;
    use crate::signer::GuardKey;

    /// Certificates told apart by their (meaningless) bytes.
    fn certificates(table: &[(&str, &[&str])]) -> Certificates {
        let guard = Arc::new(Guard::new(1, 0, Vec::new()).unwrap());
        let entry = |(position, (algorithm, names)): (usize, &(&str, &[&str]))| {
            let kind = KeyKind::parse(algorithm).unwrap();
            let chain = vec![CertificateDer::from(vec![u8::try_from(position).unwrap()])];
            let key = Arc::new(CertifiedKey::new(
                chain,
                Arc::new(GuardKey::new(Arc::clone(&guard), 1, kind, false)),
            ));
            Offered {
                key,
                kind,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                fallback: None,
            }
        };
        Certificates::new(table.iter().enumerate().map(entry).collect())
    }

    /// The same, where each certificate at an odd place is the fallback of the one before it.
    fn with_fallbacks(table: &[(&str, &[&str])]) -> Certificates {
        let mut pairs = Vec::new();
        let mut all = certificates(table).entries.into_iter();
        while let (Some(first), Some(second)) = (all.next(), all.next()) {
            let fallback = Fallback {
                key: second.key,
                kind: second.kind,
                health: Arc::default(),
            };
            pairs.push(Offered {
                fallback: Some(fallback),
                ..first
            });
        }
        Certificates::new(pairs)
    }

    fn chosen(
        certificates: &Certificates,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> Option<u8> {
        certificates
            .choose(name, &Offer { schemes, suites }, |_| true)
            .map(|key| key.cert[0][0])
    }

    const ANY: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];
    const EC: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const PSS: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    #[test]
    fn name_decides_exactly_then_by_wildcard_then_by_default() {
        let certificates = certificates(&[
            ("ecdsa-p256", &["a.example"]),
            ("ecdsa-p256", &["*.b.example", "b.example"]),
        ]);
        let cases = [
            (Some("a.example"), 0),
            (Some("B.Example"), 1),
            (Some("x.b.example"), 1),
            (Some("y.x.b.example"), 0),
            (Some("other"), 0),
            (None, 0),
        ];
        for (name, expected) in cases {
            assert_eq!(
                Some(expected),
                chosen(&certificates, name, &[EC], ANY),
                "{name:?}"
            );
        }
    }

    #[test]
    fn client_preference_decides_between_keys_of_one_name() {
        let certificates = certificates(&[
            ("rsa-2048", &["a"]),
            ("ecdsa-p256", &["a"]),
            ("ed25519", &["other"]),
        ]);

        assert_eq!(Some(1), chosen(&certificates, Some("a"), &[EC, PSS], ANY));
        assert_eq!(Some(0), chosen(&certificates, Some("a"), &[PSS, EC], ANY));
        assert_eq!(Some(1), chosen(&certificates, None, &[EC], ANY));
        assert_eq!(
            None,
            chosen(&certificates, Some("a"), &[SignatureScheme::ED25519], ANY)
        );
    }

    #[test]
    fn fallback_is_presented_while_the_hardware_fails() {
        let certificates = with_fallbacks(&[
            ("rsa-2048", &["a"]),
            ("ecdsa-p256", &["a"]),
            ("ed25519", &["a"]),
            ("rsa-2048", &["a"]),
        ]);
        let chosen = |schemes: &[SignatureScheme], is_well: bool| {
            let offer = Offer {
                schemes,
                suites: ANY,
            };
            let asked = std::cell::Cell::new(0);
            let key = certificates.choose(Some("a"), &offer, |_| {
                asked.set(asked.get() + 1);
                is_well
            });
            (key.map(|key| key.cert[0][0]), asked.get())
        };

        assert_eq!(chosen(&[PSS, EC], true), (Some(0), 1));
        assert_eq!(chosen(&[PSS, EC], false), (Some(1), 1));
        // Another key in hardware is better than no certificate, and its fallback than none.
        assert_eq!(
            chosen(&[PSS, SignatureScheme::ED25519], false),
            (Some(3), 2)
        );
        // A fallback alone is no certificate of its own.
        assert_eq!(chosen(&[EC], true), (None, 0));
    }

    #[test]
    fn tls12_suites_rule_keys_out() {
        let certificates = certificates(&[("ecdsa-p256", &["a"]), ("rsa-2048", &["a"])]);
        let rsa = [CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        let ecdsa = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        let old = [CipherSuite::TLS_RSA_WITH_AES_128_GCM_SHA256];

        assert_eq!(Some(1), chosen(&certificates, Some("a"), &[EC, PSS], &rsa));
        assert_eq!(
            Some(0),
            chosen(&certificates, Some("a"), &[PSS, EC], &ecdsa)
        );
        assert_eq!(None, chosen(&certificates, Some("a"), &[PSS, EC], &old));
    }
}
