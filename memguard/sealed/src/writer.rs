//! Builds a bundle's JSON in locked memory.

use rand_core::{OsRng, RngCore};
use unlatch_protocol::rules::{KeyUse, PinUse, TokenUse};

use crate::LockedBytes;
use crate::bundle::{CHAIN_BYTES, MAX_SECRETS, VERSION, is_name, is_pin, is_token};
use crate::curve::Curve;
use crate::error::Error;
use crate::json;
use crate::jwe::MAX_BYTES;
use crate::jwk::{PrivateJwk, Use, public_json};
use crate::keys;
use crate::text::LockedText;

/// A bundle under construction, with a fresh set and a fresh bundle key.
pub struct BundleWriter {
    set: [u8; 32],
    recipient: PrivateJwk,
    secrets: Vec<(String, LockedBytes)>,
}

impl BundleWriter {
    /// An empty bundle.
    ///
    /// # Errors
    /// When no randomness or locked memory is to be had.
    pub fn new() -> Result<Self, Error> {
        let mut set = [0; 32];
        OsRng
            .try_fill_bytes(&mut set)
            .map_err(std::io::Error::from)?;
        let recipient = PrivateJwk::generate(Curve::P256, Use::Exchange)?;
        Ok(Self {
            set,
            recipient,
            secrets: Vec::new(),
        })
    }

    /// Public half of the bundle key, a JWK.
    #[must_use]
    pub fn recipient(&self) -> String {
        public_json(&self.recipient.public, Use::Exchange)
    }

    /// Add a private key in PEM (PKCS#8, SEC1, PKCS#1). `rules`: a JSON object, or none for unbound.
    ///
    /// # Errors
    /// `Name`, `Rules`, and what `keys::from_pem` refuses.
    pub fn add_private_key(
        &mut self,
        name: &str,
        pem: &LockedBytes,
        rules: Option<&[u8]>,
    ) -> Result<(), Error> {
        check_key(rules)?;
        let pkcs8 = keys::from_pem(pem)?;
        #[cfg(feature = "generate")]
        crate::generate::check(&pkcs8)?;
        self.add_pkcs8(name, &pkcs8, rules)
    }

    /// Make a private key in native memory; gives a PEM request for the names in `rules`.
    ///
    /// # Errors
    /// `UnknownAlgorithm`; `RequestName` when `use.names` is missing or wrong; as `add_private_key`.
    #[cfg(feature = "generate")]
    pub fn generate_private_key(
        &mut self,
        name: &str,
        algorithm: &str,
        rules: &[u8],
    ) -> Result<String, Error> {
        let names = check_key(Some(rules))?
            .and_then(|rules| rules.names)
            .ok_or(Error::RequestName)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (pkcs8, request) = crate::generate::generate(algorithm, &names)?;
        self.add_pkcs8(name, &pkcs8, Some(rules))?;
        Ok(request)
    }

    /// Add a token. `rules`: a JSON object, or none for unbound.
    ///
    /// # Errors
    /// `Name`, `Rules`, `Token`.
    pub fn add_token(
        &mut self,
        name: &str,
        value: &LockedBytes,
        rules: Option<&[u8]>,
    ) -> Result<(), Error> {
        if !is_token(value.expose()) {
            return Err(Error::Token);
        }
        if let Some(rules) = rules {
            TokenUse::parse(text(rules)?).map_err(Error::Rules)?;
        }
        self.add(name, "token", "value", value, rules)
    }

    /// Add the PIN of a token (hardware). `rules`: a JSON object that names the hardware.
    ///
    /// # Errors
    /// `Name`, `Rules`, `Pin`.
    pub fn add_pin(&mut self, name: &str, value: &LockedBytes, rules: &[u8]) -> Result<(), Error> {
        if !is_pin(value.expose()) {
            return Err(Error::Pin);
        }
        PinUse::parse(text(rules)?).map_err(Error::Rules)?;
        self.add(name, "pin", "value", value, Some(rules))
    }

