//! What a Linux process gives up for ever: files with [`restrict`], system calls with [`Filter`].
//!
//! A call that no filter knows is answered with ENOSYS, as an older kernel would, and counted: [`trapped`].

mod calls;
mod landlock;
mod trap;

use std::collections::BTreeMap;
use std::ffi::c_long;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

pub use calls::TAKEOVER;
pub use landlock::{Ports, restrict};
pub use seccompiler::{BpfProgram as Program, Error, apply_filter, apply_filter_all_threads};
pub use trap::{catch, counts as trapped};

/// System calls, each with the arguments that make it meant; of several filters the stricter answer holds.
#[derive(Default)]
pub struct Filter {
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
}

/// One condition on an argument, counted from 0. All compare the lower 32 bits.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// It is this number.
    Is(u8, u64),
    /// It is another one.
    IsNot(u8, u64),
    /// These bits (first number) have this value (second).
    Bits(u8, u64, u64),
}

impl Filter {
    /// These calls, with any arguments.
    #[must_use]
    pub fn new(calls: &[c_long]) -> Self {
        Self {
            rules: calls.iter().map(|call| (*call, Vec::new())).collect(),
        }
    }

    /// These calls too.
    #[must_use]
    pub fn also(mut self, calls: &[c_long]) -> Self {
        self.rules.extend(Self::new(calls).rules);
        self
    }

    /// Also this call where all conditions hold; several such lists for one call are alternatives.
    ///
    /// # Errors
    /// The conditions cannot be written as a filter.
    pub fn with(mut self, call: c_long, conditions: &[Argument]) -> Result<Self, Error> {
        let conditions = conditions
            .iter()
            .map(|argument| argument.condition())
            .collect::<Result<Vec<_>, _>>()?;
        self.rules
            .entry(call)
            .or_default()
            .push(SeccompRule::new(conditions)?);
        Ok(self)
    }

    /// Let only these calls through; others are trapped, for [`catch`] to answer.
    ///
    /// # Errors
    /// As [`Filter::with`].
    pub fn allow(self) -> Result<Program, Error> {
        self.compile(SeccompAction::Trap, SeccompAction::Allow)
    }

    /// These calls end the process.
    ///
    /// # Errors
    /// As [`Filter::with`].
    pub fn kill(self) -> Result<Program, Error> {
        self.compile(SeccompAction::Allow, SeccompAction::KillProcess)
    }

    /// These calls fail with ENOSYS, uncounted: libraries try them first and know what to do instead.
    ///
    /// # Errors
    /// As [`Filter::with`].
    pub fn lack(self) -> Result<Program, Error> {
        let lacking = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        self.compile(SeccompAction::Allow, lacking)
    }

    fn compile(self, otherwise: SeccompAction, listed: SeccompAction) -> Result<Program, Error> {
        let machine = std::env::consts::ARCH.try_into()?;
        Ok(SeccompFilter::new(self.rules, otherwise, listed, machine)?.try_into()?)
    }
}

impl Argument {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (number, operator, value) = match self {
            Self::Is(number, value) => (number, SeccompCmpOp::Eq, value),
            Self::IsNot(number, value) => (number, SeccompCmpOp::Ne, value),
            Self::Bits(number, mask, value) => (number, SeccompCmpOp::MaskedEq(mask), value),
        };
        SeccompCondition::new(number, SeccompCmpArgLen::Dword, operator, value)
    }
}
