//! The part of unlatch that talks to the internet: TLS in, HTTP out; no key and no token of its own.
//!
//! One program, two roles. **edge** terminates TLS with signatures from guard and proxies to plain upstreams. **egress**
//! has no listener: it takes requests from edge over an inherited socket, asks guard for a token, writes it into the
//! request and sends that over verified TLS.
//!
//! * [`http`] – HTTP/1.1 as a pure library: heads, chunks, routes, what goes on to whom.
//! * `session`, `tls_stream`, `tls_step`, `exchange`, `transfer` – one client, its TLS, one of its requests, the bytes of that.
//! * [`harness`] – doors for fuzzing.
//! * `slow`, `handshake` – signatures that take long, off the workers.
//! * `guard`, `signer`, `tickets`, `certificates`, `identity` – what of TLS needs secrets or decides about trust.
//! * `confine` – what the process gives up.
//! * `run`, `control`, `serve`, `worker`, `shared`, `live` – the process, its supervisor, its threads.

mod accesslog;
#[cfg(feature = "bench-key")]
mod bench_key;
mod buffers;
mod certificates;
mod config;
mod confine;
mod control;
mod counters;
mod credential;
mod deadlines;
mod dial;
mod download;
mod downstream;
mod echo;
mod egress;
mod error;
mod exchange;
mod guard;
mod handshake;
pub mod harness;
mod health;
pub mod http;
mod identity;
mod latency;
mod live;
mod plan;
mod pool;
mod reply;
mod run;
mod serve;
mod session;
mod shared;
mod signer;
mod slow;
mod sys;
mod tickets;
mod tls_step;
mod tls_stream;
mod transfer;
mod upload;
mod worker;

use std::process::ExitCode;

/// The whole program. `start_wiping` is called in the role that meets tokens, before it meets one.
pub fn main(start_wiping: impl FnOnce()) -> ExitCode {
    match run::run(std::env::args().skip(1), start_wiping) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unlatch-edge: error: {error}");
            ExitCode::from(21)
        }
    }
}
