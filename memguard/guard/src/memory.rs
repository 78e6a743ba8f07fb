//! What this kernel and container let guard have, and what an operator requires of it.

use serde_json::{Value, json};
use unlatch_protocol::control::{Fault, FaultKind, Requirement};

/// How secrets are protected in this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protection {
    pub(crate) secret_memory: bool,
    pub(crate) keyring: bool,
    pub(crate) all_locked: bool,
    pub(crate) not_dumpable: bool,
}

impl Protection {
    fn has(self, requirement: Requirement) -> bool {
        match requirement {
            Requirement::MemfdSecret => self.secret_memory,
            Requirement::Keyring => self.keyring,
            Requirement::AllLocked => self.all_locked,
        }
    }

    /// For status: where the parts lie, and in plain words what is weaker than it could be.
    pub(crate) fn describe(self) -> Value {
        let weaker: Vec<_> = Requirement::ALL
            .into_iter()
            .filter(|requirement| !self.has(*requirement))
            .map(|requirement| json!({"name": requirement.name(), "message": message(requirement)}))
            .collect();
        json!({
            "shares": if self.secret_memory { "memfd_secret" } else { "locked pages" },
            "root": if self.keyring { "process keyring" } else { "locked pages" },
            "all_locked": self.all_locked, "seccomp": true, "not_dumpable": self.not_dumpable,
            "weaker": weaker,
        })
    }

    /// Refuse to go on with less than is required.
    pub(crate) fn check(self, required: &[Requirement]) -> Result<(), Fault> {
        match required.iter().find(|requirement| !self.has(**requirement)) {
            None => Ok(()),
            Some(missing) => Err(Fault::new(
                FaultKind::Require,
                format!("guard.require: {}: {}", missing.name(), message(*missing)),
            )
            .hint(hint(*missing))),
        }
    }
}

fn message(missing: Requirement) -> &'static str {
    match missing {
        Requirement::MemfdSecret => {
            "no secret memory (memfd_secret): shares lie in locked pages, which root can read"
        }
        Requirement::Keyring => {
            "no process keyring: the root of the pads lies in locked pages beside the shares"
        }
        Requirement::AllLocked => {
            "only secrets are locked in memory: other pages may be swapped out"
        }
    }
}

fn hint(missing: Requirement) -> &'static str {
    match missing {
        Requirement::MemfdSecret => {
            "boot a kernel from 6.5 on, or with secretmem.enable=1, and let the container call memfd_secret"
        }
        Requirement::Keyring => {
            "let the container call add_key and keyctl; look at /proc/key-users for the quota"
        }
        Requirement::AllLocked => "set LimitMEMLOCK=infinity for the service",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_refused_only_when_required() {
        let whole = Protection {
            secret_memory: true,
            keyring: true,
            all_locked: true,
            not_dumpable: true,
        };
        let bare = Protection {
            secret_memory: false,
            keyring: false,
            all_locked: false,
            ..whole
        };

        assert_eq!(whole.describe()["weaker"], json!([]));
        assert!(whole.check(&Requirement::ALL).is_ok());
        assert!(bare.check(&[]).is_ok());
        for requirement in Requirement::ALL {
            let fault = bare.check(&[requirement]).unwrap_err();
            assert!(fault.message.contains(requirement.name()));
            assert!(fault.hint.is_some());
        }
        assert_eq!(bare.describe()["weaker"].as_array().map(Vec::len), Some(3));
    }
}
