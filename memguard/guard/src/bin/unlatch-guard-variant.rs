//! Guard with misbehaviour that tests ask for by the environment. Built with the feature `test-variant` only.

use std::process::ExitCode;

use unlatch_locked::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::always();

fn main() -> ExitCode {
    unlatch_guard::main()
}
