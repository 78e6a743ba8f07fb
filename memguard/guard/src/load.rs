//! The stream from unlock: sealed file and content key in, one line out. A thread of its own, so that nobody waits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::json;
use unlatch_locked::LockedBytes;
use unlatch_protocol::control::{Fault, FaultKind, Loaded};

use crate::thread::{self, Planned};
use crate::vault::Vault;
use crate::wire;

/// Largest sealed file.
const MAX_FILE_BYTES: usize = 1 << 20;
/// Unlock has everything at hand when it opens the stream.
const AT_MOST: Duration = Duration::from_secs(10);
const CONTENT_KEY_BYTES: usize = 32;

/// Told when a load ended.
type Answer = Box<dyn FnOnce(Result<Loaded, Fault>) + Send>;

/// Hands streams to the loading thread.
pub(crate) struct Loader(SyncSender<(OwnedFd, Answer)>);

impl Loader {
    /// The loader and its thread.
    pub(crate) fn plan(vault: &Arc<Vault>) -> (Self, Planned) {
        // One load may wait behind the one under way.
        let (sender, jobs) = sync_channel(1);
        let vault = Arc::clone(vault);
        (
            Self(sender),
            thread::plan("load", move || run(&vault, &jobs)),
        )
    }

    /// Load from a stream. The answer comes from the loading thread; gives `false` when one waits already.
    pub(crate) fn load(&self, stream: OwnedFd, answer: Answer) -> bool {
        self.0.try_send((stream, answer)).is_ok()
    }
}

fn run(vault: &Vault, jobs: &Receiver<(OwnedFd, Answer)>) {
    for (stream, answer) in jobs {
        let result = receive(&stream).and_then(|(file, key)| vault.open(&file, key));
        let line = match &result {
            Ok(_) => json!({"ok": true}).to_string(),
            Err(fault) => serde_json::to_string(fault).unwrap_or_default(),
        };
        // Unlock may be gone; the supervisor is told either way.
        let _ = wire::send_all(&stream, format!("{line}\n").as_bytes());
        drop(stream);
        answer(result);
    }
}

/// u32 count (1) ‖ u32 length ‖ 32 bytes content key ‖ sealed file. The key goes straight into locked pages.
fn receive(stream: &OwnedFd) -> Result<(Vec<u8>, LockedBytes), Fault> {
    let deadline = Instant::now() + AT_MOST;
    let broken = |error: io::Error| {
        Fault::new(
            FaultKind::Payload,
            format!("the stream from unlock broke off: {error}"),
        )
        .hint("unlock again")
    };
    let mut sizes = [0; 8];
    wire::receive_exact(stream, &mut sizes, deadline).map_err(broken)?;
    let [a, b, c, d, e, f, g, h] = sizes;
    let (count, length) = (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    );
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if count != 1 || !(1..=MAX_FILE_BYTES).contains(&length) {
        return Err(Fault::new(
            FaultKind::Payload,
            "expected one sealed file of at most 1 MiB",
        ));
    }
    let mut key = LockedBytes::zeroed(CONTENT_KEY_BYTES).map_err(|error| {
        Fault::new(FaultKind::Internal, error.to_string()).hint("raise LimitMEMLOCK of the service")
    })?;
    wire::receive_exact(stream, key.expose_mut(), deadline).map_err(broken)?;
    let mut file = vec![0; length];
    wire::receive_exact(stream, &mut file, deadline).map_err(broken)?;
    Ok((file, key))
}
