//! Certificates whose keys are in hardware.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use unlatch_protocol::Digest;
use unlatch_protocol::control::{CertificateClaim, Fault, FaultKind, KeyFact};
use unlatch_protocol::digest::decode_base64url;

use super::HardwareClaim;
use crate::custodian::Found;
use crate::spki;

/// The certificates of one configuration whose keys are in hardware.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) by_number: BTreeMap<u16, HardwareClaim>,
    /// For edge.
    pub(super) facts: Vec<KeyFact>,
    /// Keys that are not there yet.
    pub(super) warnings: Vec<String>,
}

impl Claims {
    /// Take a certificate, if its key is the hardware's or may turn out to be.
    pub(super) fn add(
        &mut self,
        claim: &CertificateClaim,
        keys: &HashMap<String, Found>,
    ) -> Result<(), Fault> {
        let name = &claim.key;
        let found = keys.get(name).ok_or_else(|| {
            Fault::new(FaultKind::Key, format!("no custodian has the key {name}"))
                .hint("unlatch hsm check and unlatch tpm check say which keys there are")
        })?;
        let public = decode_base64url(&claim.spki).unwrap_or_default();
        let (kind, algorithm) = spki::kind(&public).ok_or_else(|| {
            let message = format!("certificate for {name} has a key of no kind that signs here");
            Fault::new(FaultKind::Key, message).hint("RSA from 2048 bits, ECDSA or Ed25519")
        })?;
        let earlier = self.by_number.get(&found.number).map(|claim| &*claim.spki);
        let mut others = earlier.into_iter().chain(found.spki.as_deref());
        if others.any(|other| other != public) {
            let message = format!("key {name} does not belong to this certificate");
            return Err(Fault::new(FaultKind::Key, message).hint(
                "was the key in the hardware replaced? have a certificate made for it: unlatch hsm csr",
            ));
        }
        if earlier.is_some() {
            return Ok(());
        }
        if found.spki.is_none() {
            let (place, reason) = (&claim.r#where, &found.reason);
            self.warnings.push(format!(
                "{place}: key {name} is not reachable yet ({reason}): its handshakes fail until it is"
            ));
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &public).as_ref());
        self.facts.push(KeyFact {
            id: found.number,
            name: name.clone(),
            algorithm,
            spki_sha256: Digest(bytes),
        });
        let spki = Arc::from(public);
        self.by_number
            .insert(found.number, HardwareClaim { spki, kind });
        Ok(())
    }
}
