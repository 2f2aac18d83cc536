//! Tenants: who they are, what they may have, and whether their keys open anything.
//!
//! Invariant: a tenant is never deleted, because its name stands in jobs, keys and the audit; it is disabled.

use ffpool_schema::api::{TenantChange, TenantLimits, TenantRequest, TenantView};
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::Fault;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::actor::{Actor, Realm};
use super::audit::Entry;
use super::read::{ReadError, bounded};
use super::{Ledger, Unavailable};

/// Tenants that are listed at most, by name.
const TENANTS_MAX: i64 = 10_000;
/// Largest weight.
const WEIGHT_MAX: i32 = 1_000;

/// Why a tenant was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// There is one of this name.
    #[error("there is a tenant `{0}` already: change it with `tenants set`, or choose another name")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no tenant `{0}`: `tenants list` shows all")]
    NotFound(String),
    /// Another tenant has this RabbitMQ user.
    #[error("the RabbitMQ user `{0}` is another tenant's: each has its own")]
    UserTaken(String),
    /// A value that cannot be.
    #[error("`{field}`: {expected}")]
    BadValue {
        /// Which.
        field: &'static str,
        /// What can.
        expected: String,
    },
    /// The ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] ReadError),
}

impl Ledger {
    /// Makes a tenant.
    ///
    /// # Errors
    /// A name that is taken or no name, a limit that cannot be, or a ledger that cannot be written.
    pub async fn create_tenant(&self, request: &TenantRequest, actor: &Actor) -> Result<TenantView, TenantError> {
        if !ffpool_schema::catalog::is_name(&request.name) {
            let expected = "1 to 64 letters, digits, `-` or `_` are expected, the first no sign".to_owned();
            return Err(TenantError::BadValue { field: "name", expected });
        }
        check(&request.set)?;
        let made = self.write_tenant(INSERT, &request.name, &request.set).await?;
        let view = made.ok_or_else(|| TenantError::Exists(request.name.clone()))?;
        let entry = Entry::new("create_tenant", &view.name).of_tenant(Some(&view.name)).after(json!(view));
        self.audit(actor, entry).await;
        self.learn_publishers_now().await;
        Ok(view)
    }

    /// Changes what a tenant may have.
    ///
    /// # Errors
    /// When there is none of this name, or a limit cannot be, or the ledger cannot be written.
    pub async fn set_tenant(
        &self,
        name: &str,
        change: &TenantChange,
        actor: &Actor,
    ) -> Result<TenantView, TenantError> {
        check(change)?;
        let before = self.tenant(&Realm::Pool, name).await?;
        let changed = self.write_tenant(UPDATE, name, change).await?;
        let view = changed.ok_or_else(|| TenantError::NotFound(name.to_owned()))?;
        let entry = Entry::new("set_tenant", name).of_tenant(Some(name)).before(json!(before)).after(json!(view));
        self.audit(actor, entry).await;
        self.learn_publishers_now().await;
        Ok(view)
    }

    /// Disables a tenant, so that its keys open nothing and its schedules make no jobs, or lets it go on. Its jobs stay.
    ///
    /// # Errors
    /// When there is none of this name, or the ledger cannot be written.
    pub async fn disable_tenant(&self, name: &str, disabled: bool, actor: &Actor) -> Result<TenantView, TenantError> {
        let before = self.tenant(&Realm::Pool, name).await?;
        let changed = bounded(async {
            let client = self.inner.writers.get().await?;
            let row = client.query_opt(&client.prepare_cached(DISABLE).await?, &[&name, &disabled]).await?;
            row.as_ref().map(view).transpose()
        });
        let view = changed.await?.ok_or_else(|| TenantError::NotFound(name.to_owned()))?;
        let action = if disabled { "disable_tenant" } else { "enable_tenant" };
        let state = |view: &TenantView| json!({ "disabled_at": view.disabled_at });
        let entry = Entry::new(action, name).of_tenant(Some(name)).before(state(&before)).after(state(&view));
        self.audit(actor, entry).await;
        self.learn_publishers_now().await;
        Ok(view)
    }

