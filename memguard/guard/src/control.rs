//! The supervisor's socket: the only place that loads, configures and hands out sockets. Its end is guard's end.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SocketType;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unlatch_protocol::Datagram;
use unlatch_protocol::control::{
    Configuration, CsrRequest, Custodian, Fault, FaultKind, Settings, Worker,
};
use unlatch_protocol::datagram::{HEADER_BYTES, MAX_CONTROL_BYTES};
use unlatch_protocol::message::operation;

use crate::confine;
use crate::custodian;
use crate::load::Loader;
use crate::log;
use crate::memory::Protection;
use crate::peer::Rights;
use crate::vault::Vault;
use crate::wire::{self, Received};
use crate::worker::Pool;

/// How often shares change where the supervisor says nothing.
const RESHARE: Duration = Duration::from_secs(5);
/// How often they may change, in milliseconds: a tenth of a second to an hour.
const RESHARE_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Shorter epochs would change keys for a handful of tickets each, longer ones keep keys for days.
const EPOCH_SECONDS: std::ops::RangeInclusive<u32> = 10..=86_400;
/// How often guard's own counts go to the log: the upper bound of what a taken-over edge had signed.
const COUNTED_EVERY: Duration = Duration::from_secs(3600);
/// Longest name of a node.
const MAX_NODE_BYTES: usize = 255;

/// Everything that control requests act on.
pub(crate) struct Control {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) pool: Pool,
    pub(crate) loader: Loader,
    pub(crate) protection: Protection,
}

/// The timer of shares.
struct Timer {
    every: Duration,
    last: Instant,
    failures: u64,
}

