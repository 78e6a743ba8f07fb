//! One step of TLS's state machine: what rustls's unbuffered API wants done with received bytes.
//!
//! rustls hands back what the caller must do next; three rules keep its state machine right:
//! every `EncodeTlsData` is encoded (dropping it loses the chunk); after a deframed Finished the next record of the
//! same read comes as `ReadTraffic` before `WriteTraffic`; ALPN and version are read after the handshake.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CommonState, Error};

use crate::tls_stream::Broken;

/// One of the two ends of TLS. rustls has the same methods for both, but no trait.
pub(crate) trait Side {
    type Data;
    /// Received plaintext may hold a token: every buffer is wiped.
    const WIPES: bool;
    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const WIPES: bool = false;

    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const WIPES: bool = true;

    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// How far a step came.
#[derive(Default)]
pub(crate) struct Progress {
    /// Received bytes that it used up.
    pub(crate) used: usize,
    /// Bytes to send.
    pub(crate) written: usize,
    /// The peer said good-bye.
    pub(crate) ended: bool,
}

/// Why it came no further.
pub(crate) enum Fault {
    /// The peer is to be told.
    Tls(Error),
    Broken,
}

impl From<Broken> for Fault {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// Run TLS over received bytes until it wants more.
pub(crate) fn step<S: Side>(
    tls: &mut S,
    received: &mut [u8],
    sealed: &mut [u8],
    inbox: &mut Vec<u8>,
    progress: &mut Progress,
) -> Result<(), Fault> {
    loop {
        let UnbufferedStatus { discard, state, .. } = tls.process(&mut received[progress.used..]);
        let mut is_done = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                progress.written += data
                    .encode(&mut sealed[progress.written..])
                    .map_err(|_| Broken)?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    inbox.extend_from_slice(record.map_err(|_| Broken)?.payload);
                }
            }
            Ok(ConnectionState::PeerClosed) => progress.ended = true,
            Ok(ConnectionState::Closed) => {
                progress.ended = true;
                is_done = true;
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                is_done = true
            }
            // Early data is not enabled.
            Ok(_) => return Err(Fault::Broken),
            Err(error) => return Err(Fault::Tls(error)),
        }
        progress.used += discard;
        if is_done {
            return Ok(());
        }
    }
}
