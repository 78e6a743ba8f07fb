//! What this kernel and container let guard have, and what an operator requires of it.

use serde_json::{Value, json};
use unlatch_protocol::control::{Fault, FaultKind, Requirement};

use crate::thread::Stacks;

/// How secrets are protected in this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protection {
    pub(crate) secret_memory: bool,
    pub(crate) stacks: Stacks,
    pub(crate) keyring: bool,
    pub(crate) all_locked: bool,
    pub(crate) landlock: bool,
    pub(crate) own_user: bool,
    pub(crate) not_dumpable: bool,
}

impl Protection {
    fn has(self, requirement: Requirement) -> bool {
        match requirement {
            Requirement::MemfdSecret => self.secret_memory && self.stacks == Stacks::Secret,
            Requirement::Keyring => self.keyring,
            Requirement::AllLocked => self.all_locked,
            Requirement::Landlock => self.landlock,
            Requirement::OwnUser => self.own_user,
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
            "stacks": if self.stacks == Stacks::Secret { "memfd_secret" } else { "ordinary pages" },
            "root": if self.keyring { "process keyring" } else { "locked pages" },
            "all_locked": self.all_locked, "seccomp": true, "not_dumpable": self.not_dumpable,
            "landlock": self.landlock, "own_user": self.own_user,
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
            "no secret memory (memfd_secret), or too little for every stack: root can read what is in use"
        }
        Requirement::Keyring => {
            "no process keyring: the root of the pads lies in locked pages beside the shares"
        }
        Requirement::AllLocked => {
            "only secrets are locked in memory: other pages may be swapped out"
        }
        Requirement::Landlock => "no landlock: only the system call filter keeps files away",
        Requirement::OwnUser => "guard runs as the user of the processes around it",
    }
}

fn hint(missing: Requirement) -> &'static str {
    match missing {
        Requirement::MemfdSecret => {
            "boot a kernel from 6.5 on, or with secretmem.enable=1, let the container call memfd_secret, and set LimitMEMLOCK to 16 MiB or more"
        }
        Requirement::Keyring => {
            "let the container call add_key and keyctl; look at /proc/key-users for the quota"
        }
        Requirement::AllLocked => "set LimitMEMLOCK=infinity for the service",
        Requirement::Landlock => {
            "boot a kernel from 5.13 on with landlock in its list of security modules"
        }
        Requirement::OwnUser => {
            "start the service as root and let the configuration name guard's user"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_refused_only_when_required() {
        let whole = Protection {
            secret_memory: true,
            stacks: Stacks::Secret,
            keyring: true,
            all_locked: true,
            landlock: true,
            own_user: true,
            not_dumpable: true,
        };
        let bare = Protection {
            secret_memory: false,
            stacks: Stacks::Ordinary,
            keyring: false,
            all_locked: false,
            landlock: false,
            own_user: false,
            not_dumpable: true,
        };

        assert_eq!(whole.describe()["weaker"], json!([]));
        assert!(whole.check(&Requirement::ALL).is_ok());
        assert!(bare.check(&[]).is_ok());
        for requirement in Requirement::ALL {
            let fault = bare.check(&[requirement]).unwrap_err();
            assert!(fault.message.contains(requirement.name()));
            assert!(fault.hint.is_some());
        }
        assert_eq!(
            bare.describe()["weaker"].as_array().map(Vec::len),
            Some(Requirement::ALL.len())
        );
    }
}