impl Control {
    /// Answer the supervisor until it is gone.
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_CONTROL_BYTES + 1];
        let mut timer = Timer {
            every: RESHARE,
            last: Instant::now(),
            failures: 0,
        };
        let (mut logged, mut trapped) = (json!({}), BTreeMap::new());
        let mut counted = Instant::now();
        loop {
            if wire::wait_readable(&self.socket, timer.left())? {
                let (received, descriptors) =
                    wire::receive_with_descriptors(&self.socket, &mut buffer)?;
                match received {
                    Received::End => return Ok(()),
                    Received::Truncated => self.refuse(
                        0,
                        0,
                        &malformed("message is too long, or carries too many descriptors"),
                    )?,
                    Received::Bytes(length) => {
                        self.answer(&buffer[..length], descriptors, &mut timer)?;
                    }
                }
            }
            if timer.left().is_zero() {
                // Logged and counted there.
                let _ = self.reshare(&mut timer);
                let refusals = self.vault.refusals();
                if refusals != logged {
                    log::event("refusals", json!({"counts": refusals}));
                    logged = refusals;
                }
                if counted.elapsed() >= COUNTED_EVERY {
                    counted = Instant::now();
                    log::event("uses", self.vault.uses());
                }
                let stopped = confine::trapped();
                if stopped != trapped {
                    log::event("system calls stopped", json!({"counts": stopped}));
                    trapped = stopped;
                }
            }
        }
    }

    /// A change that fails leaves the shares as they were; the timer tries again.
    fn reshare(&self, timer: &mut Timer) -> Result<Value, Fault> {
        timer.last = Instant::now();
        self.vault.reshare().map_err(|error| {
            timer.failures += 1;
            let message = format!("shares were not changed: {error}");
            log::event(
                "reshare failed",
                json!({"message": message, "failures": timer.failures}),
            );
            Fault::new(FaultKind::Internal, message)
        })?;
        Ok(json!({"generation": self.vault.store().generation()}))
    }

    fn answer(&self, bytes: &[u8], descriptors: Vec<OwnedFd>, timer: &mut Timer) -> io::Result<()> {
        let Ok(datagram) = Datagram::decode(bytes) else {
            return self.refuse(0, 0, &malformed("not a message of this protocol's version"));
        };
        let (operation, id) = (datagram.operation, datagram.request_id);
        let result = match operation {
            operation::LOAD => match self.load(id, descriptors) {
                Ok(()) => return Ok(()),
                Err(fault) => Err(fault),
            },
            operation::WORKER => self.worker(datagram.payload, descriptors),
            operation::CUSTODIAN => self.custodian(datagram.payload, descriptors),
            operation::STATUS => Ok(self.status(timer)),
            operation::DROP => Ok(self.forget()),
            operation::SETTINGS => self.settings(datagram.payload, timer),
            operation::RESHARE => self.reshare(timer),
            _ => decide(&self.vault, &datagram).map(|done| {
                log::event(done.event, done.facts);
                done.reply
            }),
        };
        match result {
            Ok(reply) => reply_with(&self.socket, operation, id, &reply),
            Err(fault) => self.refuse(operation, id, &fault),
        }
    }

    /// All of it or nothing.
    fn settings(&self, payload: &[u8], timer: &mut Timer) -> Result<Value, Fault> {
        let settings: Settings = parse(payload)?;
        if let Some(every) = settings
            .reshare_ms
            .filter(|every| !RESHARE_MS.contains(every))
        {
            return Err(malformed(&format!(
                "guard.reshare is {every} ms, expected {} to {}",
                RESHARE_MS.start(),
                RESHARE_MS.end()
            )));
        }
        self.protection
            .check(settings.require.as_deref().unwrap_or_default())?;
        let epoch = settings.ticket_epoch_seconds;
        if epoch.is_some_and(|seconds| !EPOCH_SECONDS.contains(&seconds)) {
            return Err(malformed("tickets.epoch is not between 10 s and 24 h"));
        }
        self.vault.choose(settings.never_joined, epoch)?;
        if let Some(every) = settings.reshare_ms {
            timer.every = Duration::from_millis(every);
        }
        Ok(json!({}))
    }

    fn load(&self, id: u32, descriptors: Vec<OwnedFd>) -> Result<(), Fault> {
        let stream = one_socket(descriptors, SocketType::STREAM)?;
        let socket = Arc::clone(&self.socket);
        let vault = Arc::clone(&self.vault);
        let answer = Box::new(move |result: Result<_, Fault>| {
            vault.custodians().wake();
            let sent = match &result {
                Ok(loaded) => {
                    log::event("load", json!({"loaded": loaded}));
                    reply_with(&socket, operation::LOAD, id, loaded)
                }
                Err(fault) => refuse(&socket, operation::LOAD, id, fault),
            };
            if sent.is_err() {
                wire::close_both_ways(&socket);
            }
        });
        if self.loader.load(stream, answer) {
            Ok(())
        } else {
            Err(Fault::new(FaultKind::State, "a load is under way"))
        }
    }

    fn worker(&self, payload: &[u8], descriptors: Vec<OwnedFd>) -> Result<Value, Fault> {
        let rights = rights(&self.vault, payload)?;
        let socket = one_socket(descriptors, SocketType::SEQPACKET)?;
        if self.pool.serve(socket, rights) {
            Ok(json!({}))
        } else {
            Err(Fault::new(FaultKind::State, "every thread serves a socket")
                .hint("close the sockets of ended workers"))
        }
    }

    fn custodian(&self, payload: &[u8], descriptors: Vec<OwnedFd>) -> Result<Value, Fault> {
        let asked: Custodian = parse(payload)?;
        let socket = one_socket(descriptors, SocketType::SEQPACKET)?;
        let facts = json!({"id": asked.id, "hardware": asked.hardware, "keys": asked.keys.len()});
        let late = self.vault.custodians().register(asked, socket)?;
        custodian::deliver(&self.vault, late);
        log::event("custodian taken", facts);
        Ok(json!({}))
    }

    fn status(&self, timer: &Timer) -> Value {
        #[cfg(feature = "test-variant")]
        crate::variant::misbehave();
        let mut status = self.vault.status();
        status["workers"] = json!(self.pool.len());
        status["reshare"] = json!({
            "every_ms": timer.every.as_millis(), "failures": timer.failures,
            "generation": self.vault.store().generation(),
        });
        status["memory"] = self.protection.describe();
        status["trapped_calls"] = json!(confine::trapped());
        status["memory"]["locked_bytes"] = json!(unlatch_locked::locked_bytes_in_use());
        status
    }

    /// New requests find nothing from the first line on; the second ends those under way.
    fn forget(&self) -> Value {
        self.vault.forget();
        let late = self.vault.custodians().close_all();
        custodian::deliver(&self.vault, late);
        self.pool.close_all();
        log::event("drop", json!({}));
        json!({})
    }

    fn refuse(&self, operation: u8, id: u32, fault: &Fault) -> io::Result<()> {
        refuse(&self.socket, operation, id, fault)
    }
}

