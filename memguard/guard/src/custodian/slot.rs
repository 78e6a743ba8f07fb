//! One custodian as guard sees it: its keys, its state, and the questions that are open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use unlatch_protocol::control;
use unlatch_protocol::message::operation;
use unlatch_protocol::{Datagram, Refusal};

use super::question::{Answer, Asked, Client, Question, Unchecked, translated, unanswered};
use super::told::{self, Event, State, Times, Told, tame};
use super::verify::Proof;
use crate::clock;
use crate::rate::Bucket;
use crate::wire;

/// Signatures that may be open at once.
const MAX_OPEN: usize = 64;
/// Changes of state that the log tells.
const LOGGED_PER_SECOND: u32 = 10;
/// After a question that was refused, until the same one is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest signature: RSA with 16384 bits.
const MAX_SIGNATURE_BYTES: usize = 2048;

/// One custodian.
pub(super) struct Slot {
    pub(super) hardware: String,
    pub(super) pin: Option<String>,
    pub(super) keys: Vec<Key>,
    /// `None`: its process is gone.
    pub(super) socket: Option<Arc<OwnedFd>>,
    pub(super) state: State,
    pub(super) reason: String,
    pub(super) known: Known,
    pub(super) is_status_fresh: bool,
    /// It may not fill the log.
    pub(super) log_bucket: Bucket,
    not_before: Option<Instant>,
    open: HashMap<u32, Question>,
    next: u32,
}

/// A key of a custodian.
pub(super) struct Key {
    /// Its number there.
    at: u16,
    pub(super) name: String,
    /// Its number here.
    pub(super) number: u16,
    /// DER of the public half, as the custodian told last.
    pub(super) found: Option<Vec<u8>>,
    /// Why it is not there.
    pub(super) missing: Option<String>,
    pub(super) times: Times,
}

/// Whether the keys were described since the hardware was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    No,
    Asked,
    Yes,
}

/// What a datagram brought.
pub(super) enum News {
    /// Nothing that others must know.
    Nothing,
    /// For a worker.
    Answer(Answer),
    /// State or keys changed.
    Changed,
    /// What became of the PIN of this generation.
    Pin(u16, PinFate),
}

/// What became of a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PinFate {
    Taken,
    /// It is wrong, or its hardware is blocked: it is never sent again.
    Refused,
    /// The hardware did not come to look at it.
    Untried,
}

/// Bytes that are no message of a custodian: its socket is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense;

impl Slot {
    /// Just started. `numbers`: guard's numbers of the keys, in their order.
    pub(super) fn new(asked: control::Custodian, numbers: &[u16], socket: OwnedFd) -> Self {
        let keys = asked.keys.into_iter().zip(numbers);
        Self {
            hardware: asked.hardware,
            pin: asked.pin,
            keys: keys
                .map(|(key, number)| Key {
                    at: key.id,
                    name: key.name,
                    number: *number,
                    found: None,
                    missing: None,
                    times: Times::default(),
                })
                .collect(),
            socket: Some(Arc::new(socket)),
            state: State::Starting,
            reason: String::new(),
            known: Known::No,
            is_status_fresh: true,
            log_bucket: Bucket::new(LOGGED_PER_SECOND, clock::running()),
            not_before: None,
            open: HashMap::new(),
            next: 0,
        }
    }

    /// Ask for a signature with the key that guard knows as `number`.
    pub(super) fn sign(
        &mut self,
        number: u16,
        proof: Proof,
        client: Client,
    ) -> Result<(), Refusal> {
        let key = self.keys.iter().find(|key| key.number == number);
        let key = key.ok_or(Refusal::HardwareUnreachable)?;
        let found = key.found.as_deref().ok_or(Refusal::HardwareUnreachable)?;
        if *found != *proof.admitted.spki {
            return Err(Refusal::HardwareRefused);
        }
        let is_sign = |question: &&Question| matches!(question.asked, Asked::Sign(..));
        if self.open.values().filter(is_sign).count() >= MAX_OPEN {
            return Err(Refusal::HardwareBusy);
        }
        let at = key.at;
        let scheme = proof.admitted.method.code().to_be_bytes();
        let message = proof.message.clone();
        let asked = Asked::Sign(client, Box::new(proof));
        self.ask(asked, at, &[&scheme, &message])
    }

