//! Guard: holds the secrets of one proxy, signs its handshakes, and talks to nobody but its parents' sockets.
//!
//! * `context`, `scheme`, `configure` – what decides: what may be signed, by which key, within which sealed rules.
//! * `vault`, `secrets`, `store`, `key`, `crypto`, `tickets` – what is held, and how it is used.
//! * `custodian`, `spki` – keys in hardware, and who has them.
//! * `control`, `peer`, `worker`, `load`, `wire` – who may ask, and over what. The protocol is docs/protocol.md section 1.
//! * `confine`, `system` – what the process gives up. [`harness`] – the same without sockets, for fuzzing.

mod authorize;
mod choices;
mod clock;
mod configure;
mod confine;
mod context;
mod control;
mod crypto;
mod custodian;
pub mod harness;
mod key;
mod load;
mod log;
mod memory;
mod peer;
mod random;
mod rate;
mod scheme;
mod secrets;
mod self_test;
mod spki;
mod store;
mod system;
mod thread;
mod tickets;
#[cfg(feature = "test-variant")]
mod variant;
mod vault;
mod wire;
mod worker;

use std::error::Error;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;

use serde_json::json;
use unlatch_locked::User;

use control::Control;
use load::Loader;
use memory::Protection;
use store::{Root, Store};
use thread::Stacks;
use vault::Vault;
use worker::Pool;

const USAGE: &str = "unlatch: error: guard is started by unlatch serve, with --control-fd N [--user UID:GID] or --self-test";

/// The whole program.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--self-test"] => self_test(),
        ["--control-fd", number] => match number.parse() {
            Ok(descriptor) => serve(descriptor, None),
            Err(_) => return usage(),
        },
        ["--control-fd", number, "--user", user] => match (number.parse(), User::parse(user)) {
            (Ok(descriptor), Some(user)) => serve(descriptor, Some(user)),
            _ => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::event("failed", json!({"message": error.to_string()}));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Until the control socket ends. Whatever goes wrong at start ends guard before it holds a secret.
fn serve(descriptor: RawFd, user: Option<User>) -> Result<(), Box<dyn Error>> {
    let socket = Arc::new(system::adopt_only(descriptor)?);
    let (store, mut protection) = prepare(user)?;
    let vault = Arc::new(Vault::new(store));
    let (pool, mut threads) = Pool::plan(&vault);
    let (loader, loading) = Loader::plan(&vault);
    threads.push(loading);
    let hardware = Arc::clone(&vault);
    threads.push(thread::plan("custodians", move || {
        custodian::run(&hardware)
    }));
    // Certificate requests are signed there: it needs a stack like the others'.
    let (controls, control) = channel::<Control>();
    let (ended, end) = channel();
    threads.push(thread::plan("control", move || {
        if let Ok(control) = control.recv() {
            // Nobody waits any more only when the process ends.
            let _ = ended.send(control.run());
        }
    }));
    protection.stacks = thread::start(threads, protection.stacks)?;
    confine::confine()?;
    log::event("ready", json!({"memory": protection.describe()}));
    let control = Control {
        socket,
        vault: Arc::clone(&vault),
        pool,
        loader,
        protection,
    };
    controls.send(control)?;
    let ended = end.recv()?;
    vault.forget();
    log::event("ended", json!({}));
    Ok(ended?)
}

/// Give up what guard does not need, in the order in which each step is still possible, and make the store.
fn prepare(user: Option<User>) -> Result<(Store, Protection), Box<dyn Error>> {
    if let Some(user) = user {
        system::unlimit_locked_memory();
        user.assume()?;
    }
    let secret_memory = unlatch_locked::prefer_secret_memory();
    let all_locked = unlatch_locked::lock_all_memory()?;
    // After the change of user, which makes a process dumpable again on some systems.
    let hardening = unlatch_locked::harden_process()?;
    #[cfg(feature = "test-variant")]
    variant::after_hardening()?;
    crypto::use_locked_heap()?;
    system::prepare()?;
    let store = Store::new(Root::new()?);
    let protection = Protection {
        secret_memory,
        stacks: if secret_memory {
            Stacks::Secret
        } else {
            Stacks::Ordinary
        },
        keyring: store.has_keyring(),
        all_locked,
        landlock: confine::landlock()?,
        own_user: user.is_some(),
        not_dumpable: hardening.not_dumpable,
    };
    Ok((store, protection))
}

fn self_test() -> Result<(), Box<dyn Error>> {
    let (store, protection) = prepare(None)?;
    let cases = self_test::cases()?;
    confine::confine()?;
    self_test::run(&store, cases)?;
    let version = env!("CARGO_PKG_VERSION");
    println!(
        "{}",
        json!({"ok": true, "version": version, "memory": protection.describe()})
    );
    Ok(())
}
