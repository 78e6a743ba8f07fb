//! The thread that reads what custodians say.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use unlatch_protocol::Refusal;
use unlatch_protocol::datagram::MAX_WORKER_BYTES;
use unlatch_protocol::message::operation;

use super::question::{Answer, Unchecked};
use super::slot::Slot;
use super::told::State;
use super::{Custodians, Late};
use crate::clock;
use crate::log;
use crate::vault::Vault;
use crate::wire::{self, Received};

/// What is asked by others is seen at the latest after this time.
const AT_MOST: Duration = Duration::from_millis(250);
/// While there is no custodian, only a new one wakes the thread.
const IDLE: Duration = Duration::from_secs(3600);

/// Serve for ever.
pub(crate) fn run(vault: &Vault) {
    // Longer by one byte than allowed, so that a datagram of exactly the limit is not taken for a longer one.
    let mut buffer = vec![0; MAX_WORKER_BYTES + 1];
    loop {
        let custodians = vault.custodians();
        let (sockets, patience) = custodians.sockets();
        let ready = wire::wait_any(custodians.wake.as_ref(), &sockets, patience);
        for id in ready {
            if let Some((_, socket)) = sockets.iter().find(|(one, _)| *one == id) {
                let received = wire::receive(socket, &mut buffer);
                let answers = custodians.heard(id, socket, received.ok(), &buffer);
                deliver(vault, answers);
            }
        }
        deliver(vault, custodians.turn());
        give_pins(vault, custodians);
    }
}

/// Send answers to the workers who wait for them, and count them.
pub(crate) fn deliver(vault: &Vault, answers: Vec<Late>) {
    for Late((client, result)) in answers {
        let result = result.and_then(|unchecked| vault.custodians().checked(client.key, unchecked));
        let (operation, payload) = match result {
            Ok(signature) => {
                vault.count_signature();
                vault.custodians().count(client.key);
                (operation::SIGN | operation::REPLY, signature)
            }
            Err(refusal) => {
                vault.count(refusal);
                (operation::REFUSED, vec![refusal.code()])
            }
        };
        let Some(socket) = client.socket.upgrade() else {
            continue;
        };
        let sent = wire::try_send(
            &socket,
            operation,
            client.key,
            client.request_id,
            &[&payload],
        );
        if !matches!(sent, Ok(true)) {
            // A worker that does not read what it asked for.
            wire::close_both_ways(&socket);
        }
    }
}

fn give_pins(vault: &Vault, custodians: &Custodians) {
    let Some(generation) = vault.pin_generation() else {
        return;
    };
    let wanted = custodians.lock().wanted_pins(generation);
    for (id, name, hardware) in wanted {
        match vault.pin(&name, &hardware, generation) {
            Ok(pin) => {
                let mut desk = custodians.lock();
                desk.give_pin(id, &hardware, pin.expose(), generation);
            }
            Err(reason) => {
                if let Some(slot) = custodians.lock().slots.get_mut(&id) {
                    slot.reason = reason;
                }
            }
        }
    }
    custodians.changed.notify_all();
}

impl Custodians {
    /// The sockets, and how long to wait for them.
    fn sockets(&self) -> (Vec<(u8, Arc<OwnedFd>)>, Duration) {
        let desk = self.lock();
        let slots = desk.slots.iter();
        let open = slots.filter_map(|(id, slot)| Some((*id, Arc::clone(slot.socket.as_ref()?))));
        let open: Vec<_> = open.collect();
        let patience = match (open.is_empty(), desk.next_deadline()) {
            (true, _) if self.wake.is_some() => IDLE,
            (_, Some(deadline)) => deadline
                .saturating_duration_since(Instant::now())
                .min(AT_MOST),
            _ => AT_MOST,
        };
        (open, patience)
    }

    /// A socket was readable. `None`: it broke.
    fn heard(
        &self,
        id: u8,
        socket: &Arc<OwnedFd>,
        received: Option<Received>,
        buffer: &[u8],
    ) -> Vec<Late> {
        let mut desk = self.lock();
        let Some(slot) = desk.slots.get_mut(&id) else {
            return Vec::new();
        };
        // A custodian that was replaced has no say any more.
        if !slot
            .socket
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, socket))
        {
            return Vec::new();
        }
        let before = (slot.state, slot.reason.clone());
        let answers = match received {
            Some(Received::Bytes(length)) => desk.take(id, &buffer[..length]),
            Some(Received::Truncated) => slot.lose(State::Broken, "its message is too long"),
            Some(Received::End) | None => slot.lose(State::Lost, "its process is gone"),
        };
        if let Some(slot) = desk.slots.get_mut(&id)
            && before != (slot.state, slot.reason.clone())
            && slot.log_bucket.take(clock::running())
        {
            log::event(
                "custodian",
                json!({"id": id, "hardware": slot.hardware, "state": slot.state, "reason": slot.reason}),
            );
        }
        drop(desk);
        self.changed.notify_all();
        late(answers)
    }

    /// Give up what is too old, and ask what is to be asked.
    fn turn(&self) -> Vec<Late> {
        let now = Instant::now();
        let mut desk = self.lock();
        desk.slots.values_mut().for_each(Slot::ask_keys);
        let slots = desk.slots.values_mut();
        late(slots.flat_map(|slot| slot.expire(now)).collect())
    }

    /// The signature, if it holds for what was asked. Call it outside every lock.
    fn checked(&self, number: u16, unchecked: Unchecked) -> Result<Vec<u8>, Refusal> {
        if unchecked.proof.check(&unchecked.signature).is_ok() {
            return Ok(unchecked.signature);
        }
        let mut desk = self.lock();
        let mut names = desk.names.iter_mut();
        if let Some((name, named)) = names.find(|(_, named)| named.number == number) {
            named.wrong += 1;
            // The first one, and then ever fewer.
            if named.wrong.is_power_of_two() {
                log::event(
                    "wrong-signature",
                    json!({"key": name, "count": named.wrong}),
                );
            }
        }
        Err(Refusal::HardwareRefused)
    }

    /// A signature was made with this key.
    fn count(&self, number: u16) {
        let mut desk = self.lock();
        let mut names = desk.names.values_mut();
        if let Some(named) = names.find(|named| named.number == number) {
            named.signatures += 1;
        }
    }
}

/// For fuzzing: what a custodian says goes in without a socket.
impl Custodians {
    pub(crate) fn hear(&self, id: u8, bytes: &[u8]) -> Vec<Late> {
        let mut desk = self.lock();
        let mut answers = desk.take(id, bytes);
        if let Some(slot) = desk.slots.get_mut(&id) {
            slot.ask_keys();
            slot.ask_status();
            answers.extend(slot.expire(Instant::now()));
        }
        late(answers)
    }

    pub(crate) fn any_public_key(&self, id: u8) -> Option<Vec<u8>> {
        let desk = self.lock();
        let mut keys = desk.slots.get(&id)?.keys.iter();
        keys.find_map(|key| key.found.clone())
    }

    pub(crate) fn is_open(&self, id: u8) -> bool {
        let desk = self.lock();
        desk.slots
            .get(&id)
            .is_some_and(|slot| slot.socket.is_some())
    }
}

fn late(answers: Vec<Answer>) -> Vec<Late> {
    answers.into_iter().map(Late).collect()
}
