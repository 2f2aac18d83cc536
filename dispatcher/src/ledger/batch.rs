//! One transaction of the ledger: lock the jobs, record the new ones, decide every happening in order, write it all.
//!
//! Invariants:
//! * the number of statements does not depend on the number of happenings;
//! * rows are locked in the order of their ids, so that two transactions never wait for each other in a circle;
//! * everything here may be done again: a happening that was decided before is stale, or grants the same again.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::ClientWrapper;
use ffpool_runtime::traces;
use ffpool_schema::cost::{Hours, Prices};
use ffpool_schema::failure::Cause;
use ffpool_schema::id::{Incarnation, JobId, WorkerId};
use ffpool_schema::job::ResourceLimits;
use ffpool_schema::lifecycle::{Custody, Facts, Input, Placing, State};
use ffpool_schema::message::{Sender, Usage};
use futures_util::future::{try_join, try_join3};
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};
use uuid::Uuid;

use super::families::{Relative, insert_dependencies, refuse_circles, wait_for_pieces};
use super::fresh::{Due, NewJob, Origin};
use super::quotas::{self, Held, Tallies, job_cores, job_urgency};
use super::record::{
    Count, Effects, EventRow, HELD_MS, Happening, Lesson, Outbox, PUBLISH_CLAIM_MS, Plan, Policy, Record, Verdict,
    Writes, decide,
};
use super::tales::Tale;
use super::{search, thumbnails};

/// What a batch decided, before it is written.
pub(super) struct Decisions {
    records: BTreeMap<JobId, Record>,
    plan: Plan,
    pub(super) verdicts: Vec<Verdict>,
}

/// Locks the jobs of `happenings`, records those that are new, and decides. Runs inside a transaction of the caller's.
pub(super) async fn decide_all(
    client: &ClientWrapper,
    happenings: &[&Happening],
    policy: &Policy,
) -> Result<Decisions, Error> {
    let mut records = lock(client, happenings).await?;
    let tallies = quotas::lock(client, &limited_tenants(happenings, &records)).await?;
    let mut plan = Plan { tallies, ..Plan::default() };
    record_missing(client, happenings, &mut records, &mut plan).await?;
    let verdicts = happenings
        .iter()
        .map(|happening| match records.get_mut(&happening.job) {
            Some(record) => decide(record, happening, policy, rand::random::<f64>(), &mut plan),
            None => Verdict::Unknown,
        })
        .collect();
    record_pieces(client, &mut plan).await?;
    Ok(Decisions { records, plan, verdicts })
}

impl Decisions {
    /// Writes what was decided; the statements go out together and are answered in order.
    pub(super) async fn write(&self, client: &ClientWrapper, policy: &Policy, prices: &Prices) -> Result<(), Error> {
        let records: Vec<&Record> = self.records.values().filter(|record| record.writes.touched).collect();
        let jobs = async { if records.is_empty() { Ok(()) } else { update_jobs(client, &records, policy).await } };
        let history = try_join(
            try_join3(self.write_begun(client), self.write_ended(client, prices), self.write_failures(client)),
            try_join(write_events(client, &self.plan.events), thumbnails::write(client, &self.plan.thumbnails)),
        );
        try_join(jobs, history).await?;
        Ok(())
    }

    /// What follows once it is committed, and the verdicts, one for each happening.
    pub(super) fn take(self) -> (Effects, Vec<Verdict>) {
        (self.plan.effects, self.verdicts)
    }

    async fn write_begun(&self, client: &ClientWrapper) -> Result<(), Error> {
        let rows = &self.plan.begun;
        if rows.is_empty() {
            return Ok(());
        }
        let statement = client.prepare_cached(INSERT_ATTEMPTS).await?;
        let jobs: Vec<Uuid> = rows.iter().map(|row| row.job.0).collect();
        let attempts: Vec<i32> = rows.iter().map(|row| integer(row.attempt)).collect();
        let workers: Vec<&str> = rows.iter().map(|row| row.owner.worker.as_str()).collect();
        let lives: Vec<Uuid> = rows.iter().map(|row| row.owner.incarnation.0).collect();
        client.execute(&statement, &[&jobs, &attempts, &workers, &lives]).await?;
        Ok(())
    }

    async fn write_ended(&self, client: &ClientWrapper, prices: &Prices) -> Result<(), Error> {
        let rows = &self.plan.ended;
        if rows.is_empty() {
            return Ok(());
        }
        let statement = client.prepare_cached(END_ATTEMPTS).await?;
        let jobs: Vec<Uuid> = rows.iter().map(|row| row.job.0).collect();
        let attempts: Vec<i32> = rows.iter().map(|row| integer(row.attempt)).collect();
        let ends: Vec<&str> = rows.iter().map(|row| row.end.as_str()).collect();
        let failures: Vec<Option<String>> = rows.iter().map(|row| row.failure.as_ref().map(json)).collect();
        let usages: Vec<Option<String>> = rows.iter().map(|row| row.usage.as_ref().map(json)).collect();
        let cost = |usage: &Usage| prices.of(&Hours::of(usage));
        let costs: Vec<Option<f64>> = rows.iter().map(|row| row.usage.as_ref().and_then(cost)).collect();
        let values: [&(dyn ToSql + Sync); 7] = [&jobs, &attempts, &ends, &failures, &usages, &costs, &prices.currency];
        client.execute(&statement, &values).await?;
        Ok(())
    }

