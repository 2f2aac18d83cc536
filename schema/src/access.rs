//! Who may do what: roles, rights, and the one table that says which role has which right.
//!
//! Invariant: a key never has a right that its role lacks, whatever its scopes say.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{UnknownName, text_enum};

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Nothing: open to everybody.
    Open,
    /// Reading jobs, workers and queues.
    Read,
    /// Handing in jobs.
    Submit,
    /// Changing what happens to jobs and workers.
    Control,
    /// Destroying records, seeing who did what, managing keys and tenants.
    Administer,
}

impl Right {
    /// Every right that a key can have.
    pub const NAMED: [Right; 4] = [Right::Read, Right::Submit, Right::Control, Right::Administer];

    /// The name as it stands in errors, columns and documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Open => "open",
            Right::Read => "read",
            Right::Submit => "submit",
            Right::Control => "control",
            Right::Administer => "administer",
        }
    }
}

text_enum!(Right, "right", Right::NAMED);

/// What the owner of a key is; each role has all rights of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Hands in jobs.
    Submitter,
    /// Controls jobs and workers.
    Operator,
    /// Everything.
    Admin,
}

/// The table: which role has which rights.
pub const TABLE: [(Role, &[Right]); 4] = [
    (Role::Viewer, &[Right::Open, Right::Read]),
    (Role::Submitter, &[Right::Open, Right::Read, Right::Submit]),
    (Role::Operator, &[Right::Open, Right::Read, Right::Submit, Right::Control]),
    (Role::Admin, &[Right::Open, Right::Read, Right::Submit, Right::Control, Right::Administer]),
];

impl Role {
    /// Every role, least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Submitter, Role::Operator, Role::Admin];

    /// The name as it stands in columns and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Submitter => "submitter",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Whether it has `right`.
    #[must_use]
    pub fn allows(self, right: Right) -> bool {
        TABLE.iter().any(|(role, rights)| *role == self && rights.contains(&right))
    }

    /// The least role that has `right`.
    ///
    /// # Panics
    /// Never: an admin has every right.
    #[must_use]
    pub fn least(right: Right) -> Role {
        Role::ALL.into_iter().find(|role| role.allows(right)).expect("an admin has every right")
    }
}

text_enum!(Role, "role", Role::ALL);

/// What a key may do: the rights of a role, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Its role.
    pub role: Role,
    /// The rights that it has of those of its role; absent: all of them.
    pub scopes: Option<Vec<Right>>,
}

impl Permit {
    /// All that a role may do.
    #[must_use]
    pub fn of(role: Role) -> Permit {
        Permit { role, scopes: None }
    }

    /// Whether it has `right`.
    #[must_use]
    pub fn allows(&self, right: Right) -> bool {
        let in_scope = right == Right::Open || self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&right));
        in_scope && self.role.allows(right)
    }

    /// Whether it has every right of `other`.
    #[must_use]
    pub fn covers(&self, other: &Permit) -> bool {
        Right::NAMED.into_iter().all(|right| self.allows(right) || !other.allows(right))
    }

    /// A scope that the role has no right to: whoever asked for it expects more than the key could do.
    #[must_use]
    pub fn beyond_role(&self) -> Option<Right> {
        self.scopes.iter().flatten().copied().find(|right| !self.role.allows(*right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_the_table_is_as_the_documents_say() {
        let expected = [
            (Role::Viewer, [true, true, false, false, false]),
            (Role::Submitter, [true, true, true, false, false]),
            (Role::Operator, [true, true, true, true, false]),
            (Role::Admin, [true, true, true, true, true]),
        ];
        let rights = [Right::Open, Right::Read, Right::Submit, Right::Control, Right::Administer];
        for (role, cells) in expected {
            assert_eq!(rights.map(|right| role.allows(right)), cells, "{role}");
            let narrowed = Permit { role, scopes: Some(vec![Right::Read]) };
            let read_alone = [true, true, false, false, false];
            assert_eq!(rights.map(|right| narrowed.allows(right)), read_alone, "{role} narrowed to read");
        }
        assert_eq!(rights.map(Role::least).map(Role::as_str), ["viewer", "viewer", "submitter", "operator", "admin"]);
        assert_eq!(TABLE.map(|(role, _)| role), Role::ALL);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for right in Right::NAMED {
            assert_eq!(right.as_str().parse(), Ok(right));
        }
        assert!("open".parse::<Right>().is_err(), "it is no scope");
    }

    #[test]
    fn scopes_narrow_a_role_and_never_widen_it() {
        let submit_alone = Permit { role: Role::Admin, scopes: Some(vec![Right::Submit]) };
        assert!(submit_alone.allows(Right::Submit) && !submit_alone.allows(Right::Read));
        let too_much = Permit { role: Role::Viewer, scopes: Some(vec![Right::Read, Right::Control]) };
        assert_eq!(too_much.beyond_role(), Some(Right::Control));
        assert!(!too_much.allows(Right::Control));

        assert!(Permit::of(Role::Admin).covers(&submit_alone));
        assert!(!submit_alone.covers(&Permit::of(Role::Viewer)));
        assert!(submit_alone.covers(&submit_alone));
        assert!(Permit::of(Role::Operator).covers(&too_much));
    }
}
