//! Building what edge serves from its configuration.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use crate::certificates::{Certificates, Fallback, Offered};
use crate::config::{self, Config};
use crate::error::StartError;
use crate::guard::Guard;
use crate::health::Health;
use crate::http::routes::Pattern;
use crate::identity::{ClientCas, read_certificates};
use crate::shared::{Live, RoleLive};
use crate::signer::{GuardKey, KeyKind, Part};
use crate::tickets::{Policy, TicketKeys, Ticketer};

/// What only edge has.
pub(crate) struct EdgeLive {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Vec<Route>,
}

/// One address that speaks TLS.
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) tls: Arc<ServerConfig>,
    /// A key of its certificates signs slowly.
    pub(crate) has_slow_key: bool,
    /// Set where clients must show certificates.
    pub(crate) client_cas: Option<ClientCas>,
}

/// Where requests of a pattern go.
pub(crate) struct Route {
    pub(crate) pattern: Pattern,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) upstream: String,
    /// Positions in [`Live::servers`].
    pub(crate) servers: Vec<usize>,
    pub(crate) inject: Option<Injected>,
}

/// A route whose requests go to egress.
pub(crate) struct Injected {
    pub(crate) id: u16,
    /// Fields that clients cannot set, in lower case.
    pub(crate) placeholders: Vec<String>,
}

impl From<&config::Inject> for Injected {
    fn from(inject: &config::Inject) -> Self {
        Self {
            id: inject.id,
            placeholders: placeholders(inject.header.as_deref(), &inject.others),
        }
    }
}

/// The field of the secret and further ones, in lower case.
pub(crate) fn placeholders(header: Option<&str>, others: &[String]) -> Vec<String> {
    let names = header.into_iter().chain(others.iter().map(String::as_str));
    names.map(str::to_ascii_lowercase).collect()
}

/// Check the configuration and build everything from it; nothing is in force before it is published.
pub(crate) fn build_edge(
    config: &Config,
    generation: u64,
    guard: &Arc<Guard>,
    tickets: &Arc<TicketKeys>,
) -> Result<Live, StartError> {
    let mut servers = Vec::new();
    let routes = config
        .routes
        .iter()
        .map(|route| build_route(route, config, &mut servers))
        .collect::<Result<_, _>>()?;
    let listeners = config
        .listeners
        .iter()
        .map(|listener| build_listener(listener, guard, tickets, config.tickets))
        .collect::<Result<Vec<_>, _>>()?;
    if listeners.is_empty() {
        return Err(StartError::Config("no listener".to_owned()));
    }
    Ok(Live {
        generation,
        timeouts: config.timeouts_ms,
        limits: config.limits,
        servers,
        access_log: config.access_log != config::AccessLog::Switch(false),
        slow_keys: config.slow_keys().len(),
        role: RoleLive::Edge(EdgeLive { listeners, routes }),
    })
}

fn build_route(
    route: &config::Route,
    config: &Config,
    servers: &mut Vec<String>,
) -> Result<Route, StartError> {
    let upstream = config
        .upstreams
        .get(&route.upstream)
        .ok_or_else(|| StartError::Config(format!("no upstream is named {}", route.upstream)))?;
    if route.inject.is_none() && upstream.tls.is_some() {
        let message = format!(
            "upstream {} speaks TLS; edge reaches such ones through egress only",
            route.upstream
        );
        return Err(StartError::Config(message));
    }
    let positions = match route.inject {
        Some(_) => Vec::new(),
        None => upstream
            .servers
            .iter()
            .map(|server| place_of(server, servers))
            .collect(),
    };
    Ok(Route {
        pattern: Pattern::new(
            route.listener.as_deref(),
            route.host.as_deref(),
            route.path.as_deref(),
        ),
        strip_prefix: route.strip_prefix.clone(),
        upstream: route.upstream.clone(),
        servers: positions,
        inject: route.inject.as_ref().map(Injected::from),
    })
}

/// Position of `server` in the table, at its end if it is new.
pub(crate) fn place_of(server: &str, servers: &mut Vec<String>) -> usize {
    servers
        .iter()
        .position(|known| known == server)
        .unwrap_or_else(|| {
            servers.push(server.to_owned());
            servers.len() - 1
        })
}