    /// Ask for what is to be asked now, but PINs.
    pub(super) fn ask_keys(&mut self) {
        if self.state != State::Ready || self.known != Known::No || !self.is_due() {
            return;
        }
        if self.ask(Asked::Keys, 0, &[]).is_ok() {
            self.known = Known::Asked;
        }
    }

    /// Ask for counters; `is_status_fresh` tells when they came.
    pub(super) fn ask_status(&mut self) {
        let is_open = |question: &Question| matches!(question.asked, Asked::Status);
        if !self.open.values().any(is_open) {
            let asked = self.ask(Asked::Status, 0, &[]);
            self.is_status_fresh = asked.is_err();
        }
    }

    /// Whether this custodian waits for a PIN and may be given one.
    pub(super) fn wants_pin(&self) -> bool {
        let is_open = |question: &Question| matches!(question.asked, Asked::Pin);
        let waits = matches!(self.state, State::NeedPin | State::PinWrong);
        self.socket.is_some() && waits && self.is_due() && !self.open.values().any(is_open)
    }

    /// Give the PIN.
    pub(super) fn give_pin(&mut self, pin: &[u8], generation: u16) -> Result<(), Refusal> {
        self.ask(Asked::Pin, generation, &[pin])
    }

    /// One datagram.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<News, Nonsense> {
        let datagram = Datagram::decode(bytes).map_err(|_| Nonsense)?;
        if datagram.operation == operation::EVENT {
            if (datagram.key, datagram.request_id) != (0, 0) {
                return Err(Nonsense);
            }
            let event: Event = told::read(datagram.payload).ok_or(Nonsense)?;
            self.change(&event);
            return Ok(News::Changed);
        }
        // An answer that came too late has no question any more.
        let Some(question) = self.open.remove(&datagram.request_id) else {
            return Ok(News::Nothing);
        };
        if datagram.key != question.key {
            return self.put_back(datagram.request_id, question);
        }
        if datagram.operation == operation::REFUSED {
            let [code] = datagram.payload else {
                return self.put_back(datagram.request_id, question);
            };
            return Ok(self.refused(question, *code));
        }
        if datagram.operation != question.asked.operation() | operation::REPLY {
            return self.put_back(datagram.request_id, question);
        }
        match question.asked {
            Asked::Sign(..) if !(1..=MAX_SIGNATURE_BYTES).contains(&datagram.payload.len()) => {
                self.put_back(datagram.request_id, question)
            }
            Asked::Sign(client, proof) => {
                let signature = datagram.payload.to_vec();
                let unchecked = Unchecked {
                    signature,
                    proof: *proof,
                };
                Ok(News::Answer((client, Ok(unchecked))))
            }
            Asked::Pin => Ok(News::Pin(question.key, PinFate::Taken)),
            Asked::Keys => self.describe(datagram.payload),
            Asked::Status => {
                self.is_status_fresh = true;
                self.note_times(datagram.payload)
            }
        }
    }

    /// Its process is gone, or talks nonsense. Gives what cannot be answered any more.
    pub(super) fn lose(&mut self, state: State, reason: &str) -> Vec<Answer> {
        if let Some(socket) = self.socket.take() {
            wire::close_both_ways(&socket);
        }
        self.forget_keys();
        (self.state, self.reason) = (state, reason.to_owned());
        self.is_status_fresh = true;
        let open = std::mem::take(&mut self.open);
        open.into_values().filter_map(unanswered).collect()
    }

    /// Give up what is too old.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Answer> {
        let late: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, question)| now >= question.deadline())
            .map(|(number, _)| *number)
            .collect();
        let late = late.iter().filter_map(|number| self.open.remove(number));
        let late: Vec<_> = late.collect();
        if late
            .iter()
            .any(|question| matches!(question.asked, Asked::Keys))
        {
            self.known = Known::No;
        }
        late.into_iter().filter_map(unanswered).collect()
    }

    /// When `expire` has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(Question::deadline).min()
    }

    /// Whether waiting for its keys is over, or in vain.
    pub(super) fn is_settled(&self) -> bool {
        match self.state {
            State::Starting => self.socket.is_none(),
            State::Ready => self.known == Known::Yes,
            // A reason says why there is no PIN to give.
            State::NeedPin => !self.reason.is_empty(),
            _ => true,
        }
    }

    fn is_due(&self) -> bool {
        self.not_before
            .is_none_or(|moment| Instant::now() >= moment)
    }

    fn ask(&mut self, asked: Asked, key: u16, payload: &[&[u8]]) -> Result<(), Refusal> {
        let socket = self.socket.as_ref().ok_or(Refusal::HardwareUnreachable)?;
        self.next = self.next.wrapping_add(1).max(1);
        if self.open.contains_key(&self.next) {
            return Err(Refusal::HardwareBusy);
        }
        match wire::try_send(socket, asked.operation(), key, self.next, payload) {
            Ok(true) => {
                let since = Instant::now();
                let question = Question { asked, key, since };
                self.open.insert(self.next, question);
                Ok(())
            }
            Ok(false) => Err(Refusal::HardwareBusy),
            // Whoever reads the socket sees its end and says so.
            Err(_) => Err(Refusal::HardwareUnreachable),
        }
    }

    /// Left open, so that `lose` answers it.
    fn put_back(&mut self, number: u32, question: Question) -> Result<News, Nonsense> {
        self.open.insert(number, question);
        Err(Nonsense)
    }

    fn change(&mut self, event: &Event) {
        (self.state, self.reason) = (event.state, tame(&event.reason));
        self.not_before = None;
        if event.state != State::Ready {
            self.forget_keys();
        } else if self.known == Known::Yes {
            // While the keys are asked for, the answer tells what stands now.
            self.known = Known::No;
        }
    }

    fn forget_keys(&mut self) {
        self.known = Known::No;
        for key in &mut self.keys {
            (key.found, key.missing) = (None, None);
        }
    }

    fn refused(&mut self, question: Question, code: u8) -> News {
        match question.asked {
            Asked::Sign(client, _) => News::Answer((client, Err(translated(code)))),
            Asked::Pin => {
                self.not_before = Some(Instant::now() + PAUSE);
                let fate = match code {
                    13 | 14 => PinFate::Refused,
                    _ => PinFate::Untried,
                };
                News::Pin(question.key, fate)
            }
            Asked::Keys => {
                self.not_before = Some(Instant::now() + PAUSE);
                self.known = Known::No;
                News::Changed
            }
            Asked::Status => {
                self.is_status_fresh = true;
                News::Changed
            }
        }
    }

    fn describe(&mut self, payload: &[u8]) -> Result<News, Nonsense> {
        let told: Told = told::read(payload).ok_or(Nonsense)?;
        for key in &mut self.keys {
            let found = told.found.iter().find(|found| found.id == key.at);
            key.found = match found {
                Some(found) => Some(found.spki().ok_or(Nonsense)?),
                None => None,
            };
            let missing = told.missing.iter().find(|missing| missing.id == key.at);
            key.missing = missing.map(|missing| tame(&missing.reason));
        }
        // It may have lost its hardware since: then it said so before, and nothing was found.
        self.known = if self.state == State::Ready {
            Known::Yes
        } else {
            Known::No
        };
        if self.known == Known::No {
            self.forget_keys();
        }
        Ok(News::Changed)
    }

    fn note_times(&mut self, payload: &[u8]) -> Result<News, Nonsense> {
        let told: Told = told::read(payload).ok_or(Nonsense)?;
        for key in &mut self.keys {
            key.times = told
                .keys
                .get(&key.at.to_string())
                .copied()
                .unwrap_or_default();
        }
        Ok(News::Changed)
    }
}
