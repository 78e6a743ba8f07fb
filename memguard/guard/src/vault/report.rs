//! What the vault counts, for status and for the log.

use serde_json::{Value, json};
use unlatch_protocol::Refusal;

use super::Vault;
use crate::secrets::Secrets;

impl Vault {
    /// Signatures by key and tokens by name, and all signatures since guard's start: what the hourly line says.
    pub(crate) fn uses(&self) -> Value {
        let state = self.read();
        let held = || state.secrets.iter().flat_map(Secrets::iter);
        let keys: Value = held()
            .filter_map(|(_, secret)| {
                let count = secret.as_key()?.signatures.value();
                Some((secret.name.clone(), json!(count)))
            })
            .chain(
                self.custodians
                    .uses()
                    .into_iter()
                    .map(|(name, count)| (name, json!(count))),
            )
            .collect();
        let tokens: Value = held()
            .filter_map(|(_, secret)| {
                Some((secret.name.clone(), json!(secret.as_token()?.given.value())))
            })
            .collect();
        json!({"signatures": self.signatures.value(), "by_key": keys, "tokens": tokens})
    }

    /// Refusals by name, those that never happened left out.
    pub(crate) fn refusals(&self) -> Value {
        let counted = Refusal::ALL
            .iter()
            .zip(&self.refused)
            .filter(|(_, counter)| counter.value() > 0);
        counted
            .map(|(refusal, counter)| (refusal.name().to_owned(), json!(counter.value())))
            .collect()
    }

    /// Counters of every secret.
    pub(crate) fn status(&self) -> Value {
        let custodians = self.custodians.status();
        let state = self.read();
        let secrets = state.secrets.as_ref();
        let keys = secrets
            .into_iter()
            .flat_map(Secrets::iter)
            .filter_map(|(id, secret)| {
                let held = secret.as_key()?;
                let in_use = state
                    .current
                    .as_ref()
                    .is_some_and(|configuration| configuration.uses(id));
                let algorithm = held.key.algorithm().name();
                Some(
                    json!({"id": id, "name": secret.name, "algorithm": algorithm, "in_use": in_use,
                        "signatures": held.signatures.value()}),
                )
            });
        let tokens = secrets.into_iter().flat_map(Secrets::iter).filter_map(|(id, secret)| {
            let held = secret.as_token()?;
            Some(json!({"id": id, "name": secret.name, "bound": held.rules.is_some(), "given": held.given.value()}))
        });
        json!({
            "locked": secrets.is_none(), "configured": state.current.is_some(),
            "set": secrets.and_then(Secrets::set_text),
            "keys": keys.collect::<Vec<_>>(), "tokens": tokens.collect::<Vec<_>>(),
            "custodians": custodians,
            "signatures_total": self.signatures.value(),
            "handshake_signatures": self.handshakes.value(),
            "foreign_tickets": self.foreign_tickets.value(),
            "refusals": self.refusals(), "uptime_seconds": self.elapsed().as_secs(),
        })
    }
}
