//! Guard's threads: all are started at once, on stacks in secret memory where there is enough of it.
//!
//! The standard library cannot start a thread on a stack that it is given, so this goes one layer deeper.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::sync::{Arc, Barrier};

use unlatch_locked::LockedStack;

use crate::crypto;

/// Room for aws-lc's largest RSA key, for a configuration's JSON, and for the stack that `store` wipes; measured by the
/// test below. Small, because the limit of locked memory counts all of it: 40 threads take 6.25 MiB of the usual 8.
const STACK_BYTES: usize = 160 * 1024;

/// A thread that was not started yet.
pub(crate) struct Planned {
    name: &'static str,
    work: Box<dyn FnOnce() + Send>,
}

/// A thread.
pub(crate) fn plan(name: &'static str, work: impl FnOnce() + Send + 'static) -> Planned {
    let work = Box::new(work);
    Planned { name, work }
}

/// Where stacks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stacks {
    Secret,
    Ordinary,
}

/// Start all of them. Every one waits until all run, and this returns when they do: a thread's first steps need system
/// calls that the filter takes away.
pub(crate) fn start(planned: Vec<Planned>, want: Stacks) -> io::Result<Stacks> {
    let ready = Arc::new(Barrier::new(planned.len() + 1));
    let stacks = match want {
        Stacks::Secret => planned
            .iter()
            .map(|_| LockedStack::map(STACK_BYTES))
            .collect(),
        Stacks::Ordinary => Err(io::ErrorKind::Unsupported.into()),
    };
    let found = match stacks {
        Ok(stacks) => {
            let stacks: Vec<LockedStack> = stacks;
            for (thread, stack) in planned.into_iter().zip(stacks) {
                start_on(stack.leak(), waiting(thread, &ready))?;
            }
            Stacks::Secret
        }
        Err(_) => {
            for thread in planned {
                let work = waiting(thread, &ready);
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn(work)?;
            }
            Stacks::Ordinary
        }
    };
    ready.wait();
    Ok(found)
}

type Work = Box<dyn FnOnce() + Send>;

fn waiting(thread: Planned, ready: &Arc<Barrier>) -> Work {
    let ready = Arc::clone(ready);
    Box::new(move || {
        set_name(thread.name);
        crypto::prepare_thread();
        ready.wait();
        (thread.work)();
    })
}

/// For ps and debuggers; at most 15 characters are kept.
fn set_name(name: &str) {
    let mut text = [0_u8; 16];
    for (place, byte) in text.iter_mut().zip(name.bytes().take(15)) {
        *place = byte;
    }
    // SAFETY: reads at most 16 bytes, of which the last is zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, text.as_ptr(), 0, 0, 0) };
}

/// Lowest address and length of a stack.
type Stack = (*mut u8, usize);

fn start_on((start, len): Stack, work: Work) -> io::Result<()> {
    let work = Box::into_raw(Box::new(work));
    // SAFETY: `attributes` is initialised first, and destroyed last; the stack is mapped for ever and no other thread's;
    // `work` is taken over by the new thread, or taken back if there is none.
    let result = unsafe {
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        let mut thread = std::mem::zeroed::<libc::pthread_t>();
        let mut result = libc::pthread_attr_init(&raw mut attributes);
        if result == 0 {
            result = libc::pthread_attr_setstack(&raw mut attributes, start.cast(), len);
        }
        if result == 0 {
            result = libc::pthread_create(&raw mut thread, &raw const attributes, run, work.cast());
        }
        libc::pthread_attr_destroy(&raw mut attributes);
        if result != 0 {
            drop(Box::from_raw(work));
        }
        result
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // SAFETY: `start_on` gave this pointer away to this thread alone.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    work();
    std::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature as sg;
    use unlatch_locked::LockedBytes;

    use super::*;
    use crate::key::{RsaMode, SigningKey};
    use crate::store::{Root, Store, with_wiped_stack};

    /// Bytes of stack that a thread used for some work.
    fn used(work: impl FnOnce() + Send + 'static) -> usize {
        const PAINT: u8 = 0xa5;
        let (start, len) = LockedStack::map(1024 * 1024).unwrap().leak();
        // SAFETY: just mapped, and nobody else's yet.
        unsafe { std::ptr::write_bytes(start, PAINT, len) };
        let (sender, done) = channel::<()>();
        let work = Box::new(move || {
            work();
            drop(sender);
        });
        start_on((start, len), work).unwrap();
        assert!(done.recv().is_err());
        // SAFETY: mapped for ever; what the ending thread still writes lies at the other end.
        let stack = unsafe { std::slice::from_raw_parts(start, len) };
        len - stack.iter().take_while(|byte| **byte == PAINT).count()
    }

    fn keys() -> Vec<LockedBytes> {
        let ec = |algorithm| {
            let pair = sg::EcdsaKeyPair::generate(algorithm).unwrap();
            pair.to_pkcs8v1().unwrap().as_ref().to_vec()
        };
        let rsa = |size| {
            KeyPair::generate(size)
                .unwrap()
                .as_der()
                .unwrap()
                .as_ref()
                .to_vec()
        };
        let ed25519 = sg::Ed25519KeyPair::generate().unwrap();
        let found = [
            ec(&sg::ECDSA_P256_SHA256_ASN1_SIGNING),
            ec(&sg::ECDSA_P384_SHA384_ASN1_SIGNING),
            ec(&sg::ECDSA_P521_SHA512_ASN1_SIGNING),
            ed25519.to_pkcs8().unwrap().as_ref().to_vec(),
            rsa(KeySize::Rsa2048),
            rsa(KeySize::Rsa4096),
        ];
        found
            .iter()
            .map(|pkcs8| LockedBytes::copy_from(pkcs8).unwrap())
            .collect()
    }

    /// The deepest call tree of guard fits twice, and what `store` wipes reaches below every signature.
    #[test]
    fn stacks_are_large_enough_and_wiped_deep_enough() {
        let store = Store::new(Root::in_pages().unwrap());
        let wiped = used(|| with_wiped_stack(|| ()));
        for pkcs8 in keys() {
            for mode in [RsaMode::Joined, RsaMode::NeverJoined] {
                let (store, pkcs8) = (
                    store.clone(),
                    LockedBytes::copy_from(pkcs8.expose()).unwrap(),
                );
                let (sender, keys) = channel();
                let read = used(move || {
                    let key = SigningKey::read(&store, &pkcs8, mode).unwrap();
                    sender.send(key).unwrap();
                });
                let key = keys.recv().unwrap();
                let sign = used(move || {
                    key.sign(key.request_method(), &[7; 200]).unwrap();
                });

                for used in [read, sign] {
                    assert!(used < STACK_BYTES / 2, "{used}");
                    // Were a frame below the wiped ones, it would show here.
                    assert!(used < wiped + 1536, "{used} {wiped}");
                }
            }
        }
    }

    #[test]
    fn threads_run_on_either_kind_of_stack() {
        for want in [Stacks::Secret, Stacks::Ordinary] {
            let (sender, results) = channel();
            let planned = (0..5_u32)
                .map(|number| {
                    let sender = sender.clone();
                    plan("test", move || sender.send(number).unwrap())
                })
                .collect();

            assert_eq!(start(planned, want).unwrap(), want);
            drop(sender);
            let mut results: Vec<_> = results.iter().collect();
            results.sort_unstable();
            assert_eq!(results, [0, 1, 2, 3, 4]);
        }
    }
}