    async fn write_failures(&self, client: &ClientWrapper) -> Result<(), Error> {
        let rows = &self.plan.failures;
        if rows.is_empty() {
            return Ok(());
        }
        let statement = client.prepare_cached(INSERT_FAILURES).await?;
        let jobs: Vec<Uuid> = rows.iter().map(|row| row.job.0).collect();
        let numbers: Vec<i64> = rows.iter().map(|row| row.number).collect();
        let tenants: Vec<Option<&str>> = rows.iter().map(|row| row.tenant.as_deref()).collect();
        let attempts: Vec<Option<i32>> = rows.iter().map(|row| row.attempt.map(integer)).collect();
        let causes: Vec<&str> = rows.iter().map(|row| row.cause.as_str()).collect();
        let retried: Vec<bool> = rows.iter().map(|row| row.retried).collect();
        let parked: Vec<bool> = rows.iter().map(|row| row.parked).collect();
        client.execute(&statement, &[&jobs, &numbers, &tenants, &attempts, &causes, &retried, &parked]).await?;
        Ok(())
    }
}

/// Prepares the statements of a batch, so that later they go out in one write and need no round trip.
pub(super) async fn prepare(client: &ClientWrapper) -> Result<(), Error> {
    for sql in [
        LOCK,
        INSERT_JOBS,
        UPDATE_JOBS,
        INSERT_ATTEMPTS,
        END_ATTEMPTS,
        INSERT_FAILURES,
        INSERT_EVENTS,
        thumbnails::KEEP,
    ] {
        client.prepare_cached(sql).await?;
    }
    Ok(())
}

/// The statement that locks jobs, and its arguments' owners.
async fn lock(client: &ClientWrapper, happenings: &[&Happening]) -> Result<BTreeMap<JobId, Record>, Error> {
    let ids: BTreeSet<JobId> = happenings.iter().map(|happening| happening.job).collect();
    let claimed: Vec<Uuid> = happenings
        .iter()
        .filter(|happening| matches!(happening.input, Input::Claim { .. } | Input::Take { .. } | Input::Split { .. }))
        .map(|happening| happening.job.0)
        .collect();
    let statement = client.prepare_cached(LOCK).await?;
    select_locked(client, &statement, &ids, &claimed).await
}

async fn select_locked(
    client: &ClientWrapper,
    statement: &Statement,
    ids: &BTreeSet<JobId>,
    claimed: &[Uuid],
) -> Result<BTreeMap<JobId, Record>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = client.query(statement, &[&ids, &claimed]).await?;
    rows.iter().map(|row| read_record(row).map(|record| (record.id, record))).collect()
}

/// The tenants whose quotas decide about what happens: those of jobs that are new, and of those that are to start.
fn limited_tenants<'h>(happenings: &[&'h Happening], records: &'h BTreeMap<JobId, Record>) -> BTreeSet<&'h str> {
    let tenant_of = |happening: &&'h Happening| match records.get(&happening.job) {
        Some(record) if matches!(happening.input, Input::Claim { .. } | Input::Take { .. }) => record.tenant.as_deref(),
        Some(_) => None,
        None => happening.record.as_deref().and_then(NewJob::tenant),
    };
    happenings.iter().filter_map(tenant_of).collect()
}

/// Records the jobs that are new. One that another dispatcher records at this moment is waited for and locked.
async fn record_missing(
    client: &ClientWrapper,
    happenings: &[&Happening],
    records: &mut BTreeMap<JobId, Record>,
    plan: &mut Plan,
) -> Result<(), Error> {
    let mut missing: BTreeMap<JobId, &NewJob> = happenings
        .iter()
        .filter(|happening| !records.contains_key(&happening.job))
        .filter_map(|happening| happening.record.as_deref().map(|record| (happening.job, record)))
        .collect();
    leave_out_forgotten(client, happenings, &mut missing).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let refused = refuse_circles(client, &missing).await?;
    missing.extend(refused.iter().map(|(id, new)| (*id, new)));
    let rows = insert_jobs(client, &missing, &mut plan.tallies).await?;
    for row in &rows {
        let mut record = read_record(row)?;
        let new = missing[&record.id];
        record.spec = new.spec.as_ref().ok().map(|spec| json(&with_id(spec, record.id)));
        record.traceparent = traces::to_store(record.id, new.traceparent.as_deref());
        note_recorded(&record, new, plan);
        records.insert(record.id, record);
    }
    let elsewhere: BTreeSet<JobId> = missing.keys().filter(|id| !records.contains_key(id)).copied().collect();
    if !elsewhere.is_empty() {
        let claimed: Vec<Uuid> = elsewhere.iter().map(|id| id.0).collect();
        // Rows of jobs are locked before those of tenants. Whoever has these may wait for the tenants that this batch has locked: then
        // it ends here and begins anew, when the rows are there from the start.
        let is_late = !plan.tallies.0.is_empty();
        let statement = client.prepare_cached(if is_late { LOCK_AT_ONCE } else { LOCK }).await?;
        records.extend(select_locked(client, &statement, &elsewhere, &claimed).await?);
    }
    Ok(())
}

