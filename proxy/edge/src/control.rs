//! The supervisor's orders: one JSON object per datagram on the inherited socket (docs/protocol.md section 2).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{Config, Role};
use crate::confine;
use crate::counters;
use crate::egress;
use crate::error::StartError;
use crate::live;
use crate::shared::{Live, Shared};
use crate::sys;
use crate::tickets::TicketKeys;

/// Longest order.
const MAX_ORDER: usize = 4096;
/// How long SIGTERM lets requests take that are under way.
const TERMINATE_MS: u64 = 30_000;
/// How late ticket keys may be wiped when their epoch has passed.
const EXPIRE_MS: i32 = 5_000;
/// How long they may take when the supervisor is gone.
const ORPHAN_MS: u64 = 2_000;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Order {
    /// A memfd with a configuration; more descriptors are guard's new sockets.
    Reload,
    /// Guard's new sockets, one per worker.
    Guard,
    /// A socket to a new egress.
    Egress,
    /// A socket to a new edge.
    Edge,
    Drain {
        seconds: f64,
    },
    Status,
}

/// Whether a datagram is an order, but for its descriptors.
pub(crate) fn is_order(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Order>(bytes).is_ok()
}

/// Whole milliseconds, within an hour.
fn milliseconds(seconds: f64) -> u64 {
    let bounded = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .min(Duration::from_secs(3600));
    u64::try_from(bounded.as_millis()).unwrap_or_default()
}

/// Builds configurations for one role, always from the same parts.
pub(crate) struct Builder {
    pub(crate) role: Role,
    pub(crate) tickets: Arc<TicketKeys>,
    /// Names and sockets of the listeners, fixed at start.
    pub(crate) listeners: Vec<(String, Vec<i32>)>,
    /// Threads for slow keys, fixed at start.
    pub(crate) slow: usize,
}

impl Builder {
    /// Everything that workers need of `config`.
    pub(crate) fn build(
        &self,
        config: &Config,
        generation: u64,
        shared_guard: &Arc<crate::guard::Guard>,
    ) -> Result<Live, StartError> {
        match self.role {
            Role::Edge => live::build_edge(config, generation, shared_guard, &self.tickets),
            Role::Egress => egress::build(config, generation, shared_guard),
        }
    }

