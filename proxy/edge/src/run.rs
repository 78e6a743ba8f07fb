//! From the command line to running workers.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use unlatch_locked::User;

use crate::accesslog::{LogSink, LogWriter};
use crate::config::{AccessLog, Config, Role};
use crate::confine;
use crate::control::{Builder, Control};
use crate::egress;
use crate::error::StartError;
use crate::guard::Guard;
use crate::serve;
use crate::shared::Shared;
use crate::slow::SlowSigner;
use crate::sys;
use crate::tickets::TicketKeys;

const STDERR: RawFd = 2;

/// What the command line says.
struct Arguments {
    role: Role,
    config: RawFd,
    control: RawFd,
    user: Option<User>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, StartError> {
        let (mut role, mut config, mut control, mut user) = (None, None, None, None);
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or(StartError::Usage("an argument has no value"))?;
            let number = || {
                value
                    .parse()
                    .map_err(|_| StartError::Usage("a descriptor is not a number"))
            };
            match word.as_str() {
                "--role" if value == "edge" => role = Some(Role::Edge),
                "--role" if value == "egress" => role = Some(Role::Egress),
                "--config-fd" => config = Some(number()?),
                "--control-fd" => control = Some(number()?),
                "--user" => {
                    user = Some(
                        User::parse(&value).ok_or(StartError::Usage("a user is not UID:GID"))?,
                    );
                }
                _ => return Err(StartError::Usage("unknown argument")),
            }
        }
        match (role, config, control) {
            (Some(role), Some(config), Some(control)) => Ok(Self {
                role,
                config,
                control,
                user,
            }),
            _ => Err(StartError::Usage("an argument is missing")),
        }
    }
}

/// Run the program to its end. `start_wiping` makes the allocator overwrite what it frees.
///
/// # Errors
/// Something is wrong with what the supervisor passed; nothing was served.
pub(crate) fn run(
    words: impl Iterator<Item = String>,
    start_wiping: impl FnOnce(),
) -> Result<(), StartError> {
    let arguments = Arguments::parse(words)?;
    #[cfg(feature = "bench-key")]
    crate::bench_key::load()?;
    if arguments.role == Role::Egress {
        start_wiping();
        // Reloads cannot read it any more.
        egress::load_system_roots();
    }
    if let Some(user) = arguments.user {
        user.assume()?;
    }
    unlatch_locked::harden_process()?;
    let terminate = sys::catch_terminate()?;
    let control = sys::inherit(arguments.control)?;
    let config = Config::read(sys::inherit(arguments.config)?)?;
    if config.role != arguments.role {
        return Err(StartError::Config(
            "the configuration is for the other role".to_owned(),
        ));
    }
    let guard_sockets = config
        .guard
        .iter()
        .chain(&config.guard_slow)
        .map(|fd| sys::inherit(*fd))
        .collect::<io::Result<Vec<_>>>()?;
    let guard = Arc::new(Guard::new(
        config.workers,
        config.guard_slow.len(),
        guard_sockets,
    )?);
    let builder = Builder {
        role: config.role,
        tickets: Arc::new(TicketKeys::new(Arc::clone(&guard), &config.node)),
        listeners: config
            .listeners
            .iter()
            .map(|listener| (listener.name.clone(), listener.sockets.clone()))
            .collect(),
        slow: config.guard_slow.len(),
    };
    let live = builder.build(&config, 1, &guard)?;
    let peer = config
        .egress
        .or(config.edge)
        .map(sys::inherit)
        .transpose()?;
    // Threads come after it, and inherit it.
    confine::confine()?;
    let (log, writer) = open_log(&config)?;
    let slow = SlowSigner::start(&guard, config.guard_slow.len(), config.workers)?;
    let shared = Shared::new(config.workers, guard, slow, live, peer, log.clone())?;
    let shared = Arc::new(shared);
    let ended = Arc::new(sys::bell()?);
    let workers = start_workers(&config, &shared, &ended)?;
    Control {
        socket: control,
        terminate,
        ended,
        shared,
        builder,
    }
    .run(workers)?;
    log.finish(&writer);
    Ok(())
}

/// Rings when a worker ends, in whatever way.
struct EndBell(Arc<OwnedFd>);

impl Drop for EndBell {
    fn drop(&mut self) {
        sys::ring(self.0.as_fd());
    }
}

fn open_log(config: &Config) -> io::Result<(LogSink, LogWriter)> {
    let file = match config.access_log {
        // A log that is switched off may be switched on by a reload.
        AccessLog::Switch(_) => sys::duplicate(STDERR)?,
        AccessLog::Descriptor(fd) => sys::inherit(fd)?,
    };
    LogSink::start(file)
}

fn start_workers(
    config: &Config,
    shared: &Arc<Shared>,
    ended: &Arc<OwnedFd>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut workers = Vec::new();
    for index in 0..config.workers {
        let own = |listener: &crate::config::Listener| listener.sockets.get(index).copied();
        let numbers = config.listeners.iter().filter_map(own);
        let sockets = numbers.map(sys::inherit).collect::<io::Result<Vec<_>>>()?;
        let (shared, ended, role) = (Arc::clone(shared), Arc::clone(ended), config.role);
        let body = move || {
            let _bell = EndBell(ended);
            let result = match role {
                Role::Edge => {
                    serve::run(shared, index, |worker| serve::accept_all(worker, sockets))
                }
                Role::Egress => serve::run(shared, index, egress::accept_all),
            };
            if let Err(error) = result {
                // A worker that cannot start leaves a process that cannot serve: the supervisor starts another.
                eprintln!("unlatch-edge: worker {index}: {error}");
                std::process::exit(1);
            }
        };
        workers.push(
            std::thread::Builder::new()
                .name(format!("worker {index}"))
                .spawn(body)?,
        );
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_in_any_order_and_none_may_miss() {
        let parse = |line: &str| Arguments::parse(line.split(' ').map(str::to_owned));
        let arguments = parse("--control-fd 4 --role egress --config-fd 3").unwrap();

        assert_eq!(
            (Role::Egress, 3, 4),
            (arguments.role, arguments.config, arguments.control)
        );
        for line in [
            "--role edge --config-fd 3",
            "--role x --config-fd 3 --control-fd 4",
            "--role",
            "--role edge --config-fd a --control-fd 4",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
