//! Keys in hardware: guard's side of its custodians (docs/protocol.md section 13).
//!
//! Workers' questions go to a custodian as they come; one thread reads what the custodians say and sends each answer to
//! whom it belongs. Nobody waits for hardware but those who asked it.
//!
//! Rule 1: a key signs only while its public half is that of the certificate it was configured with.
//! Rule 2: a PIN goes only to the hardware that it was sealed for, and one that was refused is never sent again.
//! Rule 3: what a custodian says is bounded; what is no message ends its socket.

mod question;
mod run;
mod slot;
mod told;
mod verify;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use unlatch_protocol::Refusal;
use unlatch_protocol::control::{self, Fault, FaultKind};
use unlatch_protocol::rules::is_hardware;

use crate::spki;
use question::Answer;
use slot::{Known, News, PinFate, Slot};
use told::State;
use verify::Proof;

pub(crate) use question::Client;
pub(crate) use run::{deliver, run};
pub(crate) use verify::Admitted;

/// The first number of a key in hardware; sealed keys have lower ones.
pub(crate) const FIRST_NUMBER: u16 = 0x8000;
/// Custodians at once.
const MAX_CUSTODIANS: u8 = 16;
/// Keys of one.
const MAX_KEYS: usize = 256;
/// How often a PIN is sent without an answer: whether the hardware counted a wrong one is not known then.
const MAX_UNANSWERED: u8 = 2;
/// How long configure waits for keys, and status for counters.
const KEYS_WITHIN: Duration = Duration::from_secs(5);
const COUNTERS_WITHIN: Duration = Duration::from_millis(200);

/// All custodians.
pub(crate) struct Custodians {
    desk: Mutex<Desk>,
    changed: Condvar,
    /// Wakes the thread that reads; without one it looks a few times a second.
    wake: Option<OwnedFd>,
}

#[derive(Default)]
struct Desk {
    slots: BTreeMap<u8, Slot>,
    /// Numbers and counters by name; they stay, whatever becomes of custodians.
    names: BTreeMap<String, Named>,
    pins: HashMap<(String, u16), Tries>,
}

struct Named {
    number: u16,
    signatures: u64,
    /// Those that its public half did not verify.
    wrong: u64,
}

/// What became of a PIN, by hardware and generation.
#[derive(Default)]
struct Tries {
    is_refused: bool,
    unanswered: u8,
}

/// A key as configure sees it.
pub(crate) struct Found {
    pub(crate) number: u16,
    pub(crate) spki: Option<Vec<u8>>,
    /// Why there is none.
    pub(crate) reason: String,
}

/// Whether a configuration's key is one in hardware.
pub(crate) fn is_hardware_name(name: &str) -> bool {
    name.contains(':')
}

impl Custodians {
    pub(crate) fn new() -> Self {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Self {
            desk: Mutex::default(),
            changed: Condvar::new(),
            wake: eventfd(0, flags).ok(),
        }
    }

    /// Take a custodian's socket. One that has its number already is replaced.
    pub(crate) fn register(
        &self,
        asked: control::Custodian,
        socket: OwnedFd,
    ) -> Result<Vec<Late>, Fault> {
        check(&asked)?;
        let mut desk = self.lock();
        let others = desk.slots.iter().filter(|(id, _)| **id != asked.id);
        let taken: BTreeSet<&str> = others
            .flat_map(|(_, slot)| slot.keys.iter().map(|key| key.name.as_str()))
            .collect();
        if let Some(key) = asked.keys.iter().find(|key| taken.contains(&*key.name)) {
            let message = format!("another custodian has the key {:?}", key.name);
            return Err(Fault::new(FaultKind::Malformed, message));
        }
        let numbers = asked.keys.iter().map(|key| desk.number(&key.name));
        let numbers: Option<Vec<u16>> = numbers.collect();
        let Some(numbers) = numbers else {
            let message = "no numbers are left for keys in hardware";
            return Err(Fault::new(FaultKind::State, message).hint("restart"));
        };
        let id = asked.id;
        let old = desk.slots.insert(id, Slot::new(asked, &numbers, socket));
        let late = old.map(|mut old| old.lose(State::Lost, "replaced"));
        drop(desk);
        self.wake();
        Ok(late.unwrap_or_default().into_iter().map(Late).collect())
    }