    /// A reload may change everything but what was inherited.
    fn check_inherited(&self, config: &Config, workers: usize) -> Result<(), StartError> {
        let same = config
            .listeners
            .iter()
            .map(|listener| (&listener.name, &listener.sockets))
            .eq(self.listeners.iter().map(|(name, sockets)| (name, sockets)));
        let same = same && config.guard_slow.len() == self.slow;
        if config.role != self.role || config.workers != workers || !same {
            return Err(StartError::Config(
                "role, workers, listeners and guard_slow cannot change without a restart"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// The control thread's state.
pub(crate) struct Control {
    pub(crate) socket: OwnedFd,
    pub(crate) terminate: OwnedFd,
    /// Rung once by each worker that ends.
    pub(crate) ended: Arc<OwnedFd>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) builder: Builder,
}

impl Control {
    /// Obey until every worker has ended.
    pub(crate) fn run(mut self, workers: Vec<JoinHandle<()>>) -> std::io::Result<()> {
        self.tell(&json!({"event": "ready"}));
        let mut is_orphan = false;
        let mut ended = 0;
        while ended < workers.len() as u64 {
            // A closed socket stays readable: it is not looked at again.
            let first = if is_orphan {
                self.terminate.as_fd()
            } else {
                self.socket.as_fd()
            };
            let [has_order, has_signal, has_end] = sys::wait_readable(
                [first, self.terminate.as_fd(), self.ended.as_fd()],
                EXPIRE_MS,
            )?;
            self.builder.tickets.expire();
            if has_end {
                ended += sys::silence(self.ended.as_fd());
            }
            if has_signal {
                let mut signal = [0; 128];
                // The only signal there is means the same each time.
                let _ = std::io::Read::read(
                    &mut std::fs::File::from(self.terminate.try_clone()?),
                    &mut signal,
                );
                self.shared.drain(TERMINATE_MS);
            }
            if has_order && !is_orphan {
                is_orphan = self.take_order()?;
            }
        }
        for worker in workers {
            worker
                .join()
                .map_err(|_| std::io::Error::other("a worker panicked"))?;
        }
        self.tell(&json!({"event": "drained"}));
        Ok(())
    }

    /// Gives whether the supervisor is gone.
    fn take_order(&mut self) -> std::io::Result<bool> {
        let mut buffer = [0; MAX_ORDER];
        let (length, descriptors) =
            match sys::receive_with_descriptors(self.socket.as_fd(), &mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    self.refuse("order too long");
                    return Ok(false);
                }
                // A supervisor that died with unread answers resets the socket.
                Err(_) => (0, Vec::new()),
            };
        if length == 0 {
            self.shared.drain(ORPHAN_MS);
            return Ok(true);
        }
        match serde_json::from_slice(buffer.get(..length).unwrap_or_default()) {
            Ok(order) => self.obey(&order, descriptors),
            Err(_) => self.refuse("unknown order"),
        }
        Ok(false)
    }

    fn obey(&mut self, order: &Order, mut descriptors: Vec<OwnedFd>) {
        match order {
            Order::Reload if !descriptors.is_empty() => {
                let guard = descriptors.split_off(1);
                match self.reload(descriptors, guard) {
                    Ok(()) => self.tell(&json!({"event": "reloaded"})),
                    Err(error) => self.refuse(&error.to_string()),
                }
            }
            Order::Guard if descriptors.len() == self.shared.guard_sockets() => {
                match self.replace_guard(descriptors) {
                    Ok(()) => self.tell(&json!({"event": "replaced"})),
                    Err(error) => self.refuse(&error.to_string()),
                }
            }
            Order::Egress | Order::Edge => match (descriptors.pop(), descriptors.pop()) {
                (Some(socket), None) => {
                    self.shared.replace_peer(socket);
                    self.tell(&json!({"event": "replaced"}));
                }
                _ => self.refuse("wants one descriptor"),
            },
            Order::Reload | Order::Guard => self.refuse("wrong number of descriptors"),
            Order::Drain { seconds } => self.shared.drain(milliseconds(*seconds)),
            Order::Status => self.tell(&self.status()),
        }
    }

    fn reload(&mut self, mut memfd: Vec<OwnedFd>, guard: Vec<OwnedFd>) -> Result<(), StartError> {
        let memfd = memfd
            .pop()
            .ok_or_else(|| StartError::Config("no configuration".to_owned()))?;
        if !guard.is_empty() && guard.len() != self.shared.guard_sockets() {
            return Err(StartError::Config(
                "wrong number of guard sockets".to_owned(),
            ));
        }
        let config = Config::read(memfd)?;
        self.builder.check_inherited(&config, self.shared.workers)?;
        let live = self
            .builder
            .build(&config, self.shared.generation() + 1, &self.shared.guard)?;
        if !guard.is_empty() {
            self.replace_guard(guard)?;
        }
        // Another ticket secret may be in force.
        self.builder.tickets.forget();
        self.shared.publish(live);
        Ok(())
    }

    fn replace_guard(&self, sockets: Vec<OwnedFd>) -> Result<(), StartError> {
        self.shared.guard.replace(sockets)?;
        self.builder.tickets.forget();
        Ok(())
    }

    fn status(&self) -> Value {
        let mut status: Map<String, Value> = counters::totals(&self.shared.counters)
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let open = |name: &str| status.get(name).and_then(Value::as_u64).unwrap_or(0);
        let connections = open("connections_accepted").saturating_sub(open("connections_closed"));
        status.insert("event".to_owned(), "status".into());
        status.insert("connections".to_owned(), connections.into());
        status.insert("workers".to_owned(), self.shared.workers.into());
        status.insert("generation".to_owned(), self.shared.generation().into());
        status.insert("keys".to_owned(), self.shared.guard.describe_keys().into());
        status.insert("confined".to_owned(), confine::describe());
        status.insert("slow".to_owned(), self.shared.slow.describe());
        status.insert("draining".to_owned(), self.shared.is_draining().into());
        Value::Object(status)
    }

    fn refuse(&self, message: &str) {
        self.tell(&json!({"event": "refused", "message": message}));
    }

    fn tell(&self, event: &Value) {
        // A supervisor that is gone is noticed when its socket ends.
        let _ = sys::send_datagram(self.socket.as_fd(), event.to_string().as_bytes(), &[]);
    }
}