/// Leaves out jobs that were on record and are no more, whose messages may still lie in a queue: those that make chunks, and
/// those that only a claim brings. Whoever hands a job in again under its id sends it by the tap or the API too.
async fn leave_out_forgotten<'h>(
    client: &ClientWrapper,
    happenings: &[&'h Happening],
    missing: &mut BTreeMap<JobId, &'h NewJob>,
) -> Result<(), Error> {
    let is_asked = |new: &NewJob| new.claims_to_be_part || new.origin == Origin::Claim;
    let asked: Vec<Uuid> = missing.iter().filter(|(_, new)| is_asked(new)).map(|(id, _)| id.0).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(FORGOTTEN).await?;
    for row in client.query(&statement, &[&asked]).await? {
        let (id, had_ended): (_, bool) = (JobId(row.try_get("id")?), row.try_get("had_ended")?);
        if missing.get(&id).is_some_and(|new| new.claims_to_be_part) {
            missing.remove(&id);
        } else if had_ended {
            // In the same batch as its claim, whichever of the two came first.
            let brought = happenings.iter().filter(|happening| happening.job == id);
            let handed_in =
                brought.filter_map(|happening| happening.record.as_deref()).find(|new| new.origin != Origin::Claim);
            match handed_in {
                Some(new) => missing.insert(id, new),
                None => missing.remove(&id),
            };
        }
    }
    Ok(())
}

/// Records the jobs that make chunks, each of which their whole waits for from now on, besides what it waited for before.
async fn record_pieces(client: &ClientWrapper, plan: &mut Plan) -> Result<(), Error> {
    let pieces = std::mem::take(&mut plan.pieces);
    if pieces.is_empty() {
        return Ok(());
    }
    let by_id: BTreeMap<JobId, &NewJob> = pieces.iter().map(|(id, new)| (*id, new)).collect();
    let mut records = BTreeMap::new();
    for row in &insert_jobs(client, &by_id, &mut Tallies::default()).await? {
        let record = read_record(row)?;
        records.insert(record.id, record);
    }
    for (id, new) in &pieces {
        if let Some(record) = records.get(id) {
            note_recorded(record, new, plan);
        }
    }
    let edges = pieces.iter().filter_map(|(id, new)| Some((new.part_of()?, *id)));
    wait_for_pieces(client, edges).await
}

/// The history and the effects of a job's recording.
pub(super) fn note_recorded_row(id: JobId, state: State, new: &NewJob, plan_events: &mut Vec<EventRow>) {
    let mut detail = serde_json::json!({"by": new.origin.as_str()});
    if let Err(faults) = &new.spec {
        detail["faults"] = serde_json::json!(faults);
    }
    plan_events.push(EventRow { job: id, kind: "recorded", state, attempt: 0, detail });
}

fn note_recorded(record: &Record, new: &NewJob, plan: &mut Plan) {
    let state = record.facts.state;
    note_recorded_row(record.id, state, new, &mut plan.events);
    plan.effects.families.extend(relative_of(record.id, state));
    plan.effects.counts.push(Count::Recorded { queue: record.queue.clone() });
    // One that came without an id is counted when it is held back at its claim.
    if let Some(held) = record.held.filter(|_| state == State::Delayed) {
        plan.effects.counts.push(Count::Held(held));
    }
    if state.is_end() {
        plan.effects.counts.push(Count::Ended { state, queue: record.queue.clone() });
        plan.effects.tales.push(Tale::ended(record, None));
    }
    // No broker has it yet. Left to the sweep, it would wait until this process counts as gone.
    if state == State::Queued && matches!(new.origin, Origin::Api | Origin::Split) {
        plan.effects.publish.push(record.id);
    }
}

/// After which recordings children must be looked at.
pub(super) fn relative_of(id: JobId, state: State) -> Option<Relative> {
    match state {
        State::Blocked => Some(Relative::Waits(id)),
        state if state.is_end() => Some(Relative::Ended(id)),
        _ => None,
    }
}

/// Inserts jobs in the order of their ids and returns the rows that were not there before. One too many for its tenant is held
/// back.
pub(super) async fn insert_jobs(
    client: &ClientWrapper,
    jobs: &BTreeMap<JobId, &NewJob>,
    tallies: &mut Tallies,
) -> Result<Vec<Row>, Error> {
    // The clock that decides about everything later; asked only where a decision depends on it.
    let now = match jobs.values().any(|new| new.is_timed()) {
        true => client.query_one("SELECT clock_timestamp()", &[]).await?.try_get(0)?,
        false => Timestamp::UNIX_EPOCH,
    };
    let mut columns = JobColumns::default();
    for (id, new) in jobs {
        columns.push(*id, new, now, tallies);
    }
    let rows = columns.insert(client).await?;
    quotas::write_paces(client, tallies).await?;
    let ids = rows.iter().map(|row| row.try_get("id").map(JobId)).collect::<Result<Vec<_>, _>>()?;
    insert_dependencies(client, ids.into_iter().map(|id| (id, jobs[&id]))).await?;
    Ok(rows)
}