    /// Whether a key in hardware has this number.
    pub(crate) fn has_number(&self, number: u16) -> bool {
        let desk = self.lock();
        desk.names.values().any(|named| named.number == number)
    }

    /// Have a custodian sign; the answer goes to the client when it comes.
    pub(crate) fn sign(
        &self,
        number: u16,
        admitted: Admitted,
        message: &[u8],
        client: Client,
    ) -> Result<(), Refusal> {
        let mut desk = self.lock();
        let mut slots = desk.slots.values_mut();
        let slot = slots
            .find(|slot| slot.keys.iter().any(|key| key.number == number))
            .ok_or(Refusal::HardwareUnreachable)?;
        let message = message.to_vec();
        slot.sign(number, Proof { admitted, message }, client)
    }

    /// Have the keys of these names looked up again, and tell what they are now. Waits for hardware for a while.
    pub(crate) fn look_up(&self, names: &BTreeSet<&str>) -> HashMap<String, Found> {
        let mut desk = self.lock();
        let is_named = |slot: &Slot| slot.keys.iter().any(|key| names.contains(&*key.name));
        for slot in desk.slots.values_mut().filter(|slot| is_named(slot)) {
            if slot.known == Known::Yes {
                slot.known = Known::No;
            }
        }
        self.wake();
        let wait = |desk: &mut Desk| {
            let mut slots = desk.slots.values().filter(|slot| is_named(slot));
            !slots.all(Slot::is_settled)
        };
        let desk = self.wait_while(desk, KEYS_WITHIN, wait);
        let named = desk.slots.values().flat_map(|slot| {
            let keys = slot.keys.iter().filter(|key| names.contains(&*key.name));
            keys.map(move |key| (slot, key))
        });
        named
            .map(|(slot, key)| {
                let reason = key.missing.clone();
                let found = Found {
                    number: key.number,
                    spki: key.found.clone(),
                    reason: reason.unwrap_or_else(|| slot.condition()),
                };
                (key.name.clone(), found)
            })
            .collect()
    }

    /// End every custodian: hardware that was opened by a PIN is closed again.
    pub(crate) fn close_all(&self) -> Vec<Late> {
        let mut desk = self.lock();
        let slots = desk.slots.values_mut();
        let late = slots.flat_map(|slot| slot.lose(State::Lost, "secrets were dropped"));
        let late = late.map(Late).collect();
        self.wake();
        late
    }

    /// State of every custodian. Waits a moment for their counters.
    pub(crate) fn status(&self) -> Value {
        let mut desk = self.lock();
        desk.slots.values_mut().for_each(Slot::ask_status);
        let wait = |desk: &mut Desk| desk.slots.values().any(|slot| !slot.is_status_fresh);
        let desk = self.wait_while(desk, COUNTERS_WITHIN, wait);
        let slots = desk.slots.iter().map(|(id, slot)| {
            let keys = slot.keys.iter().map(|key| {
                let named = desk.names.get(&key.name);
                let algorithm = key.found.as_deref().and_then(spki::kind);
                json!({"name": key.name, "id": key.number, "algorithm": algorithm.map(|(_, name)| name),
                    "missing": key.missing,
                    "signatures": named.map_or(0, |named| named.signatures),
                    "wrong": named.map_or(0, |named| named.wrong),
                    "p50_ms": key.times.p50_ms, "p99_ms": key.times.p99_ms})
            });
            json!({"id": id, "hardware": slot.hardware, "state": slot.state, "reason": slot.reason,
                "keys": keys.collect::<Vec<_>>()})
        });
        slots.collect()
    }

    /// Signatures by name.
    pub(crate) fn uses(&self) -> Vec<(String, u64)> {
        let desk = self.lock();
        let names = desk.names.iter();
        names
            .map(|(name, named)| (name.clone(), named.signatures))
            .collect()
    }

