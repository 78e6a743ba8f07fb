//! Which certificate a client gets: by the name it asks for, then by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};

use crate::signer::KeyKind;
use crate::worker;

/// The certificates of one listener.
#[derive(Debug)]
pub(crate) struct Certificates {
    entries: Vec<Entry>,
    /// Lower-case name, or `.suffix` of a wildcard, to positions in `entries`.
    by_name: HashMap<String, Vec<usize>>,
    /// The first certificate and those that share a name with it.
    default: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    kind: KeyKind,
}

/// What decides between certificates for the same name.
struct Offer<'a> {
    schemes: &'a [SignatureScheme],
    suites: &'a [CipherSuite],
}

impl Certificates {
    /// In the order of the configuration, each with the DNS names that it is valid for.
    pub(crate) fn new(entries: Vec<(Arc<CertifiedKey>, KeyKind, Vec<String>)>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        let mut default = Vec::new();
        let first_names = entries
            .first()
            .map(|(_, _, names)| names.clone())
            .unwrap_or_default();
        for (position, (_, _, names)) in entries.iter().enumerate() {
            if position == 0 || names.iter().any(|name| first_names.contains(name)) {
                default.push(position);
            }
            for name in names {
                let name = name.to_ascii_lowercase();
                let name = name.strip_prefix('*').unwrap_or(&name).to_owned();
                by_name.entry(name).or_default().push(position);
            }
        }
        let entries = entries
            .into_iter()
            .map(|(key, kind, _)| Entry { key, kind })
            .collect();
        Self {
            entries,
            by_name,
            default,
        }
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

    fn choose(&self, name: Option<&str>, offer: &Offer<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(name);
        let entries = || {
            candidates
                .iter()
                .filter_map(|position| self.entries.get(*position))
        };
        // The client's order of preference decides between RSA and ECDSA.
        offer.schemes.iter().find_map(|scheme| {
            entries()
                .find(|entry| entry.kind.signs(*scheme) && offer.has_suite_for(entry.kind))
                .map(|entry| Arc::clone(&entry.key))
        })
    }
}

impl Offer<'_> {
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
        self.choose(hello.server_name(), &offer)
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
            (
                key,
                kind,
                names.iter().map(|name| (*name).to_owned()).collect(),
            )
        };
        Certificates::new(table.iter().enumerate().map(entry).collect())
    }

    fn chosen(
        certificates: &Certificates,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> Option<u8> {
        certificates
            .choose(name, &Offer { schemes, suites })
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
