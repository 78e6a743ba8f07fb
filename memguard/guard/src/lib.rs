//! Guard: holds the secrets of one proxy, signs its handshakes, and talks to nobody but its parents' sockets.
//!
//! * `context`, `scheme`, `configure` – what decides: what may be signed, by which key, within which sealed rules.
//! * `vault`, `secrets`, `store`, `key`, `crypto`, `tickets` – what is held, and how it is used.
//! * `control`, `peer`, `worker`, `load`, `wire` – who may ask, and over what. The protocol is docs/protocol.md section 1.
//! * `confine`, `system` – what the process gives up. [`harness`] – the same without sockets, for fuzzing.

mod configure;
mod confine;
mod context;
mod control;
mod crypto;
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
mod store;
mod system;
mod tickets;
mod vault;
mod wire;
mod worker;

use std::error::Error;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};

use serde_json::json;

use control::Control;
use load::Loader;
use memory::Protection;
use store::{Root, Store};
use vault::Vault;
use worker::Pool;

const USAGE: &str =
    "unlatch: error: guard is started by unlatch serve, with --control-fd N or --self-test";

/// The whole program.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--self-test"] => self_test(),
        ["--control-fd", number] => match number.parse() {
            Ok(descriptor) => serve(descriptor),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match result {
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
fn serve(descriptor: RawFd) -> Result<(), Box<dyn Error>> {
    let socket = Arc::new(system::adopt_only(descriptor)?);
    let hardening = unlatch_locked::harden_process()?;
    let secret_memory = unlatch_locked::prefer_secret_memory();
    let all_locked = unlatch_locked::lock_all_memory()?;
    system::prepare()?;
    let store = Store::new(Root::new()?);
    let protection = Protection {
        secret_memory,
        keyring: store.has_keyring(),
        all_locked,
        not_dumpable: hardening.not_dumpable,
    };
    let vault = Arc::new(Vault::new(store));
    // A thread's first steps need calls that the filter answers otherwise: every thread must be past them.
    let ready = Arc::new(Barrier::new(worker::THREADS + 2));
    let (pool, loader) = (Pool::start(&vault, &ready)?, Loader::start(&vault, &ready)?);
    ready.wait();
    confine::confine()?;
    log::event("ready", json!({"memory": protection.describe()}));
    let control = Control {
        socket,
        vault,
        pool,
        loader,
        protection,
    };
    let ended = control.run();
    control.vault.forget();
    log::event("ended", json!({}));
    Ok(ended?)
}

fn self_test() -> Result<(), Box<dyn Error>> {
    unlatch_locked::harden_process()?;
    unlatch_locked::prefer_secret_memory();
    unlatch_locked::lock_all_memory()?;
    system::prepare()?;
    let store = Store::new(Root::new()?);
    let cases = self_test::cases()?;
    confine::confine()?;
    self_test::run(&store, cases)?;
    println!(
        "{}",
        json!({"ok": true, "version": env!("CARGO_PKG_VERSION")})
    );
    Ok(())
}