/// The columns of new jobs, one vector each, as `unnest` takes them.
#[derive(Default)]
struct JobColumns<'a> {
    ids: Vec<Uuid>,
    states: Vec<&'static str>,
    queues: Vec<&'static str>,
    priorities: Vec<&'static str>,
    pools: Vec<&'a str>,
    scenarios: Vec<&'a str>,
    tenants: Vec<Option<&'a str>>,
    labels: Vec<String>,
    specs: Vec<Option<String>>,
    bodies: Vec<&'a [u8]>,
    content_types: Vec<String>,
    traceparents: Vec<Option<String>>,
    fingerprints: Vec<Option<&'a str>>,
    tapped: Vec<bool>,
    max_retries: Vec<i32>,
    custodies: Vec<Option<&'static str>>,
    publish_ms: Vec<Option<i64>>,
    publish_at: Vec<Option<Timestamp>>,
    faults: Vec<Option<String>>,
    reasons: Vec<Option<String>>,
    deadlines: Vec<Option<Timestamp>>,
    callback_urls: Vec<Option<&'a str>>,
    parts_of: Vec<Option<Uuid>>,
    held_by: Vec<Option<&'static str>>,
    units: Vec<Option<i32>>,
    texts: Vec<String>,
}

impl<'a> JobColumns<'a> {
    fn push(&mut self, id: JobId, new: &'a NewJob, now: Timestamp, tallies: &mut Tallies) {
        let (state, due) = new.begin(now);
        let held = new.tenant().and_then(|tenant| tallies.take_in(tenant, state, new.origin));
        // The message of one without an id finds its job by the state: it is held back at its claim. One whose time has not come is
        // let go after it.
        let (state, due) = match (&held, due) {
            (Some(_), None | Some(Due::In(_))) if new.fingerprint.is_none() => (State::Delayed, Some(Due::In(HELD_MS))),
            (Some(_) | None, due) => (state, due),
        };
        self.held_by.push(held.as_ref().map(|(held, _)| held.as_str()));
        let spec = new.spec.as_deref().ok();
        self.ids.push(id.0);
        self.states.push(state.as_str());
        self.queues.push(new.work.queue.as_str());
        self.priorities.push(new.work.priority.as_str());
        self.pools.push(new.work.pool.as_str());
        self.scenarios.push(&new.scenario);
        self.tenants.push(new.owner());
        self.labels.push(spec.map_or_else(|| "{}".to_owned(), |spec| json(&spec.labels)));
        self.specs.push(spec.map(|spec| json(&with_id(spec, id))));
        self.bodies.push(new.kept_body());
        self.content_types.push(new.content_type.replace('\0', ""));
        self.traceparents.push(traces::to_store(id, new.traceparent.as_deref()));
        self.fingerprints.push(new.fingerprint.as_deref());
        self.tapped.push(new.tapped());
        self.max_retries.push(spec.map_or(0, |spec| integer(spec.max_retries)));
        self.custodies.push(new.custody(state).map(Custody::as_str));
        self.publish_ms.push(due.and_then(|due| if let Due::In(ms) = due { Some(ms) } else { None }));
        self.publish_at.push(due.and_then(|due| if let Due::At(at) = due { Some(at) } else { None }));
        self.faults.push(new.spec.as_ref().err().map(json));
        let fault = new.spec.as_ref().err().and_then(|faults| faults.first()).map(|fault| clean(&fault.to_string()));
        self.reasons.push(fault.or(held.map(|(_, why)| clean(&why))));
        self.deadlines.push(spec.and_then(|spec| spec.deadline));
        self.callback_urls.push(new.callback_url.as_deref());
        self.parts_of.push(new.part_of().map(|whole| whole.0));
        self.units.push(spec.map(|spec| integer(spec.units())));
        let text = spec.filter(|_| new.part_of().is_none()).map(search::text_of);
        self.texts.push(clean(&text.unwrap_or_default()));
    }

    async fn insert(&self, client: &ClientWrapper) -> Result<Vec<Row>, Error> {
        let statement = client.prepare_cached(INSERT_JOBS).await?;
        client
            .query(
                &statement,
                &[
                    &self.ids,
                    &self.states,
                    &self.queues,
                    &self.priorities,
                    &self.pools,
                    &self.scenarios,
                    &self.tenants,
                    &self.labels,
                    &self.specs,
                    &self.bodies,
                    &self.content_types,
                    &self.traceparents,
                    &self.fingerprints,
                    &self.tapped,
                    &self.max_retries,
                    &self.custodies,
                    &self.publish_ms,
                    &self.publish_at,
                    &self.faults,
                    &self.reasons,
                    &self.deadlines,
                    &self.callback_urls,
                    &self.parts_of,
                    &self.held_by,
                    &self.units,
                    &self.texts,
                ],
            )
            .await
    }
}

