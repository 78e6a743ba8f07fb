//! The signing step of a handshake, run again from its first byte where waiting is allowed.

use std::sync::Arc;

use rustls::Error;
use rustls::server::{ServerConfig, UnbufferedServerConnection};

use crate::buffers;
use crate::guard::GuardError;
use crate::slow::guard_error;
use crate::tls_step::{Fault, Progress, step};

/// A client that sends more before its handshake is over is none: 64 KiB of hello and of certificates each.
const MOST_RECEIVED: usize = 160 * 1024;

/// What was received and sent so far, kept where a slow key may be asked.
#[derive(Default)]
pub(crate) struct Record {
    received: Vec<u8>,
    sent: usize,
    /// The key that is to sign next.
    key: Option<u16>,
}

/// A handshake that waits for a signature.
pub(crate) struct Unsigned {
    pub(crate) key: u16,
    /// Everything that the client sent.
    pub(crate) received: Vec<u8>,
    /// How much of what TLS says next the client has already: a request for another hello.
    pub(crate) sent: usize,
}

/// A connection after the signing step.
pub(crate) struct Outcome {
    /// Nothing where none could be made.
    pub(crate) tls: Option<Box<UnbufferedServerConnection>>,
    /// To send.
    pub(crate) output: Vec<u8>,
    /// The front of a record that is not complete.
    pub(crate) partial: Vec<u8>,
    pub(crate) error: Option<Error>,
}

impl Outcome {
    /// Why guard gave no signature, if that is why it failed.
    pub(crate) fn guard_error(&self) -> Option<GuardError> {
        self.error.as_ref().and_then(guard_error)
    }
}

impl Record {
    /// Keep what came; false if it is too much.
    pub(crate) fn note_received(&mut self, bytes: &[u8]) -> bool {
        self.received.extend_from_slice(bytes);
        self.received.len() <= MOST_RECEIVED
    }

    pub(crate) fn note_sent(&mut self, length: usize) {
        self.sent += length;
    }

    pub(crate) fn wait_for(&mut self, key: u16) {
        self.key = Some(key);
    }

    pub(crate) fn is_unsigned(&self) -> bool {
        self.key.is_some()
    }

    /// What a thread needs, if a signature is wanted.
    pub(crate) fn into_unsigned(self) -> Option<Unsigned> {
        let Self {
            received,
            sent,
            key,
        } = self;
        key.map(|key| Unsigned {
            key,
            received,
            sent,
        })
    }
}

/// Run a fresh connection over everything that the client sent; signatures may take their time.
pub(crate) fn replay(config: Arc<ServerConfig>, unsigned: &Unsigned) -> Outcome {
    let (mut received, sent) = (unsigned.received.clone(), unsigned.sent);
    let failed = |tls, error| Outcome {
        tls,
        output: Vec::new(),
        partial: Vec::new(),
        error: Some(error),
    };
    let mut tls = match UnbufferedServerConnection::new(config) {
        Ok(tls) => Box::new(tls),
        Err(error) => return failed(None, error),
    };
    let (mut progress, mut inbox) = (Progress::default(), Vec::new());
    buffers::with_sealed(|sealed| {
        let result = step(
            tls.as_mut(),
            &mut received,
            sealed,
            &mut inbox,
            &mut progress,
        );
        match result {
            Err(Fault::Tls(error)) => return failed(Some(tls), error),
            Err(Fault::Broken) => return failed(Some(tls), unexpected()),
            Ok(()) => {}
        }
        // The same bytes and configuration have the same answer up to the signature; plaintext comes after it.
        let (Some(output), true) = (sealed.get(sent..progress.written), inbox.is_empty()) else {
            return failed(Some(tls), unexpected());
        };
        Outcome {
            output: output.to_vec(),
            tls: Some(tls),
            partial: received.split_off(progress.used),
            error: None,
        }
    })
}

fn unexpected() -> Error {
    Error::Other(rustls::OtherError(Arc::new(GuardError::Confused)))
}
