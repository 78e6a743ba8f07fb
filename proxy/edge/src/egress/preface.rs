//! What edge says of a request before the request: which token, for whom (docs/protocol.md section 3).

use unlatch_protocol::datagram::Reader;
use unlatch_protocol::{Caller, Malformed};

const VERSION: u8 = 1;
/// Longest preface: 64 names of a certificate fit.
const MAX_BYTES: usize = 20 * 1024;

/// A preface, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Preface {
    pub(crate) route: u16,
    pub(crate) caller: Caller,
}

/// Read the preface at the front of `buffer`, and its length; nothing while it is not complete.
///
/// # Errors
/// Another version, a wrong length, or a caller that does not parse.
pub(crate) fn take(buffer: &[u8]) -> Result<Option<(Preface, usize)>, Malformed> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed)?;
    if length > MAX_BYTES {
        return Err(Malformed);
    }
    let Some(bytes) = rest.get(..length) else {
        return Ok(None);
    };
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Malformed);
    }
    let preface = Preface {
        route: reader.u16()?,
        caller: Caller::decode(&mut reader)?,
    };
    reader.end()?;
    Ok(Some((preface, 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(version: u8) -> Vec<u8> {
        let mut body = vec![version, 0, 7];
        Caller::from_address("10.0.0.1".parse().unwrap())
            .encode(&mut body)
            .unwrap();
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat()
    }

    #[test]
    fn whole_preface_is_read_and_a_part_is_waited_for() {
        let bytes = encoded(1);
        for length in 0..bytes.len() {
            assert_eq!(Ok(None), take(&bytes[..length]));
        }
        let (preface, used) = take(&[&bytes[..], b"GET"].concat()).unwrap().unwrap();

        assert_eq!((7, bytes.len()), (preface.route, used));
        assert_eq!(
            Caller::from_address("10.0.0.1".parse().unwrap()),
            preface.caller
        );
    }

    #[test]
    fn other_versions_and_lengths_are_refused() {
        let mut surplus = encoded(1);
        surplus.push(0);
        surplus[3] += 1;

        assert_eq!(Err(Malformed), take(&encoded(2)));
        assert_eq!(Err(Malformed), take(&surplus));
        assert_eq!(Err(Malformed), take(&[0, 1, 0, 0]));
        assert_eq!(Err(Malformed), take(&[0, 0, 0, 0]));
    }
}