async fn update_jobs(client: &ClientWrapper, records: &[&Record], policy: &Policy) -> Result<(), Error> {
    let statement = client.prepare_cached(UPDATE_JOBS).await?;
    let ids: Vec<Uuid> = records.iter().map(|r| r.id.0).collect();
    let states: Vec<&str> = records.iter().map(|r| r.facts.state.as_str()).collect();
    let attempts: Vec<i32> = records.iter().map(|r| integer(r.facts.attempt)).collect();
    let failures: Vec<i32> = records.iter().map(|r| integer(r.facts.failures)).collect();
    let losses: Vec<i32> = records.iter().map(|r| integer(r.facts.losses)).collect();
    let workers: Vec<Option<&str>> =
        records.iter().map(|r| r.facts.owner.as_ref().map(|o| o.worker.as_str())).collect();
    let lives: Vec<Option<Uuid>> = records.iter().map(|r| r.facts.owner.as_ref().map(|o| o.incarnation.0)).collect();
    let consents: Vec<Option<i32>> = records.iter().map(|r| r.facts.consent.map(integer)).collect();
    let causes: Vec<Option<&str>> = records.iter().map(|r| r.facts.last_cause.map(Cause::as_str)).collect();
    let custodies: Vec<Option<&str>> = records.iter().map(|r| r.custody.map(Custody::as_str)).collect();
    let tapped: Vec<bool> = records.iter().map(|r| r.tapped).collect();
    let reasons: Vec<Option<String>> = records.iter().map(|r| r.reason.as_deref().map(clean)).collect();
    let renewed: Vec<bool> = records.iter().map(|r| r.writes.renew_lease).collect();
    let cleared: Vec<bool> = records.iter().map(|r| r.writes.clear_progress).collect();
    let begun: Vec<bool> = records.iter().map(|r| r.writes.begun).collect();
    let outboxes: Vec<Option<i64>> = records
        .iter()
        .map(|r| match r.writes.outbox {
            Some(Outbox::Enter(ms)) => Some(ms.max(0)),
            Some(Outbox::EnterFirst) => Some(PUBLISH_CLAIM_MS),
            Some(Outbox::Leave) => Some(-1),
            Some(Outbox::EnterWhenDue) => Some(-2),
            None => None,
        })
        .collect();
    let returned: Vec<bool> = records.iter().map(|r| r.writes.outbox == Some(Outbox::EnterFirst)).collect();
    let placing: Vec<bool> = records.iter().map(|r| r.facts.placing != Placing::No).collect();
    let chosen = |r: &Record| match &r.facts.placing {
        Placing::Offered(chosen) => Some(chosen.clone()),
        Placing::No | Placing::Wanted => None,
    };
    let offered: Vec<Option<String>> = records.iter().map(|r| chosen(r).map(|o| o.worker.to_string())).collect();
    let offered_lives: Vec<Option<Uuid>> = records.iter().map(|r| chosen(r).map(|o| o.incarnation.0)).collect();
    let failure_texts: Vec<Option<String>> = records.iter().map(|r| r.writes.failure.as_ref().map(json)).collect();
    let faults: Vec<Option<String>> = records.iter().map(|r| r.writes.faults.as_ref().map(json)).collect();
    let manifests: Vec<Option<String>> = records.iter().map(|r| r.writes.manifest.as_ref().map(json)).collect();
    let paused: Vec<bool> = records.iter().map(|r| r.facts.paused).collect();
    let finishing: Vec<bool> = records.iter().map(|r| r.facts.finishing).collect();
    let default_memory_mb = i64::try_from(ResourceLimits::MEMORY_MB).unwrap_or(i64::MAX);
    let kinds: Vec<Option<&str>> = records.iter().map(|r| r.writes.kind.as_deref()).collect();
    let lessons: Vec<Option<&str>> = records.iter().map(|r| r.writes.lesson.map(Lesson::as_str)).collect();
    let chunks: Vec<Option<i32>> = records.iter().map(|r| r.writes.chunks.map(integer)).collect();
    let splits: Vec<i32> = records.iter().map(|r| integer(r.splits)).collect();
    let held: Vec<Option<&str>> = records.iter().map(|r| r.held.map(Held::as_str)).collect();
    let stored: Vec<Option<i64>> = records.iter().map(|r| stored_bytes(r)).collect();
    let lease_ms = i64::try_from(policy.lease.as_millis()).unwrap_or(i64::MAX);
    client
        .execute(
            &statement,
            &[
                &ids,
                &states,
                &attempts,
                &failures,
                &losses,
                &workers,
                &lives,
                &consents,
                &causes,
                &custodies,
                &tapped,
                &reasons,
                &renewed,
                &cleared,
                &begun,
                &outboxes,
                &failure_texts,
                &faults,
                &manifests,
                &lease_ms,
                &paused,
                &kinds,
                &lessons,
                &default_memory_mb,
                &returned,
                &placing,
                &offered,
                &offered_lives,
                &chunks,
                &splits,
                &finishing,
                &held,
                &stored,
            ],
        )
        .await?;
    Ok(())
}

