//! The state that every thread shares: the secrets, the configuration in force, what was counted.
//!
//! Requests run under a read lock and leave nothing behind when they return; load, configure, reshare and drop take
//! the write lock. Nothing is sent or received under either.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use unlatch_locked::LockedBytes;
use unlatch_protocol::control::{Configuration, Configured, Fault, FaultKind, Loaded};
use unlatch_protocol::rules::{InjectRule, KeyRole, KeyUse};
use unlatch_protocol::{AuthorizeRequest, Refusal, SealedTicket, TokenRequest};
use unlatch_sealed::csr;

use crate::authorize::{self, Headers};
use crate::choices::Choices;
use crate::clock;
use crate::configure::{self, InForce};
use crate::context::{self, Side};
use crate::custodian::{Custodians, is_hardware_name};
use crate::scheme;
use crate::secrets::{Counter, Secret, Secrets};
use crate::store::Store;
use crate::tickets::Chain;

mod hardware;
mod report;

/// See the module.
pub(crate) struct Vault {
    store: Store,
    state: RwLock<State>,
    tickets: Mutex<Option<Chain>>,
    /// What the next load goes by.
    choices: Mutex<Choices>,
    refused: [Counter; Refusal::ALL.len()],
    /// Since guard's start, whatever was loaded and dropped meanwhile.
    signatures: Counter,
    /// Those of server handshakes among them.
    handshakes: Counter,
    foreign_tickets: Counter,
    custodians: Custodians,
    started: Instant,
}

#[derive(Default)]
struct State {
    secrets: Option<Secrets>,
    current: Option<InForce>,
    /// For requests that were under way when the configuration changed.
    previous: Option<InForce>,
}

