//! Who a client is, for the rules of a token: what its certificate, verified once more, says.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use unlatch_protocol::caller::MAX_NAMES;
use unlatch_protocol::{CallerCertificate, Digest};
use webpki::{EndEntityCert, KeyUsage};

use crate::error::StartError;

/// The client CAs of a listener.
pub(crate) struct ClientCas {
    anchors: Vec<TrustAnchor<'static>>,
}

impl ClientCas {
    /// From the certificates of a `client_ca`.
    pub(crate) fn new(
        certificates: &[CertificateDer<'_>],
        place: &str,
    ) -> Result<Self, StartError> {
        let anchor = |certificate| {
            webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned())
        };
        let anchors = certificates.iter().map(anchor).collect::<Result<_, _>>();
        Ok(Self {
            anchors: anchors.map_err(|error| StartError::certificate(place, error))?,
        })
    }

    /// The caller behind a chain that the handshake verified; `None` when it does not hold (any more).
    pub(crate) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<CallerCertificate> {
        let (leaf, intermediates) = chain.split_first()?;
        let leaf = EndEntityCert::try_from(leaf).ok()?;
        let usage = KeyUsage::client_auth();
        let path = leaf
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .ok()?;
        let names = leaf.valid_dns_names().chain(leaf.valid_uri_names());
        Some(CallerCertificate {
            ca: spki_digest(path.anchor()),
            names: names.take(MAX_NAMES).map(str::to_owned).collect(),
        })
    }
}

/// SHA-256 of the anchor's SubjectPublicKeyInfo; webpki keeps it without its outer tag and length.
fn spki_digest(anchor: &TrustAnchor<'_>) -> Digest {
    let content = anchor.subject_public_key_info.as_ref();
    let mut der = vec![0x30];
    match content.len() {
        length @ 0..=0x7f => der.extend(u8::try_from(length)),
        length => {
            let bytes = (length as u64).to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            der.extend(u8::try_from(0x80 | bytes.len()));
            der.extend_from_slice(bytes);
        }
    }
    der.extend_from_slice(content);
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref());
    Digest(digest)
}

/// Every certificate of a PEM text, at least one.
pub(crate) fn read_certificates(
    pem: &str,
    place: &str,
) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| StartError::certificate(place, error))?;
    if certificates.is_empty() {
        Err(StartError::certificate(
            place,
            "no certificate in the PEM text",
        ))
    } else {
        Ok(certificates)
    }
}
