//! The JSON that the supervisor hands over in a memfd (docs/protocol.md section 2).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::os::fd::{OwnedFd, RawFd};

use serde::Deserialize;

use crate::error::StartError;

/// A configuration larger than this is not one.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Guard serves 36 sockets in all.
const MOST_SLOW: usize = 32;

/// Which half of the program this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Talks to the internet.
    Edge,
    /// Puts tokens into requests.
    Egress,
}

/// Everything that one role is told.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    pub(crate) role: Role,
    #[serde(default = "one")]
    pub(crate) workers: usize,
    /// Guard's sockets, one per worker.
    #[serde(default)]
    pub(crate) guard: Vec<RawFd>,
    /// Edge: more of guard's sockets, one per thread for slow keys.
    #[serde(default)]
    pub(crate) guard_slow: Vec<RawFd>,
    /// Edge: the socket to egress.
    #[serde(default)]
    pub(crate) egress: Option<RawFd>,
    /// Egress: the socket to edge.
    #[serde(default)]
    pub(crate) edge: Option<RawFd>,
    #[serde(default)]
    pub(crate) listeners: Vec<Listener>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    pub(crate) upstreams: BTreeMap<String, Upstream>,
    #[serde(default)]
    pub(crate) timeouts_ms: Timeouts,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) access_log: AccessLog,
    /// Edge: who it is, as guard derives ticket keys for it.
    #[serde(default)]
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) tickets: Tickets,
}

/// How sessions are resumed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tickets {
    /// Length of guard's ticket epoch.
    pub(crate) seconds: u32,
    /// Guard opens tickets of other nodes.
    pub(crate) fleet: bool,
}

impl Default for Tickets {
    fn default() -> Self {
        Self {
            seconds: 3600,
            fleet: false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// The address as configured; routes and log lines name it.
    pub(crate) name: String,
    /// Listening sockets, one per worker.
    pub(crate) sockets: Vec<RawFd>,
    pub(crate) certificates: Vec<Certificate>,
    /// PEM: clients must show a certificate that chains to one of these.
    pub(crate) client_ca: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    /// PEM, leaf first.
    pub(crate) chain: String,
    /// Guard's number of the key.
    pub(crate) key: u16,
    pub(crate) algorithm: String,
    /// Its signatures may take long: they are made off the workers.
    #[serde(default)]
    pub(crate) slow: bool,
    /// Signs while a slow key does not.
    #[serde(default)]
    pub(crate) fallback: Option<Fallback>,
}

/// A certificate and key that stand in for a slow one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fallback {
    /// PEM, leaf first.
    pub(crate) chain: String,
    /// Guard's number of the key.
    pub(crate) key: u16,
    pub(crate) algorithm: String,
}

/// A route of edge (`listener` to `inject`) or of egress (`id` to `covers`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) upstream: String,
    #[serde(default)]
    pub(crate) listener: Option<String>,
    #[serde(default)]
    pub(crate) host: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) strip_prefix: Option<String>,
    #[serde(default)]
    pub(crate) inject: Option<Inject>,
    #[serde(default)]
    pub(crate) id: Option<u16>,
    #[serde(default)]
    pub(crate) header: Option<String>,
    #[serde(default)]
    pub(crate) scheme: Option<Scheme>,
    #[serde(default)]
    pub(crate) ask: Ask,
    /// More headers that only egress sets, in lower case.
    #[serde(default)]
    pub(crate) others: Vec<String>,
    #[serde(default)]
    pub(crate) body: Body,
    /// Guard is told every header whose name begins so.
    #[serde(default)]
    pub(crate) covers: Option<String>,
}

/// What edge knows of a token: which one, and which header it must keep clients from setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inject {
    pub(crate) id: u16,
    #[serde(default)]
    pub(crate) header: Option<String>,
    /// More headers that clients cannot set on this route, in lower case.
    #[serde(default)]
    pub(crate) others: Vec<String>,
}

/// What egress asks guard for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// The token.
    #[default]
    Token,
    /// Headers that guard computes.
    Authorize,
    /// Nothing: the certificate that egress shows is all that the upstream wants.
    Nothing,
}

/// What guard must know of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    /// Nothing.
    #[default]
    Unread,
    /// Its digest, if it is no longer than `signed_body_bytes`.
    Small,
    /// Its digest; a longer one is refused.
    Whole,
}