impl Vault {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            state: RwLock::new(State::default()),
            tickets: Mutex::new(None),
            choices: Mutex::default(),
            refused: Default::default(),
            signatures: Counter::default(),
            handshakes: Counter::default(),
            foreign_tickets: Counter::default(),
            custodians: Custodians::new(),
            started: Instant::now(),
        }
    }

    /// Monotonic time since start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where opened secrets are kept.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// How the next load takes secrets; what is not said stays.
    pub(crate) fn choose(
        &self,
        never_joined: Option<Vec<String>>,
        epoch_seconds: Option<u32>,
    ) -> Result<(), Fault> {
        let state = self.read();
        let mut choices = self.choices();
        let wanted = Choices {
            never_joined: never_joined.unwrap_or_else(|| choices.never_joined.clone()),
            epoch_seconds: epoch_seconds.map_or(choices.epoch_seconds, u64::from),
        };
        if state.secrets.is_some() && *choices != wanted {
            let message =
                "guard.never_joined and tickets.epoch cannot change while secrets are held";
            return Err(Fault::new(FaultKind::State, message).hint("relock, then unlock"));
        }
        *choices = wanted;
        Ok(())
    }

    /// Open a sealed file with its content key, and hold what is in it.
    pub(crate) fn open(&self, sealed: &[u8], content_key: LockedBytes) -> Result<Loaded, Fault> {
        let choices = self.choices().clone();
        self.load(Secrets::open(&self.store, sealed, content_key, &choices)?)
    }

    /// Take the secrets of an opened file.
    pub(crate) fn load(&self, secrets: Secrets) -> Result<Loaded, Fault> {
        let mut state = self.write();
        if let Some(held) = &state.secrets {
            if held.is_same_set(&secrets) {
                return Ok(held.describe());
            }
            return Err(Fault::new(
                FaultKind::State,
                "another set of secrets is held; two sets are never mixed",
            )
            .hint("relock first, then unlock with the other sealed file"));
        }
        *self.tickets() = Some(
            Chain::random(&self.store, clock::now(), self.choices().epoch_seconds)
                .map_err(|error| internal(&error))?,
        );
        let loaded = secrets.describe();
        state.secrets = Some(secrets);
        Ok(loaded)
    }

    /// Check a configuration and put it in force. A refused one changes nothing.
    pub(crate) fn configure(&self, configuration: Configuration) -> Result<Configured, Fault> {
        self.read().secrets.as_ref().ok_or_else(locked)?;
        let names = configuration.certificates.iter().map(|claim| &*claim.key);
        let names = names.filter(|name| is_hardware_name(name)).collect();
        let in_hardware = self.custodians.look_up(&names);
        let mut state = self.write();
        let secrets = state.secrets.as_ref().ok_or_else(locked)?;
        let (in_force, configured) = configure::check(configuration, secrets, &in_hardware)?;
        state.previous = state.current.replace(in_force);
        Ok(configured)
    }

    /// Which of these numbers are no private key of the set.
    pub(crate) fn unknown_keys(&self, ids: &[u16]) -> Result<Vec<u16>, Fault> {
        let state = self.read();
        let secrets = state.secrets.as_ref().ok_or_else(locked)?;
        let is_key = |id: u16| {
            secrets
                .by_id(id)
                .is_some_and(crate::secrets::Secret::is_key)
        };
        let is_known = |id: u16| is_key(id) || self.custodians.has_number(id);
        Ok(ids.iter().copied().filter(|id| !is_known(*id)).collect())
    }

    /// Sign a handshake message of this side.
    pub(crate) fn sign(
        &self,
        side: Side,
        key: u16,
        scheme: u16,
        message: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let state = self.read();
        let secrets = state.secrets.as_ref().ok_or(Refusal::Locked)?;
        let in_force = state
            .configurations()
            .any(|configuration| configuration.keys_of(side).contains(&key));
        let held = secrets
            .by_id(key)
            .and_then(|secret| secret.as_key())
            .filter(|_| in_force)
            .ok_or(Refusal::Unknown)?;
        let version = context::check(side, message).map_err(|_| Refusal::Context)?;
        let method = scheme::method(held.key.key_type(), scheme, version).ok_or(Refusal::Scheme)?;
        let signature = held
            .key
            .sign(method, message)
            .map_err(|_| Refusal::Internal)?;
        held.signatures.add();
        self.signatures.add();
        if side == Side::Server {
            self.handshakes.add();
        }
        Ok(signature)
    }

    /// The token of a route, for one request.
    pub(crate) fn token(&self, request: &TokenRequest<'_>) -> Result<LockedBytes, Refusal> {
        let state = self.read();
        let (configuration, secret, rule) = state.route(request.route)?;
        let token = secret.as_token().ok_or(Refusal::Outside)?;
        rule.admits(request)?;
        match &token.rules {
            // What is sealed as a key is never given.
            Some(rules) if rules.sign.is_some() => return Err(Refusal::Outside),
            Some(rules) => rules.admits(request)?,
            None if configuration.unbound => {}
            None => return Err(Refusal::Outside),
        }
        let value = token
            .value
            .with_joined(LockedBytes::copy_from)
            .and_then(|copy| copy);
        let value = value.map_err(|_| Refusal::Internal)?;
        token.given.add();
        Ok(value)
    }

    /// The headers that authorise a request, from a secret that stays here.
    pub(crate) fn authorize(&self, asked: &AuthorizeRequest<'_>) -> Result<Headers, Refusal> {
        let state = self.read();
        let (_, secret, rule) = state.route(asked.request.route)?;
        rule.admits(&asked.request)?;
        let (header, wall) = (&rule.place.header, clock::now().wall);
        if let Some(held) = secret.as_key() {
            let rules = held.jwt().ok_or(Refusal::Outside)?;
            rules.r#for.admits(&asked.request)?;
            let headers = authorize::with_key(rules, &held.key, header, wall)?;
            held.signatures.add();
            self.signatures.add();
            return Ok(headers);
        }
        let token = secret.as_token().ok_or(Refusal::Outside)?;
        let rules = token.rules.as_ref().ok_or(Refusal::Outside)?;
        let signing = rules.sign.as_ref().ok_or(Refusal::Outside)?;
        rules.admits(&asked.request)?;
        let headers = token
            .value
            .with_joined(|value| authorize::with_token(signing, value, header, asked, wall));
        let headers = headers.map_err(|_| Refusal::Internal)??;
        token.given.add();
        Ok(headers)
    }

    /// A node's ticket keys, as the reply's payload.
    pub(crate) fn ticket_keys(&self, node: &str) -> Result<LockedBytes, Refusal> {
        self.with_chain(|chain| chain.reply(node, clock::now()))?
            .map_err(|_| Refusal::Internal)
    }

    /// The session in a ticket of another node.
    pub(crate) fn open_ticket(&self, ticket: &SealedTicket<'_>) -> Result<LockedBytes, Refusal> {
        let opened = self.with_chain(|chain| chain.open(ticket, clock::now()))?;
        let session = opened.map_err(|_| Refusal::Ticket)?;
        self.foreign_tickets.add();
        Ok(session)
    }

    /// The chain that the configuration in force names, or the random one.
    fn with_chain<R>(&self, work: impl FnOnce(&mut Chain) -> R) -> Result<R, Refusal> {
        let state = self.read();
        let secrets = state.secrets.as_ref().ok_or(Refusal::Locked)?;
        let named = state.current.as_ref().and_then(|current| current.tickets);
        match named.and_then(|id| secrets.by_id(id)?.as_tickets()) {
            Some(chain) => Ok(work(
                &mut chain.lock().unwrap_or_else(PoisonError::into_inner),
            )),
            None => {
                let mut chain = self.tickets();
                chain.as_mut().map(work).ok_or(Refusal::Locked)
            }
        }
    }

    /// A certificate request (PEM) for a key's sealed names.
    pub(crate) fn request_certificate(&self, name: &str) -> Result<String, Fault> {
        if is_hardware_name(name) {
            let message = format!("key {name} is in hardware: guard has no part in its requests");
            return Err(Fault::new(FaultKind::Key, message)
                .hint("ask the hardware itself: unlatch hsm csr, unlatch tpm csr"));
        }
        let state = self.read();
        let secrets = state.secrets.as_ref().ok_or_else(locked)?;
        let held = secrets
            .by_name(name)
            .and_then(|(_, secret)| secret.as_key())
            .ok_or_else(|| {
                Fault::new(
                    FaultKind::Key,
                    format!("no private key named {name:?} in the sealed file"),
                )
            })?;
        let not_sealed = |what: &str| {
            Fault::new(FaultKind::Rules, format!("key {name:?} was sealed {what}"))
                .hint("seal the key again with --names and the role csr")
        };
        let rules: &KeyUse = held
            .rules
            .as_ref()
            .ok_or_else(|| not_sealed("without rules"))?;
        if !rules.has_role(KeyRole::Csr) {
            return Err(not_sealed("without the role csr"));
        }
        let names: Vec<&str> = rules.names.iter().flatten().map(String::as_str).collect();
        if names.is_empty() {
            return Err(not_sealed("without names"));
        }
        let wrong_name = |_| not_sealed("for names that a certificate cannot carry");
        let info = csr::info(&names, held.key.spki()).map_err(wrong_name)?;
        let signature = held
            .key
            .sign(held.key.request_method(), &info)
            .map_err(|error| internal(&error))?;
        held.signatures.add();
        self.signatures.add();
        csr::assemble(&info, held.key.algorithm(), &signature).map_err(wrong_name)
    }

    /// Wipe every secret and forget the configuration.
    pub(crate) fn forget(&self) {
        *self.write() = State::default();
        *self.tickets() = None;
    }

    /// New parts for everything that is held; past ticket epochs are wiped.
    pub(crate) fn reshare(&self) -> io::Result<()> {
        let now = clock::now();
        if let Some(chain) = self.tickets().as_mut() {
            chain.advance(now)?;
        }
        for (_, secret) in self.read().secrets.iter().flat_map(Secrets::iter) {
            if let Some(chain) = secret.as_tickets() {
                let mut chain = chain.lock().unwrap_or_else(PoisonError::into_inner);
                chain.advance(now)?;
            }
        }
        self.store.reshare()
    }

    /// Count a refusal.
    pub(crate) fn count(&self, refusal: Refusal) {
        if let Some(counter) = self.refused.get(usize::from(refusal.code()) - 1) {
            counter.add();
        }
    }

    // A panic while a lock is held ends the process (panic = "abort"), so a poisoned lock is not met in a release.

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn choices(&self) -> MutexGuard<'_, Choices> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, Option<Chain>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An inject route of the newest configuration that has it, and its secret.
    fn route(&self, route: u16) -> Result<(&InForce, &Secret, &InjectRule), Refusal> {
        let secrets = self.secrets.as_ref().ok_or(Refusal::Locked)?;
        let mut found = self
            .configurations()
            .filter_map(|one| Some((one, one.routes.get(&route)?)));
        let (configuration, (id, rule)) = found.next().ok_or(Refusal::Unknown)?;
        let secret = secrets.by_id(*id).ok_or(Refusal::Unknown)?;
        Ok((configuration, secret, rule))
    }

    /// The newest first.
    fn configurations(&self) -> impl Iterator<Item = &InForce> {
        self.current.iter().chain(&self.previous)
    }
}

fn locked() -> Fault {
    Fault::new(FaultKind::State, "no secrets are held").hint("unlock first")
}

fn internal(error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultKind::Internal, format!("guard failed: {error}"))
}
