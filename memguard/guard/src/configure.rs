//! Whether a configuration lies within the sealed rules. Pure: secrets' public facts and rules in, a verdict out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use unlatch_protocol::control::{
    Ask, BodyFact, CertificateClaim, Configuration, Configured, Fault, FaultKind, KeyFact,
    RouteFact, TicketClaim,
};
use unlatch_protocol::datagram::{HEADER_BYTES, MAX_WORKER_BYTES};
use unlatch_protocol::digest::decode_base64url;
use unlatch_protocol::rules::{InjectRule, KeyRole, KeyUse, Line, Signing, Wider};

use crate::authorize;
use crate::context::Side;
use crate::custodian::{Found, is_hardware_name};
use crate::scheme::KeyType;
use crate::secrets::{HeldKey, Kind, Secret, Secrets};

mod hardware;

use hardware::Claims;

/// One datagram carries a token to egress.
const MAX_TOKEN_BYTES: usize = MAX_WORKER_BYTES - HEADER_BYTES;

/// A configuration that was checked against the secrets that are held.
#[derive(Default)]
pub(crate) struct InForce {
    /// Keys that listeners present.
    keys: BTreeSet<u16>,
    /// Keys that egress shows to upstreams.
    client_keys: BTreeSet<u16>,
    /// Inject routes by number, with their token's number.
    pub(crate) routes: HashMap<u16, (u16, InjectRule)>,
    /// Whether tokens without sealed rules may be used.
    pub(crate) unbound: bool,
    /// Keys in hardware that listeners present, with their certificates' public keys.
    hardware: BTreeMap<u16, HardwareClaim>,
    /// The ticket secret; `None`: the random chain.
    pub(crate) tickets: Option<u16>,
}

impl InForce {
    /// The keys that may sign for this side.
    pub(crate) fn keys_of(&self, side: Side) -> &BTreeSet<u16> {
        match side {
            Side::Server => &self.keys,
            Side::Client => &self.client_keys,
        }
    }

    /// The certificate of a key in hardware. Egress presents none.
    pub(crate) fn hardware_of(&self, side: Side, key: u16) -> Option<&HardwareClaim> {
        match side {
            Side::Server => self.hardware.get(&key),
            Side::Client => None,
        }
    }

    /// Whether a key is used at all.
    pub(crate) fn uses(&self, key: u16) -> bool {
        self.keys.contains(&key) || self.client_keys.contains(&key)
    }
}

/// What a certificate says of its key in hardware.
pub(crate) struct HardwareClaim {
    /// DER; the hardware's key must have the same.
    pub(crate) spki: Arc<[u8]>,
    pub(crate) kind: KeyType,
}