/// What was done, for the supervisor and for the log.
pub(crate) struct Done {
    pub(crate) reply: Value,
    event: &'static str,
    facts: Value,
}

/// Answer what needs the vault alone.
pub(crate) fn decide(vault: &Vault, datagram: &Datagram<'_>) -> Result<Done, Fault> {
    match datagram.operation {
        operation::CONFIGURE => configure(vault, datagram.payload),
        operation::CSR => csr(vault, datagram.payload),
        _ => Err(malformed("unknown operation")),
    }
}

fn configure(vault: &Vault, payload: &[u8]) -> Result<Done, Fault> {
    let configuration: Configuration = parse(payload)?;
    let (certificates, routes) = (configuration.certificates.len(), configuration.inject.len());
    Ok(Done {
        reply: json!(vault.configure(configuration)?),
        event: "configure",
        facts: json!({"certificates": certificates, "inject": routes}),
    })
}

fn csr(vault: &Vault, payload: &[u8]) -> Result<Done, Fault> {
    let request: CsrRequest = parse(payload)?;
    Ok(Done {
        reply: json!({"pem": vault.request_certificate(&request.key)?}),
        event: "csr",
        facts: json!({"key": request.key}),
    })
}

/// What a worker request asks for, if the keys that it names are there.
pub(crate) fn rights(vault: &Vault, payload: &[u8]) -> Result<Rights, Fault> {
    match parse(payload)? {
        Worker::Edge { node, keys, rate } => {
            if !(1..=MAX_NODE_BYTES).contains(&node.len()) || rate == 0 {
                return Err(malformed(
                    "an edge needs a node of 1 to 255 bytes and a rate of at least 1",
                ));
            }
            let unknown = vault.unknown_keys(keys.as_deref().unwrap_or_default())?;
            if !unknown.is_empty() {
                return Err(Fault::new(
                    FaultKind::Key,
                    format!("no private keys have the numbers {unknown:?}"),
                ));
            }
            Ok(Rights::Edge { node, keys, rate })
        }
        Worker::Egress { rate } => {
            if rate == 0 {
                return Err(malformed("an egress needs a rate of at least 1"));
            }
            vault.unknown_keys(&[])?;
            Ok(Rights::Egress { rate })
        }
    }
}

impl Timer {
    fn left(&self) -> Duration {
        self.every.saturating_sub(self.last.elapsed())
    }
}

fn refuse(socket: &OwnedFd, asked: u8, id: u32, fault: &Fault) -> io::Result<()> {
    log::event("refused", json!({"operation": asked, "fault": fault}));
    let payload = serde_json::to_vec(fault).map_err(io::Error::other)?;
    wire::send(socket, operation::REFUSED, 0, id, &payload)
}

fn reply_with(socket: &OwnedFd, asked: u8, id: u32, reply: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(reply).map_err(io::Error::other)?;
    if payload.len() > MAX_CONTROL_BYTES - HEADER_BYTES {
        return refuse(
            socket,
            asked,
            id,
            &Fault::new(FaultKind::Internal, "answer is too long for one message"),
        );
    }
    wire::send(socket, asked | operation::REPLY, 0, id, &payload)
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(payload).map_err(|error| malformed(&error.to_string()))
}

fn malformed(message: &str) -> Fault {
    Fault::new(FaultKind::Malformed, message)
}

fn one_socket(descriptors: Vec<OwnedFd>, kind: SocketType) -> Result<OwnedFd, Fault> {
    let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| malformed("expected exactly one descriptor"))?;
    if wire::is_unix_socket(&socket, kind) {
        Ok(socket)
    } else {
        Err(malformed(
            "descriptor is not a UNIX socket of the expected type",
        ))
    }
}