    /// The tenants of a realm, by name: all, or the one.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn tenants(&self, realm: &Realm) -> Result<Vec<TenantView>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(LIST).await?, &[&realm.tenant(), &TENANTS_MAX]).await?;
            rows.iter().map(view).collect()
        })
        .await
    }

    /// One tenant of a realm.
    ///
    /// # Errors
    /// When there is none of this name, or the ledger cannot be read.
    pub async fn tenant(&self, realm: &Realm, name: &str) -> Result<TenantView, TenantError> {
        let not_found = || TenantError::NotFound(name.to_owned());
        if !realm.holds(Some(name)) {
            return Err(not_found());
        }
        let own = Realm::Tenant(name.to_owned());
        self.tenants(&own).await?.pop().ok_or_else(not_found)
    }

    async fn write_tenant(
        &self,
        sql: &'static str,
        name: &str,
        change: &TenantChange,
    ) -> Result<Option<TenantView>, TenantError> {
        let written = bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(sql).await?;
            let TenantChange {
                weight,
                max_queued,
                max_running,
                max_cpu_cores,
                max_storage_mb,
                requests_per_sec,
                amqp_user,
            } = change;
            let row = client
                .query_opt(
                    &statement,
                    &[
                        &name,
                        weight,
                        &max_queued.is_some(),
                        &max_queued.flatten(),
                        &max_running.is_some(),
                        &max_running.flatten(),
                        &max_cpu_cores.is_some(),
                        &max_cpu_cores.flatten(),
                        &max_storage_mb.is_some(),
                        &max_storage_mb.flatten(),
                        &requests_per_sec.is_some(),
                        &requests_per_sec.flatten(),
                        &amqp_user.is_some(),
                        &amqp_user.as_ref().and_then(Option::as_deref),
                    ],
                )
                .await;
            match row {
                Ok(row) => Ok(Ok(row.as_ref().map(view).transpose()?)),
                Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(Err(())),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        written.map_err(|()| TenantError::UserTaken(change.amqp_user.clone().flatten().unwrap_or_default()))
    }

    /// What is wrong with a job's tenant, or with whose jobs it waits for, for whoever can still be told.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub(super) async fn tenant_fault(&self, realm: &Realm, spec: &JobSpec) -> Result<Option<Fault>, Unavailable> {
        let Some(tenant) = spec.tenant.as_deref() else { return Ok(None) };
        let parents: Vec<Uuid> = spec.depends_on.iter().map(|parent| parent.0).collect();
        let found = self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(FIT).await?;
            let row = client.query_one(&statement, &[&tenant, &parents]).await?;
            Ok((row.try_get::<_, bool>(0)?, row.try_get::<_, bool>(1)?, row.try_get::<_, Option<Uuid>>(2)?))
        });
        let (is_known, is_disabled, foreign) = found.await?;
        if !is_known {
            let message = format!("there is no tenant `{tenant}`; `ffpool tenants create {tenant}` makes it");
            return Ok(Some(Fault::new("tenant", "unknown", message)));
        }
        if is_disabled {
            let message = format!("the tenant `{tenant}` is disabled; `ffpool tenants enable {tenant}` lets it go on");
            return Ok(Some(Fault::new("tenant", "disabled", message)));
        }
        // To the tenant itself a job of somebody else's is one that nobody knows yet.
        let told = foreign.filter(|_| *realm == Realm::Pool).map(|parent| {
            let message = format!("job {parent} is not of the tenant `{tenant}`, whose jobs wait for their own alone");
            Fault::new("depends_on", "forbidden", message)
        });
        Ok(told)
    }
}

fn check(change: &TenantChange) -> Result<(), TenantError> {
    let refuse = |field, expected: &str| Err(TenantError::BadValue { field, expected: expected.to_owned() });
    if change.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
        return refuse("weight", "1 to 1000 is expected");
    }
    let whole = [
        ("max_queued", change.max_queued),
        ("max_running", change.max_running),
        ("max_storage_mb", change.max_storage_mb),
    ];
    if let Some((field, _)) = whole.into_iter().find(|(_, limit)| limit.flatten().is_some_and(|limit| limit < 0)) {
        return refuse(field, "0 or more is expected, or null for no limit");
    }
    if change.max_cpu_cores.flatten().is_some_and(|cores| !cores.is_finite() || cores < 0.0) {
        return refuse("max_cpu_cores", "0 or more is expected, or null for no limit");
    }
    if change.requests_per_sec.flatten().is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return refuse("requests_per_sec", "more than 0 is expected, or null for no limit");
    }
    if change.amqp_user.as_ref().and_then(Option::as_ref).is_some_and(|user| user.is_empty() || user.contains('\0')) {
        return refuse("amqp_user", "the name of a RabbitMQ user is expected, or null for none");
    }
    Ok(())
}

