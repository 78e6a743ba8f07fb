//! Upstreams that need a token: always TLS, always a verified name.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};

use rustls::client::{ResolvesClientCert, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};

use crate::config::{ClientCertificate, UpstreamTls};
use crate::deadlines::Deadline;
use crate::dial::{self, before};
use crate::error::StartError;
use crate::guard::Guard;
use crate::identity::read_certificates;
use crate::live::{place_of, trust};
use crate::pool::Conn;
use crate::signer::{GuardKey, KeyKind};
use crate::tls_stream::{Broken, TlsStream};
use crate::transfer::Failure;

/// How one upstream is verified.
pub(crate) struct Verification {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// Tells pools of differently verified upstreams apart.
    label: String,
}

/// One server of an upstream.
pub(crate) struct Target {
    /// Position of its pool.
    pub(crate) server: usize,
    /// `https://name:port`, as guard knows it.
    pub(crate) origin: String,
    /// What the upstream sees as Host.
    pub(crate) host: String,
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// The trust that `tls` asks for.
pub(crate) fn client_config(
    tls: &UpstreamTls,
    guard: &Arc<Guard>,
    place: &str,
) -> Result<Verification, StartError> {
    let roots = match &tls.ca {
        Some(pem) => trust(&read_certificates(pem, place)?, place)?,
        None => system_roots(place)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Guard signs as a client for TLS 1.3 only: what a TLS 1.2 client signs says nothing of what it is.
    let versions: &[&SupportedProtocolVersion] = match tls.client {
        Some(_) => &[&rustls::version::TLS13],
        None => rustls::DEFAULT_VERSIONS,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| StartError::certificate(place, error))?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        Some(client) => {
            let identity = Identity(certified(client, guard, place)?);
            config.with_client_cert_resolver(Arc::new(identity))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(tls.name.clone())
        .map_err(|error| StartError::certificate(place, error))?;
    let shown = tls.client.as_ref().map_or("", |client| &client.chain);
    let told = format!("{}\0{shown}", tls.ca.as_deref().unwrap_or("system"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, told.as_bytes());
    Ok(Verification {
        name,
        config: Arc::new(config),
        label: format!("{} {digest:?}", tls.name),
    })
}

/// The one certificate that is shown to whoever asks for one.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Without a scheme in common the upstream says no to a client without certificate.
        self.0.key.choose_scheme(offered)?;
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(
    client: &ClientCertificate,
    guard: &Arc<Guard>,
    place: &str,
) -> Result<Arc<CertifiedKey>, StartError> {
    let place = format!("{place}, client certificate");
    let chain = read_certificates(&client.chain, &place)?;
    let unknown = || format!("unknown algorithm {}", client.algorithm);
    let kind = KeyKind::parse(&client.algorithm)
        .ok_or_else(|| StartError::certificate(&place, unknown()))?;
    let key = GuardKey::new(Arc::clone(guard), client.key, kind, false);
    Ok(Arc::new(CertifiedKey::new(chain, Arc::new(key))))
}

/// The system's store as it was at the first call: later the process can read no file.
pub(crate) fn load_system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

fn system_roots(place: &str) -> Result<rustls::RootCertStore, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    // Certificates that this rustls cannot use are left out, as every TLS client does.
    roots.add_parsable_certificates(load_system_roots().iter().cloned());
    if roots.is_empty() {
        Err(StartError::certificate(
            place,
            "the system's store holds no certificate",
        ))
    } else {
        Ok(roots)
    }
}

impl Target {
    /// A server `host:port` of this upstream; notes its pool in `servers`.
    pub(crate) fn new(
        upstream: &str,
        address: &str,
        how: &Verification,
        servers: &mut Vec<String>,
    ) -> Result<Self, StartError> {
        let port = address.rsplit_once(':').map(|(_, port)| port);
        let port: u16 = port.and_then(|port| port.parse().ok()).ok_or_else(|| {
            StartError::Config(format!("upstream {upstream}: {address} has no port"))
        })?;
        let name = match &how.name {
            ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => {
                format!("[{}]", how.name.to_str())
            }
            name => name.to_str().into_owned(),
        };
        Ok(Self {
            server: place_of(&format!("{address} {}", how.label), servers),
            origin: format!("https://{name}:{port}"),
            host: if port == 443 {
                name
            } else {
                format!("{name}:{port}")
            },
            address: address.to_owned(),
            name: how.name.clone(),
            config: Arc::clone(&how.config),
        })
    }

    /// A new connection whose peer proved its name.
    pub(crate) async fn connect(
        &self,
        deadline: &Deadline,
        milliseconds: u64,
    ) -> Result<Conn, Failure> {
        let io = dial::server(&self.address, deadline, milliseconds).await?;
        let tls = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|_| Failure::Connect)?;
        let mut stream = Box::new(TlsStream::new(io, tls));
        match before(deadline, shake_hands(&mut stream)).await {
            None => Err(Failure::ConnectLate),
            Some(Err(Broken)) => Err(Failure::Untrusted),
            Some(Ok(())) => Ok(Conn::Tls(stream)),
        }
    }
}

async fn shake_hands(stream: &mut TlsStream<UnbufferedClientConnection>) -> Result<(), Broken> {
    stream.begin()?;
    while stream.is_handshaking() {
        if !stream.is_flushed() {
            poll_fn(|cx| stream.poll_flush(cx)).await?;
        }
        poll_fn(|cx| stream.poll_fill(cx)).await?;
        if stream.has_ended() {
            return Err(Broken);
        }
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}
