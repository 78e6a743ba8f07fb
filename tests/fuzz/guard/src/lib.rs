//! What the targets share: the bundle and the configuration that seeds are written for.

use std::sync::LazyLock;

use unlatch_guard::harness::Harness;
use unlatch_protocol::Datagram;
use unlatch_protocol::message::operation;

/// A bundle with a key of each kind and two tokens, made by `corpus.py`; so is the configuration.
pub static GUARD: LazyLock<Harness> = LazyLock::new(|| {
    let read = |name: &str| {
        let folder = std::env::var_os("SITE").expect("SITE names the folder that corpus.py filled");
        std::fs::read(std::path::Path::new(&folder).join(name)).expect("the site is complete")
    };
    let guard = Harness::load(&read("bundle")).expect("the bundle loads");
    let configuration = read("configuration");
    let configure = Datagram {
        operation: operation::CONFIGURE,
        key: 0,
        request_id: 0,
        payload: &configuration,
    };
    guard
        .control(&configure.encode())
        .expect("the configuration lies within the rules");
    guard
});