    /// Add the rules of a key in hardware, which is named by SHA-256 of its SubjectPublicKeyInfo. `rules`: a JSON object.
    ///
    /// # Errors
    /// `Name`, `Rules`.
    pub fn add_hardware_key(
        &mut self,
        name: &str,
        spki_sha256: &[u8; 32],
        rules: &[u8],
    ) -> Result<(), Error> {
        KeyUse::parse_for_hardware(text(rules)?).map_err(Error::Rules)?;
        self.check_name(name)?;
        let mut entry = LockedText::with_capacity(256)?;
        entry.push(b"{\"kind\":\"hardware-key\",\"spki_sha256\":\"")?;
        entry.push_base64url(spki_sha256)?;
        entry.push(b"\",\"use\":")?;
        entry.push(rules)?;
        entry.push(b"}")?;
        self.secrets.push((name.to_owned(), entry.finish()));
        Ok(())
    }

    /// Make a ticket secret that begins at this epoch (hours since 1970): what came before, it cannot tell.
    ///
    /// # Errors
    /// `Name`, or when no randomness or locked memory is to be had.
    pub fn generate_ticket_secret(&mut self, name: &str, epoch: u64) -> Result<(), Error> {
        let chain = LockedBytes::random(CHAIN_BYTES)?;
        self.check_name(name)?;
        let mut entry = LockedText::with_capacity(256)?;
        entry.push(
            format!("{{\"kind\":\"ticket-secret\",\"epoch\":{epoch},\"chain\":\"").as_bytes(),
        )?;
        entry.push_base64url(chain.expose())?;
        entry.push(b"\",\"use\":{\"mode\":\"per-node\"}}")?;
        self.secrets.push((name.to_owned(), entry.finish()));
        Ok(())
    }

    /// The bundle's JSON.
    ///
    /// # Errors
    /// `Bundle` when there is no secret, `BundleTooLarge`.
    pub fn finish(self, sealers: &[String]) -> Result<LockedBytes, Error> {
        if self.secrets.is_empty() {
            return Err(Error::Bundle("no secret"));
        }
        let mut out = LockedText::with_capacity(4096)?;
        out.push(b"{\"unlatch\":")?;
        out.push(VERSION.as_bytes())?;
        out.push(b",\"set\":\"")?;
        out.push_base64url(&self.set)?;
        out.push(b"\",\"recipient\":")?;
        out.push(self.recipient.to_json(Use::Exchange)?.expose())?;
        out.push(b",\"sealers\":")?;
        out.push(serde_json::json!(sealers).to_string().as_bytes())?;
        out.push(b",\"secrets\":")?;
        for (at, (name, entry)) in self.secrets.iter().enumerate() {
            out.push(if at == 0 { b"{\"" } else { b",\"" })?;
            out.push(name.as_bytes())?;
            out.push(b"\":")?;
            out.push(entry.expose())?;
        }
        out.push(b"}}")?;
        // A JWE is 4/3 of its plaintext, and its header needs room too.
        if out.written().len() > MAX_BYTES * 5 / 8 {
            return Err(Error::BundleTooLarge);
        }
        Ok(out.finish())
    }

    fn add_pkcs8(
        &mut self,
        name: &str,
        pkcs8: &LockedBytes,
        rules: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.add(name, "private-key", "pem", &keys::to_pem(pkcs8)?, rules)
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        if !is_name(name) || self.secrets.iter().any(|(taken, _)| taken == name) {
            return Err(Error::Name);
        }
        if self.secrets.len() == MAX_SECRETS {
            return Err(Error::BundleTooLarge);
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: &str,
        kind: &str,
        member: &str,
        value: &LockedBytes,
        rules: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.check_name(name)?;
        let mut entry = LockedText::with_capacity(value.len() + 256)?;
        entry.push(format!("{{\"kind\":\"{kind}\",\"{member}\":\"").as_bytes())?;
        entry.push_escaped(std::str::from_utf8(value.expose()).map_err(|_| Error::Token)?)?;
        entry.push(b"\"")?;
        if let Some(rules) = rules {
            let rules = json::object(rules).map_err(|_| Error::RepeatedRule)?;
            entry.push(b",\"use\":")?;
            entry.push(serde_json::Value::Object(rules).to_string().as_bytes())?;
        }
        entry.push(b"}")?;
        self.secrets.push((name.to_owned(), entry.finish()));
        Ok(())
    }
}

fn check_key(rules: Option<&[u8]>) -> Result<Option<KeyUse>, Error> {
    rules
        .map(|rules| KeyUse::parse(text(rules)?).map_err(Error::Rules))
        .transpose()
}

fn text(rules: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(rules).map_err(|_| Error::RepeatedRule)
}
