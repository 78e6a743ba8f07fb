//! What the vault knows for custodians: PINs, and which certificate a key in hardware belongs to.

use std::sync::Arc;

use unlatch_locked::LockedBytes;
use unlatch_protocol::Refusal;

use super::Vault;
use crate::context::{self, Side};
use crate::custodian::{Admitted, Custodians};
use crate::scheme;
use crate::secrets::Secrets;

impl Vault {
    /// Guard's side of keys in hardware.
    pub(crate) fn custodians(&self) -> &Custodians {
        &self.custodians
    }

    /// Whether a key in hardware may sign this: gives what its signature must hold for.
    pub(crate) fn admit(
        &self,
        side: Side,
        key: u16,
        scheme: u16,
        message: &[u8],
    ) -> Result<Admitted, Refusal> {
        let state = self.read();
        state.secrets.as_ref().ok_or(Refusal::Locked)?;
        let mut claims = state
            .configurations()
            .filter_map(|one| one.hardware_of(side, key));
        let claim = claims.next().ok_or(Refusal::Unknown)?;
        let version = context::check(side, message).map_err(|_| Refusal::Context)?;
        let method = scheme::method(claim.kind, scheme, version).ok_or(Refusal::Scheme)?;
        Ok(Admitted {
            spki: Arc::clone(&claim.spki),
            kind: claim.kind,
            method,
        })
    }

    /// Which set PINs come from now: its number, modulo 65536. `None`: there is none.
    pub(crate) fn pin_generation(&self) -> Option<u16> {
        self.read().secrets.as_ref().and_then(Secrets::generation)
    }

    /// A PIN for the hardware that it was sealed for, or why there is none.
    pub(crate) fn pin(
        &self,
        name: &str,
        hardware: &str,
        generation: u16,
    ) -> Result<LockedBytes, String> {
        let state = self.read();
        let secrets = state.secrets.as_ref();
        let secrets = secrets.filter(|secrets| secrets.generation() == Some(generation));
        let secrets = secrets.ok_or_else(|| "no secrets are held".to_owned())?;
        let held = secrets.by_name(name).and_then(|(_, one)| one.as_pin());
        let held = held.ok_or_else(|| format!("no PIN named {name:?} in the sealed file"))?;
        if held.rules.hardware != hardware {
            return Err(format!("PIN {name:?} is sealed for other hardware"));
        }
        let copy = held.value.with_joined(LockedBytes::copy_from);
        copy.and_then(|copy| copy)
            .map_err(|_| "no memory that can be locked".to_owned())
    }

    /// A signature was made elsewhere.
    pub(crate) fn count_signature(&self) {
        self.signatures.add();
    }
}