/// What the files of a job take that completes now.
fn stored_bytes(record: &Record) -> Option<i64> {
    let manifest = record.writes.manifest.as_ref().filter(|_| record.facts.state == State::Completed)?;
    Some(i64::try_from(manifest.bytes()).unwrap_or(i64::MAX))
}

/// Appends to the history.
pub(super) async fn write_events(client: &ClientWrapper, events: &[EventRow]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(INSERT_EVENTS).await?;
    let jobs: Vec<Uuid> = events.iter().map(|event| event.job.0).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind).collect();
    let states: Vec<&str> = events.iter().map(|event| event.state.as_str()).collect();
    let attempts: Vec<i32> = events.iter().map(|event| integer(event.attempt)).collect();
    let details: Vec<String> = events.iter().map(|event| json(&event.detail)).collect();
    client.execute(&statement, &[&jobs, &kinds, &states, &attempts, &details]).await?;
    Ok(())
}

fn read_record(row: &Row) -> Result<Record, Error> {
    let worker: Option<String> = row.try_get("owner_worker")?;
    let life: Option<Uuid> = row.try_get("owner_incarnation")?;
    let owner = worker.zip(life).and_then(|(worker, life)| sender(worker, life));
    let chosen: Option<String> = row.try_get("offered_worker")?;
    let chosen_life: Option<Uuid> = row.try_get("offered_incarnation")?;
    let placing = match chosen.zip(chosen_life).and_then(|(worker, life)| sender(worker, life)) {
        Some(chosen) => Placing::Offered(chosen),
        None if row.try_get("wants_worker")? => Placing::Wanted,
        None => Placing::No,
    };
    let state: &str = row.try_get("state")?;
    let cause: Option<&str> = row.try_get("last_cause")?;
    let custody: Option<&str> = row.try_get("custody")?;
    Ok(Record {
        id: JobId(row.try_get("id")?),
        number: row.try_get("number")?,
        queue: row.try_get("queue")?,
        tenant: row.try_get("tenant")?,
        cores: row.try_get("cores")?,
        urgency: row.try_get("urgency")?,
        is_let_go: row.try_get("is_let_go")?,
        held: row.try_get::<_, Option<&str>>("held_by")?.and_then(Held::named),
        facts: Facts {
            state: state.parse().expect("the column's check allows the names of the states only"),
            attempt: natural(row.try_get("attempt")?),
            failures: natural(row.try_get("failures")?),
            max_retries: natural(row.try_get("max_retries")?),
            losses: natural(row.try_get("losses")?),
            loss_limit: u32::MAX,
            owner,
            consent: row.try_get::<_, Option<i32>>("consent")?.map(natural),
            last_cause: cause.and_then(|name| Cause::ALL.into_iter().find(|cause| cause.as_str() == name)),
            paused: row.try_get("paused")?,
            finishing: row.try_get("finishing")?,
            placing,
        },
        custody: custody.and_then(|name| [Custody::Broker, Custody::Ledger].into_iter().find(|c| c.as_str() == name)),
        tapped: row.try_get("tapped")?,
        reason: row.try_get("reason")?,
        traceparent: row.try_get("traceparent")?,
        spec: row.try_get("spec")?,
        lease_is_over: row.try_get("lease_is_over")?,
        is_due: row.try_get("is_due")?,
        deadline_is_over: row.try_get("deadline_is_over")?,
        raised_memory_mb: row.try_get::<_, Option<i64>>("raised_memory_mb")?.and_then(|mb| u64::try_from(mb).ok()),
        fell_back: row.try_get("fell_back")?,
        chunks: row.try_get::<_, Option<i32>>("chunks")?.map(natural),
        splits: natural(row.try_get("splits")?),
        in_chunks: row.try_get("in_chunks")?,
        created_at: row.try_get("created_at")?,
        age_secs: row.try_get("age_secs")?,
        since_secs: row.try_get("since_secs")?,
        idle_secs: row.try_get("idle_secs")?,
        run_secs: row.try_get("run_secs")?,
        writes: Writes::default(),
    })
}

/// Who is meant by the two columns that name a worker in one of its lives.
pub(super) fn sender(worker: String, life: Uuid) -> Option<Sender> {
    Some(Sender { worker: WorkerId::try_from(worker).ok()?, incarnation: Incarnation(life) })
}

/// JSON for a `jsonb` column, which cannot hold a NUL character.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("the contract's types are plain data with text keys");
    if text.contains("\\u0000") { text.replace("\\u0000", "\\ufffd") } else { text }
}

