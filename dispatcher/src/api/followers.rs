//! How many event streams are open: a bound for each key and for each tenant, because a stream costs for as long as it lasts.
//! One of a job asks the ledger twice a second; those of `/v1/events` share one look, but each holds a connection and what it
//! has to tell.
//!
//! Invariant: a stream counts from its opening until it is dropped, for its key and for its key's tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::metrics::HTTP_RATE_LIMITED;

use crate::api::problem::{Answer, ApiError};
use crate::ledger::keys::Caller;

/// After this it is worth another try.
const AGAIN: Duration = Duration::from_secs(5);

/// How many event streams may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// With one key.
    pub per_key: usize,
    /// With all keys of one tenant.
    pub per_tenant: usize,
}

impl Default for StreamLimits {
    fn default() -> StreamLimits {
        StreamLimits { per_key: 64, per_tenant: 256 }
    }
}

/// Who is counted: keys of one name are one owner's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Key(Option<String>, String),
    Tenant(String),
}

/// The open streams of one API.
#[derive(Debug)]
pub(crate) struct Followers {
    limits: StreamLimits,
    open: Mutex<HashMap<Whose, usize>>,
}

/// A stream that is open until this is dropped.
pub(crate) struct Following {
    all: Arc<Followers>,
    counted: Vec<Whose>,
}

impl Followers {
    pub(crate) fn new(limits: StreamLimits) -> Followers {
        Followers { limits, open: Mutex::default() }
    }

    /// Counts one more stream of a caller, unless there are as many as may be.
    pub(crate) fn follow(self: &Arc<Followers>, caller: &Caller) -> Answer<Following> {
        let tenant = caller.tenant().map(str::to_owned);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |whose: &Whose| open.get(whose).copied().unwrap_or(0);
        let key = Whose::Key(tenant.clone(), caller.actor.name.clone());
        if count(&key) >= self.limits.per_key {
            return Err(refused("key_streams", "this key", self.limits.per_key));
        }
        let tenant = tenant.map(Whose::Tenant);
        if tenant.as_ref().is_some_and(|tenant| count(tenant) >= self.limits.per_tenant) {
            return Err(refused("tenant_streams", "this tenant", self.limits.per_tenant));
        }
        let counted: Vec<Whose> = std::iter::once(key).chain(tenant).collect();
        for whose in &counted {
            *open.entry(whose.clone()).or_default() += 1;
        }
        Ok(Following { all: self.clone(), counted })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        for whose in &self.counted {
            if let Some(count) = open.get_mut(whose) {
                *count -= 1;
                if *count == 0 {
                    open.remove(whose);
                }
            }
        }
    }
}

fn refused(by: &'static str, whose: &str, most: usize) -> ApiError {
    metrics::counter!(HTTP_RATE_LIMITED, "by" => by).increment(1);
    let detail = format!(
        "{most} event streams of {whose} are open, and no more may be; close some, or ask GET /v1/jobs for many jobs at once"
    );
    ApiError::too_many(detail, AGAIN)
}

#[cfg(test)]
mod tests {
    use ffpool_schema::access::{Permit, Role};

    use super::*;
    use crate::ledger::{Actor, Realm};

    fn caller(name: &str, tenant: Option<&str>) -> Caller {
        let realm = Realm::of(tenant.map(str::to_owned));
        let actor = Actor { name: name.to_owned(), realm, address: None };
        Caller { key: None, actor, permit: Permit::of(Role::Viewer) }
    }

    #[test]
    fn keys_and_tenants_have_so_many_streams_and_get_them_back() {
        let all = Arc::new(Followers::new(StreamLimits { per_key: 2, per_tenant: 3 }));
        let follow = |name, tenant| all.follow(&caller(name, tenant)).map_err(|refused| refused.detail().to_owned());
        let first = follow("a", Some("acme")).unwrap();
        let second = follow("a", Some("acme")).unwrap();
        assert!(follow("a", Some("acme")).err().unwrap().contains("this key"));
        let third = follow("b", Some("acme")).unwrap();
        assert!(follow("b", Some("acme")).err().unwrap().contains("this tenant"));
        let others = [follow("a", None).unwrap(), follow("a", Some("other")).unwrap()];
        drop(first);
        drop(follow("b", Some("acme")).unwrap());
        drop((second, third, others));
        assert!(all.open.lock().unwrap().is_empty());
    }
}