fn view(row: &Row) -> Result<TenantView, ReadError> {
    Ok(TenantView {
        name: row.try_get("name")?,
        limits: TenantLimits {
            weight: row.try_get("weight")?,
            max_queued: row.try_get("max_queued")?,
            max_running: row.try_get("max_running")?,
            max_cpu_cores: row.try_get("max_cpu_cores")?,
            max_storage_mb: row.try_get("max_storage_mb")?,
            requests_per_sec: row.try_get("requests_per_sec")?,
        },
        stored_bytes: row.try_get("stored_bytes")?,
        amqp_user: row.try_get("amqp_user")?,
        disabled_at: row.try_get("disabled_at")?,
        created_at: row.try_get("created_at")?,
    })
}

/// What [`view`] reads.
macro_rules! tenant_columns {
    () => {
        "name, weight, max_queued, max_running, max_cpu_cores, max_storage_mb, requests_per_sec, amqp_user, disabled_at, \
         created_at, stored_bytes + coalesce((SELECT sum(bytes) FROM stored_change WHERE stored_change.tenant = tenant.name), 0)::bigint \
         AS stored_bytes"
    };
}

const LIST: &str =
    concat!("SELECT ", tenant_columns!(), " FROM tenant WHERE $1::text IS NULL OR name = $1 ORDER BY name LIMIT $2");

// The odd parameters say whether the next one is given.
const INSERT: &str = concat!(
    "INSERT INTO tenant (name, weight, max_queued, max_running, max_cpu_cores, max_storage_mb, requests_per_sec, amqp_user) \
     SELECT $1, coalesce($2, 1), CASE WHEN $3 THEN $4::bigint END, CASE WHEN $5 THEN $6::bigint END, \
            CASE WHEN $7 THEN $8::float8 END, CASE WHEN $9 THEN $10::bigint END, CASE WHEN $11 THEN $12::float8 END, \
            CASE WHEN $13 THEN $14 END \
     ON CONFLICT (name) DO NOTHING RETURNING ",
    tenant_columns!()
);

const UPDATE: &str = concat!(
    "UPDATE tenant SET weight = coalesce($2, weight), \
            max_queued = CASE WHEN $3 THEN $4::bigint ELSE max_queued END, \
            max_running = CASE WHEN $5 THEN $6::bigint ELSE max_running END, \
            max_cpu_cores = CASE WHEN $7 THEN $8::float8 ELSE max_cpu_cores END, \
            max_storage_mb = CASE WHEN $9 THEN $10::bigint ELSE max_storage_mb END, \
            requests_per_sec = CASE WHEN $11 THEN $12::float8 ELSE requests_per_sec END, \
            amqp_user = CASE WHEN $13 THEN $14 ELSE amqp_user END \
     WHERE name = $1 RETURNING ",
    tenant_columns!()
);

const DISABLE: &str = concat!(
    "UPDATE tenant SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1 RETURNING ",
    tenant_columns!()
);

const FIT: &str = "SELECT EXISTS (SELECT FROM tenant WHERE name = $1), \
     EXISTS (SELECT FROM tenant WHERE name = $1 AND disabled_at IS NOT NULL), \
     (SELECT id FROM job WHERE id = ANY ($2::uuid[]) AND tenant IS DISTINCT FROM $1 LIMIT 1)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_be_is_refused_by_its_name() {
        let change = |text: &str| check(&serde_json::from_str(text).unwrap()).map_err(|error| error.to_string());
        assert_eq!(change(r#"{"weight": 1000, "max_queued": 0, "max_running": null}"#), Ok(()));
        for (bad, field) in [
            (r#"{"weight": 0}"#, "`weight`"),
            (r#"{"weight": 1001}"#, "`weight`"),
            (r#"{"max_queued": -1}"#, "`max_queued`"),
            (r#"{"max_storage_mb": -1}"#, "`max_storage_mb`"),
            (r#"{"max_cpu_cores": -0.5}"#, "`max_cpu_cores`"),
            (r#"{"requests_per_sec": 0}"#, "`requests_per_sec`"),
            (r#"{"amqp_user": ""}"#, "`amqp_user`"),
        ] {
            assert!(change(bad).unwrap_err().starts_with(field), "{bad}");
        }
    }
}