/// How a token is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    /// `Bearer TOKEN`
    Bearer,
    /// The token alone.
    Raw,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    /// `host:port`, taken in turn.
    pub(crate) servers: Vec<String>,
    #[serde(default)]
    pub(crate) tls: Option<UpstreamTls>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamTls {
    /// The name that the certificate must hold.
    pub(crate) name: String,
    /// PEM; null is the system's store.
    pub(crate) ca: Option<String>,
    /// What egress shows.
    #[serde(default)]
    pub(crate) client: Option<ClientCertificate>,
}

/// A certificate whose key guard uses for egress.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientCertificate {
    /// PEM, leaf first.
    pub(crate) chain: String,
    /// Guard's number of the key.
    pub(crate) key: u16,
    pub(crate) algorithm: String,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Timeouts {
    /// From accept to the end of the handshake.
    pub(crate) handshake: u64,
    /// From a request's first byte to the end of its head.
    pub(crate) header: u64,
    /// Between requests.
    pub(crate) idle: u64,
    pub(crate) connect: u64,
    /// From the request's last byte to the response's first.
    pub(crate) response: u64,
    /// Without a byte moved, in either body.
    pub(crate) body: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: 10_000,
            header: 10_000,
            idle: 75_000,
            connect: 5_000,
            response: 60_000,
            body: 60_000,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// Longest request head.
    pub(crate) header_bytes: usize,
    /// Most fields in it.
    pub(crate) headers: usize,
    /// Client connections of the whole process.
    pub(crate) connections: usize,
    /// Most signatures of slow keys at once.
    pub(crate) slow_signatures: usize,
    /// Longest body that egress holds back until its digest is known.
    pub(crate) signed_body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            connections: 10_000,
            slow_signatures: 16,
            signed_body_bytes: 1024 * 1024,
        }
    }
}

/// Where access lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum AccessLog {
    /// Standard error, or nowhere.
    Switch(bool),
    /// An inherited descriptor.
    Descriptor(RawFd),
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::Switch(true)
    }
}

fn one() -> usize {
    1
}

impl Config {
    /// Read a memfd from its first byte and check what every later step relies on.
    pub(crate) fn read(memfd: OwnedFd) -> Result<Self, StartError> {
        let mut file = std::fs::File::from(memfd);
        let mut text = String::new();
        file.rewind()?;
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Self::parse(&text)
    }

    /// Read a JSON text.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        let config: Self = serde_json::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// The keys that sign slowly.
    pub(crate) fn slow_keys(&self) -> BTreeSet<u16> {
        self.listeners
            .iter()
            .flat_map(|listener| &listener.certificates)
            .filter(|certificate| certificate.slow)
            .map(|certificate| certificate.key)
            .collect()
    }

    fn check_slow(&self) -> Result<(), StartError> {
        let wrong = |what: &str| Err(StartError::Config(what.to_owned()));
        if self.guard_slow.len() > MOST_SLOW {
            return wrong("guard_slow has too many sockets");
        }
        if self.guard_slow.is_empty() && !self.slow_keys().is_empty() {
            return wrong("a certificate is slow, but guard_slow has no socket");
        }
        let mut certificates = self.listeners.iter().flat_map(|one| &one.certificates);
        if certificates.any(|one| one.fallback.is_some() && !one.slow) {
            return wrong("a certificate that is not slow has a fallback");
        }
        if self.limits.slow_signatures == 0 {
            return wrong("slow_signatures is 0");
        }
        Ok(())
    }

    fn check(&self) -> Result<(), StartError> {
        self.check_slow()?;
        if self.workers == 0 || self.workers > 64 {
            return Err(StartError::Config(
                "workers is not between 1 and 64".to_owned(),
            ));
        }
        if !self.guard.is_empty() && self.guard.len() != self.workers {
            return Err(StartError::Config(
                "guard has not one socket per worker".to_owned(),
            ));
        }
        for listener in &self.listeners {
            if listener.sockets.len() != self.workers {
                return Err(StartError::Config(format!(
                    "listener {} has not one socket per worker",
                    listener.name
                )));
            }
        }
        for (name, upstream) in &self.upstreams {
            if upstream.servers.is_empty() {
                return Err(StartError::Config(format!("upstream {name} has no server")));
            }
        }
        for route in &self.routes {
            if !self.upstreams.contains_key(&route.upstream) {
                return Err(StartError::Config(format!(
                    "no upstream is named {}",
                    route.upstream
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