/// Text for a `text` column, which cannot hold a NUL character.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A number of ours for an `integer` column.
pub(super) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A number from an `integer` column that only we write.
pub(super) fn natural(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn with_id(spec: &ffpool_schema::job::JobSpec, id: JobId) -> ffpool_schema::job::JobSpec {
    ffpool_schema::job::JobSpec { id: Some(id), ..spec.clone() }
}

/// Whether a job makes a chunk or is made of chunks: such a one may lose more workers.
macro_rules! in_chunks {
    () => {
        "(part_of IS NOT NULL OR splits > 0) AS in_chunks"
    };
}
pub(super) use in_chunks;

macro_rules! record_columns {
    ($spec:literal, $idle:literal) => {
        concat!(
            "id, number, state, queue, tenant, held_by, ",
            job_cores!(),
            " AS cores, ",
            job_urgency!(),
            " AS urgency, held_at IS NOT NULL AND state = 'queued' AS is_let_go, attempt, failures, max_retries, losses, owner_worker, owner_incarnation, consent, \
             last_cause, paused, finishing, chunks, splits, wants_worker, offered_worker, offered_incarnation, \
             custody, tapped, reason, raised_memory_mb, fell_back, ",
            in_chunks!(),
            ", ",
            $spec,
            " AS spec, traceparent, \
             coalesce(lease_until < now(), false) AS lease_is_over, coalesce(publish_due <= now(), false) AS is_due, \
             coalesce(deadline <= now(), false) AS deadline_is_over, \
             created_at, extract(epoch FROM now() - created_at)::float8 AS age_secs, \
             extract(epoch FROM now() - state_since)::float8 AS since_secs, ",
            $idle,
            " AS idle_secs, \
             extract(epoch FROM now() - started_at)::float8 AS run_secs"
        )
    };
}

// What only a claim needs is read for those that are claimed alone.
macro_rules! lock {
    ($wait:literal) => {
        concat!(
            "SELECT ",
            record_columns!(
                "CASE WHEN id = ANY ($2::uuid[]) THEN spec::text END",
                "CASE WHEN attempt > 0 AND id = ANY ($2::uuid[]) THEN \
                        (SELECT extract(epoch FROM now() - a.ended_at)::float8 FROM attempt AS a \
                         WHERE a.job = job.id AND a.attempt = job.attempt) END"
            ),
            " FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE",
            $wait
        )
    };
}

const LOCK: &str = lock!("");

const LOCK_AT_ONCE: &str = lock!(" NOWAIT");

// Dead letters that were purged before it was kept how jobs had ended have no state.
const FORGOTTEN: &str = "SELECT id, state IS NOT NULL AS had_ended FROM purged WHERE id = ANY ($1::uuid[])";

// What jobs are found by goes in with them; what makes a chunk has no text.
const INSERT_JOBS: &str = concat!(
    "WITH made AS (INSERT INTO job (id, state, queue, priority, pool, scenario, tenant, labels, spec, body, content_type, traceparent, \
                      fingerprint, tapped, max_retries, custody, publish_due, faults, reason, deadline, callback_url, ended_at, part_of, held_by, units) \
     SELECT u.id, u.state, u.queue, u.priority, u.pool, u.scenario, u.tenant, u.labels::jsonb, u.spec::jsonb, u.body, \
            u.content_type, u.traceparent, u.fingerprint, u.tapped, u.max_retries, u.custody, \
            coalesce(u.publish_at, now() + u.publish_ms * interval '1 millisecond'), u.faults::jsonb, u.reason, u.deadline, u.callback_url, \
            CASE WHEN u.state = 'rejected' THEN now() END, u.part_of, u.held_by, u.units \
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[], $10::bytea[], $11::text[], $12::text[], $13::text[], $14::boolean[], $15::integer[], \
                 $16::text[], $17::bigint[], $18::timestamptz[], $19::text[], $20::text[], $21::timestamptz[], $22::text[], $23::uuid[], $24::text[], $25::integer[]) \
          AS u(id, state, queue, priority, pool, scenario, tenant, labels, spec, body, content_type, traceparent, \
               fingerprint, tapped, max_retries, custody, publish_ms, publish_at, faults, reason, deadline, callback_url, part_of, held_by, units) \
     ON CONFLICT (id) DO NOTHING \
     RETURNING ",
    record_columns!("NULL::text", "NULL::float8"),
    "), texts AS (INSERT INTO job_text (number, tenant, text) \
        SELECT number, tenant, text \
        FROM (SELECT number, tenant, ($26::text[])[array_position($1::uuid[], id)] AS text FROM made) AS found WHERE text <> '') \
     SELECT * FROM made"
);

const UPDATE_JOBS: &str = "UPDATE job AS j SET \
        state = u.state, attempt = u.attempt, failures = u.failures, losses = u.losses, owner_worker = u.worker, \
        owner_incarnation = u.life, consent = u.consent, last_cause = u.cause, paused = u.paused, finishing = u.finishing, custody = u.custody, \
        tapped = u.tapped, reason = u.reason, \
        lease_until = CASE WHEN u.renewed THEN now() + $20::bigint * interval '1 millisecond' \
                           WHEN u.state IN ('running', 'cancelling') THEN j.lease_until END, \
        progress = CASE WHEN u.cleared THEN NULL ELSE j.progress END, \
        frozen_since = CASE WHEN u.state IN ('running', 'cancelling') AND NOT u.cleared THEN j.frozen_since END, \
        dead_fingerprint = CASE WHEN u.state = 'failed' THEN coalesce(u.kind, j.dead_fingerprint) END, \
        raised_memory_mb = CASE u.lesson \
            WHEN 'more_memory' THEN 2 * coalesce(j.raised_memory_mb, \
                                                 (j.spec -> 'resource_limits' ->> 'max_memory_mb')::bigint, $24::bigint) \
            WHEN 'forget' THEN NULL \
            ELSE j.raised_memory_mb END, \
        fell_back = CASE u.lesson \
            WHEN 'fall_back' THEN j.fell_back OR coalesce(j.spec -> 'parameters' ->> 'hw', '') = 'prefer' \
            WHEN 'forget' THEN false \
            ELSE j.fell_back END, \
        deadline = CASE WHEN u.lesson = 'forget' AND j.deadline <= now() THEN NULL ELSE j.deadline END, \
        publish_due = CASE WHEN u.outbox IS NULL THEN j.publish_due \
                           WHEN u.outbox = -2 THEN greatest(now(), (j.spec ->> 'not_before')::timestamptz) \
                           WHEN u.outbox >= 0 THEN now() + u.outbox * interval '1 millisecond' END, \
        chunks = coalesce(u.chunks, j.chunks), splits = u.splits, held_by = u.held, \
        held_at = CASE WHEN u.held = 'running' THEN coalesce(j.held_at, now()) \
                       WHEN u.begun OR u.state IN ('completed', 'failed', 'cancelled', 'rejected') THEN NULL \
                       ELSE j.held_at END, \
        stored_bytes = CASE WHEN u.stored IS NOT NULL AND j.tenant IS NOT NULL AND j.part_of IS NULL THEN u.stored \
                            ELSE j.stored_bytes END, \
        turn_at = CASE WHEN u.begun THEN NULL ELSE j.turn_at END, \
        wants_worker = u.wants_worker, offered_worker = u.offered, offered_incarnation = u.offered_life, \
        returned = CASE WHEN u.returned THEN true \
                        WHEN u.begun OR u.state IN ('completed', 'failed', 'cancelled', 'rejected') THEN false \
                        ELSE j.returned END, \
        failure = coalesce(u.failure::jsonb, j.failure), faults = coalesce(u.faults::jsonb, j.faults), \
        manifest = coalesce(u.manifest::jsonb, j.manifest), \
        state_since = CASE WHEN j.state = u.state THEN j.state_since ELSE now() END, \
        started_at = CASE WHEN u.begun THEN now() ELSE j.started_at END, \
        ended_at = CASE WHEN u.state IN ('completed', 'failed', 'cancelled', 'rejected') \
                        THEN coalesce(j.ended_at, now()) END \
     FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::integer[], $6::text[], $7::uuid[], \
                 $8::integer[], $9::text[], $10::text[], $11::boolean[], $12::text[], $13::boolean[], $14::boolean[], \
                 $15::boolean[], $16::bigint[], $17::text[], $18::text[], $19::text[], $21::boolean[], $22::text[], $23::text[], \
                 $25::boolean[], $26::boolean[], $27::text[], $28::uuid[], $29::integer[], $30::integer[], $31::boolean[], $32::text[], $33::bigint[]) \
          AS u(id, state, attempt, failures, losses, worker, life, consent, cause, custody, tapped, reason, renewed, \
               cleared, begun, outbox, failure, faults, manifest, paused, kind, lesson, returned, wants_worker, offered, \
               offered_life, chunks, splits, finishing, held, stored) \
     WHERE j.id = u.id";

const INSERT_ATTEMPTS: &str = "INSERT INTO attempt (job, attempt, worker, incarnation) \
     SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[]) ON CONFLICT DO NOTHING";

const END_ATTEMPTS: &str = "UPDATE attempt AS a SET ended_at = coalesce(a.ended_at, now()), outcome = u.outcome, \
        failure = coalesce(u.failure::jsonb, a.failure), usage = coalesce(u.usage::jsonb, a.usage), \
        cost = coalesce(a.cost, u.cost), \
        currency = coalesce(a.currency, CASE WHEN u.cost IS NOT NULL THEN $7::text END) \
     FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::double precision[]) \
          AS u(job, attempt, outcome, failure, usage, cost) \
     WHERE a.job = u.job AND a.attempt = u.attempt";

// What makes a chunk is no dead letter: its whole is.
const INSERT_FAILURES: &str = "INSERT INTO failure (job, number, tenant, attempt, cause, retried, dead) \
     SELECT u.job, u.number, u.tenant, u.attempt, u.cause, u.retried, \
            u.parked AND NOT EXISTS (SELECT FROM job WHERE id = u.job AND part_of IS NOT NULL) \
     FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::boolean[], $7::boolean[]) \
          AS u(job, number, tenant, attempt, cause, retried, parked)";

const INSERT_EVENTS: &str = "INSERT INTO event (job, kind, state, attempt, detail) \
     SELECT u.job, u.kind, u.state, u.attempt, u.detail::jsonb \
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::text[]) AS u(job, kind, state, attempt, detail)";