/// Check a configuration.
pub(crate) fn check(
    configuration: Configuration,
    secrets: &Secrets,
    in_hardware: &HashMap<String, Found>,
) -> Result<(InForce, Configured), Fault> {
    let mut in_force = InForce {
        unbound: configuration.unbound,
        ..InForce::default()
    };
    if let Some(claim) = &configuration.tickets {
        let id = check_tickets(claim, secrets).map_err(|fault| fault.at(&claim.r#where))?;
        in_force.tickets = Some(id);
    }
    let mut hardware = Claims::default();
    for claim in &configuration.certificates {
        if is_hardware_name(&claim.key) {
            let added = hardware.add(claim, in_hardware, secrets);
            added.map_err(|fault| fault.at(&claim.r#where))?;
            continue;
        }
        let id = check_certificate(claim, secrets).map_err(|fault| fault.at(&claim.r#where))?;
        in_force.keys.insert(id);
    }
    for claim in &configuration.clients {
        let id = check_client(claim, secrets).map_err(|fault| fault.at(&claim.r#where))?;
        in_force.client_keys.insert(id);
    }
    for rule in configuration.inject {
        let place = rule.r#where.clone();
        let id =
            check_route(&rule, configuration.unbound, secrets).map_err(|fault| fault.at(&place))?;
        if in_force.routes.insert(rule.id, (id, rule)).is_some() {
            return Err(
                Fault::new(FaultKind::Malformed, "two inject routes have one number").at(place),
            );
        }
    }
    let mut configured = Configured {
        keys: key_facts(&in_force, secrets),
        routes: route_facts(&in_force, secrets),
        warnings: warnings(&in_force, secrets),
    };
    configured.keys.append(&mut hardware.facts);
    configured.warnings.append(&mut hardware.warnings);
    in_force.hardware = hardware.by_number;
    Ok((in_force, configured))
}

/// The keys that a configuration uses, by number.
fn held_keys<'a>(
    in_force: &'a InForce,
    secrets: &'a Secrets,
) -> impl Iterator<Item = (u16, &'a str, &'a HeldKey)> {
    let used = in_force.keys.union(&in_force.client_keys);
    used.filter_map(|&id| {
        let secret = secrets.by_id(id)?;
        Some((id, secret.name.as_str(), secret.as_key()?))
    })
}

fn key_facts(in_force: &InForce, secrets: &Secrets) -> Vec<KeyFact> {
    held_keys(in_force, secrets)
        .map(|(id, name, held)| KeyFact {
            id,
            name: name.to_owned(),
            algorithm: held.key.algorithm().name(),
            spki_sha256: held.key.spki_digest(),
        })
        .collect()
}

/// What an operator should know about secrets that nothing binds.
fn warnings(in_force: &InForce, secrets: &Secrets) -> Vec<String> {
    let keys = held_keys(in_force, secrets)
        .filter(|(_, _, held)| held.rules.is_none())
        .map(|(_, name, _)| {
            format!("key sealed:{name} has no sealed rules: any certificate name may use it")
        });
    let tokens = in_force.routes.values().filter_map(|(id, rule)| {
        let token = secrets.by_id(*id)?.as_token()?;
        let message = "token has no sealed rules: who edits the configuration can send it anywhere";
        token
            .rules
            .is_none()
            .then(|| format!("{}: {message}", rule.r#where))
    });
    let mut warnings: Vec<_> = keys.chain(tokens).collect();
    warnings.sort();
    warnings
}

fn check_certificate(claim: &CertificateClaim, secrets: &Secrets) -> Result<u16, Fault> {
    let (id, held) = matching_key(claim, secrets)?;
    let unlimited = KeyUse::unlimited_server();
    let rules = held.rules.as_ref().unwrap_or(&unlimited);
    rules
        .covers(&claim.names)
        .map_err(|wider| outside("key", &claim.key, &wider))?;
    Ok(id)
}

/// Only a key that was sealed for it signs as a client; its certificate's names are the upstream's business.
fn check_client(claim: &CertificateClaim, secrets: &Secrets) -> Result<u16, Fault> {
    if is_hardware_name(&claim.key) {
        let message = "a key in hardware signs for listeners only";
        return Err(Fault::new(FaultKind::Rules, message).hint("seal a key with the role client"));
    }
    let (id, held) = matching_key(claim, secrets)?;
    let has_role = |rules: &KeyUse| rules.has_role(KeyRole::Client);
    if !held.rules.as_ref().is_some_and(has_role) {
        let message = format!("key {:?} is not sealed for role client", claim.key);
        let hint = "seal the key again with the role client";
        return Err(Fault::new(FaultKind::Rules, message).hint(hint));
    }
    Ok(id)
}

fn matching_key<'a>(
    claim: &CertificateClaim,
    secrets: &'a Secrets,
) -> Result<(u16, &'a HeldKey), Fault> {
    let name = &claim.key;
    let found = secrets
        .by_name(name)
        .and_then(|(id, secret)| Some((id, secret.as_key()?)));
    let Some((id, held)) = found else {
        return Err(unknown(name, PRIVATE_KEY, secrets));
    };
    if decode_base64url(&claim.spki).as_deref() != Some(held.key.spki()) {
        return Err(Fault::new(
            FaultKind::Key,
            format!("key sealed:{name} does not belong to this certificate"),
        )
        .hint(format!(
            "was the chain renewed with a new key? keep the key next time: unlatch csr {name}"
        )));
    }
    Ok((id, held))
}

fn check_route(rule: &InjectRule, unbound: bool, secrets: &Secrets) -> Result<u16, Fault> {
    let name = &rule.secret;
    if rule.id == 0 {
        return Err(Fault::new(
            FaultKind::Malformed,
            "inject routes are numbered from 1",
        ));
    }
    let Some((id, secret)) = secrets.by_name(name) else {
        return Err(unknown(name, TOKEN, secrets));
    };
    if let Some(jwt) = secret.as_key().and_then(HeldKey::jwt) {
        let covered = jwt.r#for.covers(rule);
        return covered
            .map(|()| id)
            .map_err(|wider| outside("key", name, &wider));
    }
    let Some(token) = secret.as_token() else {
        return Err(unknown(name, TOKEN, secrets));
    };
    if token.value.len() > MAX_TOKEN_BYTES {
        let message = format!(
            "token {name:?} is longer than the {MAX_TOKEN_BYTES} bytes that a request can carry"
        );
        return Err(Fault::new(FaultKind::Key, message));
    }
    match &token.rules {
        Some(rules) => rules
            .covers(rule)
            .map_err(|wider| outside("token", name, &wider))?,
        None if unbound => {}
        None => {
            return Err(Fault::new(FaultKind::Rules, format!("token {name:?} was sealed without rules")).hint(
                "seal it again with rules, or set unlock.unbound: true and accept that the configuration alone decides where it goes",
            ));
        }
    }
    Ok(id)
}

/// What egress has to ask for on each route.
fn route_facts(in_force: &InForce, secrets: &Secrets) -> Vec<RouteFact> {
    let mut facts: Vec<_> = in_force
        .routes
        .iter()
        .map(|(id, (secret, rule))| route_fact(*id, secrets.by_id(*secret), rule))
        .collect();
    facts.sort_by_key(|fact| fact.id);
    facts
}

fn route_fact(id: u16, secret: Option<&Secret>, rule: &InjectRule) -> RouteFact {
    let sealed = secret
        .and_then(Secret::as_token)
        .and_then(|token| token.rules.as_ref());
    let signing = sealed.and_then(|rules| rules.sign.as_ref());
    let is_computed = signing.is_some() || secret.is_some_and(Secret::is_key);
    let mut headers = vec![rule.place.header.to_ascii_lowercase()];
    let (body, covers) = match signing {
        Some(Signing::Hmac(rules)) => {
            headers.extend(
                rules
                    .time_header
                    .as_ref()
                    .map(|name| name.to_ascii_lowercase()),
            );
            let has_body = rules.over.contains(&Line::Body);
            let body = if has_body {
                BodyFact::Whole
            } else {
                BodyFact::Unread
            };
            (body, None)
        }
        Some(Signing::Sigv4(rules)) => {
            headers.extend(authorize::AWS_HEADERS.map(str::to_owned));
            let is_optional = authorize::takes_unsigned_bodies(rules);
            let body = if is_optional {
                BodyFact::Small
            } else {
                BodyFact::Whole
            };
            (body, Some(authorize::AWS_PREFIX.to_owned()))
        }
        None => (BodyFact::Unread, None),
    };
    headers.sort_unstable();
    headers.dedup();
    RouteFact {
        id,
        ask: if is_computed {
            Ask::Authorize
        } else {
            Ask::Token
        },
        headers,
        body,
        covers,
    }
}

fn check_tickets(claim: &TicketClaim, secrets: &Secrets) -> Result<u16, Fault> {
    let name = &claim.secret;
    let found = secrets
        .by_name(name)
        .filter(|(_, secret)| secret.as_tickets().is_some());
    found
        .map(|(id, _)| id)
        .ok_or_else(|| unknown(name, TICKET_SECRET, secrets))
}

fn outside(kind: &str, name: &str, wider: &Wider) -> Fault {
    Fault::new(
        FaultKind::Rules,
        format!("{kind} {name:?}: {}", wider.message),
    )
    .hint(wider.hint)
}

const PRIVATE_KEY: &str = "private key";
const TOKEN: &str = "token";
const TICKET_SECRET: &str = "ticket secret";
const PIN: &str = "PIN";
const HARDWARE_KEY: &str = "rules of a key in hardware";

fn unknown(name: &str, kind: &str, secrets: &Secrets) -> Fault {
    let kind_of = |secret: &crate::secrets::Secret| match &secret.kind {
        Kind::Key(_) => PRIVATE_KEY,
        Kind::Token(_) => TOKEN,
        Kind::Tickets(_) => TICKET_SECRET,
        Kind::Pin(_) => PIN,
        Kind::Hardware(_) => HARDWARE_KEY,
    };
    let names: Vec<_> = secrets
        .iter()
        .filter(|(_, secret)| kind_of(secret) == kind)
        .map(|(_, secret)| secret.name.as_str())
        .collect();
    let hint = if names.is_empty() {
        format!("the sealed file holds no {kind}")
    } else {
        format!("the sealed file holds: {}", names.join(", "))
    };
    Fault::new(
        FaultKind::Key,
        format!("no {kind} named {name:?} in the sealed file"),
    )
    .hint(hint)
}