    /// Secrets came or went: a custodian may wait for its PIN.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // It is full only when it was written already.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(
        &self,
        desk: MutexGuard<'a, Desk>,
        at_most: Duration,
        condition: impl FnMut(&mut Desk) -> bool,
    ) -> MutexGuard<'a, Desk> {
        let waited = self.changed.wait_timeout_while(desk, at_most, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// An answer that has to be sent, outside every lock.
pub(crate) struct Late(Answer);

impl Desk {
    /// The number of a name, the same for ever.
    fn number(&mut self, name: &str) -> Option<u16> {
        if let Some(named) = self.names.get(name) {
            return Some(named.number);
        }
        let number = FIRST_NUMBER.checked_add(u16::try_from(self.names.len()).ok()?)?;
        let named = Named {
            number,
            signatures: 0,
            wrong: 0,
        };
        self.names.insert(name.to_owned(), named);
        Some(number)
    }

    /// One datagram of a custodian.
    fn take(&mut self, id: u8, bytes: &[u8]) -> Vec<Answer> {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Vec::new();
        };
        match slot.take(bytes) {
            Ok(News::Answer(answer)) => vec![answer],
            Ok(News::Pin(generation, fate)) => {
                let tries = (slot.hardware.clone(), generation);
                let tries = self.pins.entry(tries).or_default();
                match fate {
                    PinFate::Refused => tries.is_refused = true,
                    PinFate::Taken | PinFate::Untried => tries.unanswered = 0,
                }
                Vec::new()
            }
            Ok(News::Nothing | News::Changed) => Vec::new(),
            Err(_) => slot.lose(State::Broken, "it sent what is no message"),
        }
    }

    /// Who waits for the sealed PIN of this generation, which name it has, and for which hardware.
    fn wanted_pins(&mut self, generation: u16) -> Vec<(u8, String, String)> {
        let mut wanted = Vec::new();
        for (id, slot) in &mut self.slots {
            if !slot.wants_pin() {
                continue;
            }
            let Some(name) = slot.pin.clone() else {
                "no PIN is sealed for it".clone_into(&mut slot.reason);
                continue;
            };
            let tries = self.pins.get(&(slot.hardware.clone(), generation));
            if tries.is_some_and(|tries| tries.is_refused) {
                slot.state = State::PinWrong;
                if slot.reason.is_empty() {
                    "the sealed PIN was refused".clone_into(&mut slot.reason);
                }
            } else if tries.is_some_and(|tries| tries.unanswered >= MAX_UNANSWERED) {
                "the PIN was not answered twice: relock and unlock".clone_into(&mut slot.reason);
            } else {
                wanted.push((*id, name, slot.hardware.clone()));
            }
        }
        wanted
    }

    fn give_pin(&mut self, id: u8, hardware: &str, pin: &[u8], generation: u16) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        // It may have been replaced meanwhile.
        if slot.hardware == hardware && slot.wants_pin() && slot.give_pin(pin, generation).is_ok() {
            let tries = self.pins.entry((hardware.to_owned(), generation));
            tries.or_default().unanswered += 1;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.slots.values().filter_map(Slot::next_deadline).min()
    }
}

impl Slot {
    /// For a warning: what keeps its keys away.
    fn condition(&self) -> String {
        let state = serde_json::to_value(self.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default();
        if self.reason.is_empty() {
            state.to_owned()
        } else {
            format!("{state}: {}", self.reason)
        }
    }
}

fn check(asked: &control::Custodian) -> Result<(), Fault> {
    let wrong = |message: &str| Err(Fault::new(FaultKind::Malformed, message));
    if asked.id >= MAX_CUSTODIANS {
        return wrong("custodians are numbered from 0 to 15");
    }
    if !is_hardware(&asked.hardware) {
        return wrong("hardware of a custodian is not 1 to 1024 characters");
    }
    if asked.keys.len() > MAX_KEYS {
        return wrong("a custodian has at most 256 keys");
    }
    let names: BTreeSet<_> = asked.keys.iter().map(|key| &key.name).collect();
    let numbers: BTreeSet<_> = asked.keys.iter().map(|key| key.id).collect();
    if names.len() != asked.keys.len() || numbers.len() != asked.keys.len() {
        return wrong("two keys of a custodian have one name or number");
    }
    if !names
        .iter()
        .all(|name| is_hardware_name(name) && is_hardware(name))
    {
        return wrong("name of a key in hardware has no ':', or is too long");
    }
    Ok(())
}
