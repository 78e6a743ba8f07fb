//! Who asked edge, as edge verified it.

use std::net::IpAddr;

use crate::datagram::{Malformed, Reader, push_field};
use crate::digest::Digest;

const HAS_CERTIFICATE: u8 = 1;
const HAS_UID: u8 = 2;
/// Most names of a certificate that are passed on; edge passes the first ones.
pub const MAX_NAMES: usize = 64;

/// The peer of a connection. Written as u8 flags ‖ field: address ‖ [certificate] ‖ [u32 uid].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `None` for a UNIX socket.
    pub address: Option<IpAddr>,
    /// The client certificate, verified against the listener's `client_ca`.
    pub certificate: Option<CallerCertificate>,
    /// The peer's uid on a UNIX socket.
    pub uid: Option<u32>,
}

/// What the rules compare of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerCertificate {
    /// SHA-256 of the SubjectPublicKeyInfo of the CA that it chains to.
    pub ca: Digest,
    /// Subject alternative names: DNS names, addresses and URIs as text.
    pub names: Vec<String>,
}

impl Caller {
    /// A caller known by address alone.
    #[must_use]
    pub fn from_address(address: IpAddr) -> Self {
        Self {
            address: Some(address),
            certificate: None,
            uid: None,
        }
    }

    /// Append the caller's bytes.
    ///
    /// # Errors
    /// More than [`MAX_NAMES`] names, or a name over 65535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let certificate = u8::from(self.certificate.is_some()) * HAS_CERTIFICATE;
        out.push(certificate | (u8::from(self.uid.is_some()) * HAS_UID));
        let address = self
            .address
            .map_or_else(String::new, |address| address.to_string());
        push_field(out, address.as_bytes())?;
        if let Some(certificate) = &self.certificate {
            push_field(out, &certificate.ca.0)?;
            if certificate.names.len() > MAX_NAMES {
                return Err(Malformed);
            }
            let count = u16::try_from(certificate.names.len()).map_err(|_| Malformed)?;
            out.extend_from_slice(&count.to_be_bytes());
            for name in &certificate.names {
                push_field(out, name.as_bytes())?;
            }
        }
        if let Some(uid) = self.uid {
            out.extend_from_slice(&uid.to_be_bytes());
        }
        Ok(())
    }

    /// Read a caller; the reader stands behind it afterwards.
    ///
    /// # Errors
    /// Unknown flags, an address in another spelling than ours, a digest of another length, too many names.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let flags = reader.u8()?;
        if flags & !(HAS_CERTIFICATE | HAS_UID) != 0 {
            return Err(Malformed);
        }
        let address = match reader.text()? {
            "" => None,
            text => Some(parse_address(text)?),
        };
        let certificate = if flags & HAS_CERTIFICATE == 0 {
            None
        } else {
            Some(CallerCertificate::decode(reader)?)
        };
        let uid = if flags & HAS_UID == 0 {
            None
        } else {
            Some(reader.u32()?)
        };
        Ok(Self {
            address,
            certificate,
            uid,
        })
    }
}

impl CallerCertificate {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let ca = Digest(reader.field()?.try_into().map_err(|_| Malformed)?);
        let count = usize::from(reader.u16()?);
        if count > MAX_NAMES {
            return Err(Malformed);
        }
        let names = (0..count)
            .map(|_| reader.text().map(str::to_owned))
            .collect::<Result<_, _>>()?;
        Ok(Self { ca, names })
    }
}

/// One spelling for each address, so that what decodes encodes to the same bytes.
fn parse_address(text: &str) -> Result<IpAddr, Malformed> {
    let address: IpAddr = text.parse().map_err(|_| Malformed)?;
    if address.to_string() == text {
        Ok(address)
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn caller_is_laid_out_as_documented() {
        let caller = Caller {
            address: Some("10.2.0.9".parse().unwrap()),
            certificate: Some(CallerCertificate {
                ca: Digest([7; 32]),
                names: vec!["shop".to_owned()],
            }),
            uid: Some(1000),
        };
        let mut out = Vec::new();
        caller.encode(&mut out).unwrap();

        let expected = [
            &[3, 0, 8][..],
            b"10.2.0.9",
            &[0, 32],
            &[7; 32],
            &[0, 1, 0, 4],
            b"shop",
            &[0, 0, 3, 0xe8],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn other_spellings_and_unknown_flags_are_refused() {
        for bad in [
            &b"\x04\0\0"[..],
            b"\0\0\x0b::ffff:1.2.x",
            b"\0\0\x05::0:1",
            b"\x01\0\0\0\x1f",
            b"\x02\0\0\0\0\0",
            b"\0",
        ] {
            assert_eq!(
                Caller::decode(&mut Reader::new(bad)),
                Err(Malformed),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(0_u8..60, 0..80)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(caller) = Caller::decode(&mut reader) {
                let mut again = Vec::new();
                caller.encode(&mut again).unwrap();
                prop_assert_eq!(&again, &bytes[..bytes.len() - reader.rest().len()]);
            }
        }

        #[test]
        fn encoded_callers_decode(
            address in proptest::option::of(any::<IpAddr>()),
            uid in proptest::option::of(any::<u32>()),
            names in proptest::option::of(proptest::collection::vec("[a-z.]{0,20}", 0..5)),
        ) {
            let certificate = names.map(|names| CallerCertificate { ca: Digest([1; 32]), names });
            let caller = Caller { address, certificate, uid };
            let mut out = Vec::new();
            caller.encode(&mut out).unwrap();
            prop_assert_eq!(Caller::decode(&mut Reader::new(&out)), Ok(caller));
        }
    }
}