fn build_listener(
    listener: &config::Listener,
    guard: &Arc<Guard>,
    tickets: &Arc<TicketKeys>,
    policy: config::Tickets,
) -> Result<Listener, StartError> {
    let place = format!("listener {}", listener.name);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (verifier, client_cas) = build_verifier(listener, &provider)?;
    let certificates = build_certificates(listener, guard, &place)?;
    let names = certificates.names();
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::certificate(&place, error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Without this rustls fills a session cache beside the tickets. One ticket instead of two is 4 µs cheaper.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 1;
    tls.ticketer = Arc::new(Ticketer::new(
        Arc::clone(tickets),
        policy.into(),
        &names,
        listener.client_ca.as_deref(),
    ));
    Ok(Listener {
        name: listener.name.clone(),
        tls: Arc::new(tls),
        has_slow_key: listener
            .certificates
            .iter()
            .any(|certificate| certificate.slow),
        client_cas,
    })
}

impl From<config::Tickets> for Policy {
    fn from(tickets: config::Tickets) -> Self {
        Self {
            seconds: tickets.seconds,
            is_fleet: tickets.fleet,
        }
    }
}

/// Who may connect: everybody, or who has a certificate of `client_ca`.
fn build_verifier(
    listener: &config::Listener,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Option<ClientCas>), StartError> {
    let Some(pem) = &listener.client_ca else {
        return Ok((WebPkiClientVerifier::no_client_auth(), None));
    };
    let place = format!("listener {}, client_ca", listener.name);
    let certificates = read_certificates(pem, &place)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(trust(&certificates, &place)?),
        Arc::clone(provider),
    )
    .build()
    .map_err(|error| StartError::certificate(&place, error))?;
    Ok((verifier, Some(ClientCas::new(&certificates, &place)?)))
}

/// A root store of exactly these certificates.
pub(crate) fn trust(
    certificates: &[rustls::pki_types::CertificateDer<'static>],
    place: &str,
) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(|error| StartError::certificate(place, error))?;
    }
    Ok(roots)
}

fn kind_of(algorithm: &str, place: &str) -> Result<KeyKind, StartError> {
    KeyKind::parse(algorithm)
        .ok_or_else(|| StartError::certificate(place, format!("unknown algorithm {algorithm}")))
}

fn build_fallback(
    wanted: &config::Fallback,
    guard: &Arc<Guard>,
    health: Arc<Health>,
    place: &str,
) -> Result<Fallback, StartError> {
    let place = format!("{place}, fallback");
    let chain = read_certificates(&wanted.chain, &place)?;
    let kind = kind_of(&wanted.algorithm, &place)?;
    let key = GuardKey::new(Arc::clone(guard), wanted.key, kind, false)
        .with_part(Part::StandIn(Arc::clone(&health)));
    let key = Arc::new(CertifiedKey::new(chain, Arc::new(key)));
    Ok(Fallback { key, kind, health })
}

fn build_certificates(
    listener: &config::Listener,
    guard: &Arc<Guard>,
    place: &str,
) -> Result<Certificates, StartError> {
    let mut entries = Vec::new();
    for (number, certificate) in listener.certificates.iter().enumerate() {
        let place = format!("{place}, certificate {number}");
        let chain = read_certificates(&certificate.chain, &place)?;
        let kind = kind_of(&certificate.algorithm, &place)?;
        let leaf = chain
            .first()
            .ok_or_else(|| StartError::certificate(&place, "no leaf"))?;
        let leaf = EndEntityCert::try_from(leaf)
            .map_err(|error| StartError::certificate(&place, error))?;
        let names = leaf.valid_dns_names().map(str::to_owned).collect();
        let mut key = GuardKey::new(Arc::clone(guard), certificate.key, kind, certificate.slow);
        let mut fallback = None;
        if let Some(wanted) = &certificate.fallback {
            let health = guard.health(certificate.key);
            key = key.with_part(Part::Hardware(Arc::clone(&health)));
            fallback = Some(build_fallback(wanted, guard, health, &place)?);
        }
        entries.push(Offered {
            key: Arc::new(CertifiedKey::new(chain, Arc::new(key))),
            kind,
            names,
            fallback,
        });
    }
    if entries.is_empty() {
        return Err(StartError::certificate(place, "no certificate"));
    }
    Ok(Certificates::new(entries))
}
