//! `unlatch-edge --role edge|egress --config-fd N --control-fd M [--user UID:GID]`, started by the supervisor only.

use std::process::ExitCode;

use unlatch_locked::WipingAllocator;

/// Only egress meets secrets that pass through ordinary memory; for edge wiping stays off.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::idle();

fn main() -> ExitCode {
    unlatch_edge::main(|| ALLOCATOR.start())
}
