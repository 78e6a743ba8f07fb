//! `unlatch-guard --control-fd N` serves until the control socket ends; `unlatch-guard --self-test` signs once with
//! every kind of key under the filter and ends.

use std::process::ExitCode;

use unlatch_locked::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::always();

fn main() -> ExitCode {
    unlatch_guard::main()
}
