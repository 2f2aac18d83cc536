//! Which RabbitMQ user publishes for which tenant, and what follows for a job that came over AMQP.
//!
//! Invariant: the broker checks `user_id` against the connection's user, so what it says of the publisher is true. A user that is
//! bound to a tenant publishes for that tenant alone, whatever the rule.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::Fault;

use super::{Ledger, Unavailable};

/// Which jobs over AMQP are taken without a proof of whose they are, which is the property `user_id` with the tenant's user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AmqpTenants {
    /// None: every message says who published it, and a tenant is named by its own user alone.
    Require,
    /// Those that name no tenant, or one that is bound to no user.
    #[default]
    Bound,
    /// All: whoever publishes is taken at their word, unless they are bound to another tenant.
    Trust,
}

/// Who publishes for whom, as the ledger had it when it was read last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bindings {
    /// Tenants by RabbitMQ user.
    by_user: HashMap<String, String>,
    /// Tenants that are disabled.
    disabled: HashSet<String>,
}

impl Bindings {
    fn is_bound(&self, tenant: &str) -> bool {
        self.by_user.values().any(|bound| bound == tenant)
    }

    /// Gives a job the tenant of who published it, or says why it cannot be that tenant's. `user` is the message's `user_id`.
    fn judge(&self, rule: AmqpTenants, user: Option<&str>, spec: &mut JobSpec) -> Result<(), Fault> {
        let refuse = |field: &str, code, text: String| Err(Fault::new(field, code, text));
        match (user.and_then(|user| Some((user, self.by_user.get(user)?))), spec.tenant.as_deref()) {
            (Some((_, bound)), None) => spec.tenant = Some(bound.clone()),
            (Some((_, bound)), Some(named)) if bound == named => {}
            (Some((user, bound)), Some(named)) => {
                return refuse(
                    "tenant",
                    "other_tenant",
                    format!(
                        "RabbitMQ's user `{user}` publishes for the tenant `{bound}`, and the job names `{named}`: leave `tenant` out"
                    ),
                );
            }
            (None, Some(named))
                if rule == AmqpTenants::Require || (rule == AmqpTenants::Bound && self.is_bound(named)) =>
            {
                let who = match user {
                    Some(user) => {
                        format!("it was published by RabbitMQ's user `{user}`, which is not bound to that tenant")
                    }
                    None => "its message does not say who published it (the property `user_id`)".to_owned(),
                };
                return refuse(
                    "tenant",
                    "unproven_tenant",
                    format!(
                        "the job names the tenant `{named}`, and {who}: publish it as the user of that tenant, with `user_id` set to the user's name"
                    ),
                );
            }
            (None, None) if rule == AmqpTenants::Require && user.is_none() => {
                return refuse(
                    "user_id",
                    "unproven_publisher",
                    "its message does not say who published it: set the property `user_id` to the name of the RabbitMQ user (FFPOOL_AMQP_TENANTS=require)"
                        .to_owned(),
                );
            }
            (None, Some(_) | None) => {}
        }
        match &spec.tenant {
            Some(tenant) if self.disabled.contains(tenant) => {
                let text = format!("the tenant `{tenant}` is disabled; `ffpool tenants enable {tenant}` lets it go on");
                refuse("tenant", "disabled", text)
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// This dispatcher's copy, read again every second. Written by whoever read the table last.
#[derive(Default)]
pub(super) struct Publishers(Mutex<Arc<Bindings>>);

impl Publishers {
    fn read(&self) -> Arc<Bindings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Ledger {
    /// Gives a job that came over AMQP the tenant of its publisher, or says why it cannot be taken.
    pub(super) fn attribute(&self, user: Option<&str>, spec: &mut JobSpec) -> Result<(), Fault> {
        self.inner.publishers.read().judge(self.inner.amqp_tenants, user, spec)
    }

    /// The tenant for which a RabbitMQ user publishes.
    pub(super) fn tenant_of_user(&self, user: Option<&str>) -> Option<String> {
        self.inner.publishers.read().by_user.get(user?).cloned()
    }

    /// Whether who published a message can change what becomes of it.
    pub(crate) fn minds_publishers(&self) -> bool {
        self.inner.amqp_tenants == AmqpTenants::Require || !self.inner.publishers.read().by_user.is_empty()
    }

    /// Reads again who publishes for whom.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn read_publishers(&self) -> Result<(), Unavailable> {
        let bindings = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let mut bindings = Bindings::default();
                for row in client.query(&client.prepare_cached(READ).await?, &[]).await? {
                    let (tenant, user): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
                    if row.try_get(2)? {
                        bindings.disabled.insert(tenant.clone());
                    }
                    if let Some(user) = user {
                        bindings.by_user.insert(user, tenant);
                    }
                }
                Ok(bindings)
            })
            .await?;
        *self.inner.publishers.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(bindings);
        Ok(())
    }

    /// After a change of ours: whoever asked for it may publish the moment that they are answered. Where it cannot be read, and
    /// on other dispatchers, it counts with the next second.
    pub(super) async fn learn_publishers_now(&self) {
        if let Err(error) = self.read_publishers().await {
            tracing::debug!(%error, "who publishes for which tenant was not read after a change");
        }
    }
}

const READ: &str = "SELECT name, amqp_user, disabled_at IS NOT NULL FROM tenant \
     WHERE amqp_user IS NOT NULL OR disabled_at IS NOT NULL";

#[cfg(test)]
mod tests {
    use AmqpTenants::{Bound, Require, Trust};

    use super::*;

    /// The job's tenant after it was judged, or the fault's code. `acme` and `gone` have users, `gone` is disabled, `free` has no user.
    fn judged(rule: AmqpTenants, user: Option<&str>, named: Option<&str>) -> Result<Option<String>, String> {
        let text = |text: &str| text.to_owned();
        let bindings = Bindings {
            by_user: HashMap::from([(text("acme-in"), text("acme")), (text("gone-in"), text("gone"))]),
            disabled: HashSet::from([text("gone")]),
        };
        let mut spec = JobSpec { tenant: named.map(text), ..JobSpec::new("720p30-h264") };
        bindings.judge(rule, user, &mut spec).map(|()| spec.tenant).map_err(|fault| fault.code.to_string())
    }

    #[test]
    fn a_user_publishes_for_its_own_tenant_and_for_no_other_whatever_the_rule() {
        for rule in [Require, Bound, Trust] {
            let acme = || Ok(Some("acme".to_owned()));
            assert_eq!(judged(rule, Some("acme-in"), None), acme());
            assert_eq!(judged(rule, Some("acme-in"), Some("acme")), acme());
            assert_eq!(judged(rule, Some("acme-in"), Some("free")), Err("other_tenant".to_owned()));
            assert_eq!(judged(rule, Some("gone-in"), None), Err("disabled".to_owned()));
            assert_eq!(judged(rule, Some("pool"), None), Ok(None), "a user of the pool's");
        }
    }

    #[test]
    fn without_a_proof_the_rule_decides() {
        let refused = || Err("unproven_tenant".to_owned());
        let taken = |name: &str| Ok(Some(name.to_owned()));
        for user in [None, Some("pool")] {
            assert_eq!(judged(Trust, user, Some("acme")), taken("acme"));
            assert_eq!(judged(Bound, user, Some("acme")), refused(), "{user:?} spends what is another's");
            assert_eq!(judged(Require, user, Some("acme")), refused());
            assert_eq!(judged(Trust, user, Some("free")), taken("free"));
            assert_eq!(judged(Bound, user, Some("free")), taken("free"), "it has no user that could prove it");
            assert_eq!(judged(Require, user, Some("free")), refused());
        }
        assert_eq!(judged(Bound, None, None), Ok(None));
        assert_eq!(judged(Require, None, None), Err("unproven_publisher".to_owned()), "whose it is cannot be told");
        assert_eq!(judged(Trust, None, Some("gone")), Err("disabled".to_owned()));
    }
}
