//! Who does something, and whose jobs they may see and change.
//!
//! Invariant: whatever reads or changes the ledger for somebody outside takes a [`Realm`], so that none can forget to ask
//! whose jobs are meant. A job's tenant never changes, so that what was in a realm once stays in it.

use std::net::IpAddr;

/// Whose jobs somebody may see and change. What is outside is to them as if it were not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Realm {
    /// Everything: the pool's own parts, its operators, and jobs of no tenant.
    #[default]
    Pool,
    /// What is this tenant's alone.
    Tenant(String),
}

impl Realm {
    /// The realm of a key that is bound to a tenant, or to none.
    #[must_use]
    pub fn of(tenant: Option<String>) -> Realm {
        tenant.map_or(Realm::Pool, Realm::Tenant)
    }

    /// The tenant; `None` for the whole pool.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Realm::Pool => None,
            Realm::Tenant(name) => Some(name),
        }
    }

    /// Whether something of this tenant is in it.
    #[must_use]
    pub fn holds(&self, tenant: Option<&str>) -> bool {
        match self {
            Realm::Pool => true,
            Realm::Tenant(name) => tenant == Some(name),
        }
    }
}

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Their key's name, or a part of the pool; it stands in the history of jobs and in the audit.
    pub name: String,
    /// Whose jobs they may see and change.
    pub realm: Realm,
    /// Where their request came from; absent for what is done beside the API.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// A part of the pool itself, or a person at its console: it may do everything.
    #[must_use]
    pub fn of_pool(name: impl Into<String>) -> Actor {
        Actor { name: name.into(), realm: Realm::Pool, address: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_realm_holds_its_own_and_nothing_that_is_nobodys() {
        let acme = Realm::of(Some("acme".to_owned()));
        assert!(acme.holds(Some("acme")));
        assert!(!acme.holds(Some("other")) && !acme.holds(Some("")) && !acme.holds(None));
        let pool = Realm::of(None);
        assert!(pool.holds(Some("acme")) && pool.holds(None));
    }
}
