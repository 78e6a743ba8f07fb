//! Certificates whose keys are in hardware.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use unlatch_protocol::Digest;
use unlatch_protocol::control::{CertificateClaim, Fault, FaultKind, KeyFact};
use unlatch_protocol::digest::decode_base64url;

use super::{HardwareClaim, outside};
use crate::custodian::Found;
use crate::secrets::Secrets;
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
        secrets: &Secrets,
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
        let spki_sha256 = sha256(&public);
        let is_bound = check_rules(claim, spki_sha256, secrets)?;
        if earlier.is_some() {
            return Ok(());
        }
        if !is_bound {
            self.warnings.push(format!(
                "key {name} has no sealed rules: any certificate name may use it"
            ));
        }
        if found.spki.is_none() {
            let (place, reason) = (&claim.r#where, &found.reason);
            self.warnings.push(format!(
                "{place}: key {name} is not reachable yet ({reason}): its handshakes fail until it is"
            ));
        }
        self.facts.push(KeyFact {
            id: found.number,
            name: name.clone(),
            algorithm,
            spki_sha256: Digest(spki_sha256),
        });
        let spki = Arc::from(public);
        self.by_number
            .insert(found.number, HardwareClaim { spki, kind });
        Ok(())
    }
}

/// Hold a certificate against the sealed rules of its key. Gives whether there are any.
///
/// Rules go by the key itself, so that another spelling of its URI has the same. Where a sealed file names keys in
/// hardware, it admits no others.
fn check_rules(
    claim: &CertificateClaim,
    spki_sha256: [u8; 32],
    secrets: &Secrets,
) -> Result<bool, Fault> {
    let sealed = || {
        secrets
            .iter()
            .filter_map(|(_, secret)| secret.as_hardware())
    };
    let mut bound = false;
    for held in sealed().filter(|held| held.spki_sha256 == spki_sha256) {
        let covered = held.rules.covers(&claim.names);
        covered.map_err(|wider| outside("key", &claim.key, &wider))?;
        bound = true;
    }
    if !bound && sealed().next().is_some() {
        let message = format!(
            "key {} is none of the keys in hardware that are sealed",
            claim.key
        );
        return Err(Fault::new(FaultKind::Rules, message)
            .hint("seal its rules too: unlatch seal --hardware-key NAME=CERTIFICATE --names"));
    }
    Ok(bound)
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    bytes
}
