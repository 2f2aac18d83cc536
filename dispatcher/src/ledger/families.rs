//! Jobs that wait for other jobs: what becomes of them when those end, and the refusal of circles.
//!
//! A child is looked at after its own recording is committed, and after the end of each parent: whichever comes last sees
//! the other. What a crash left out is found by the leader, who looks at all that wait.
//!
//! Invariants: a parent that is not recorded yet keeps its children waiting, one that was purged counts as failed, and one
//! that was forgotten long after its end counts as what it was; two transactions that record jobs with
//! parents run one after the other, so that together they cannot close a circle that neither sees. To a job of a tenant's,
//! a parent of somebody else's is one that is not recorded, whatever becomes of it. A redrive of a
//! parent does not revive children that ended with it: they are dead letters of their own.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::ClientWrapper;
use ffpool_schema::failure::Failure;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::Input;
use ffpool_schema::parse::Fault;
use tokio::sync::mpsc;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::fresh::NewJob;
use super::{Evidence, Happening, Ledger, Unavailable};

/// Children decided in one sweep.
const SWEEP_MAX: i64 = 500;
/// Serialises the recording of jobs with parents. The number is arbitrary.
const RECORDING_LOCK: i64 = 0x6666_706f_6f6c_6430;
/// Jobs of a circle that are named.
const NAMED_MAX: usize = 20;

/// Something after which children must be looked at.
#[derive(Debug, Clone, Copy)]
pub enum Relative {
    /// It has ended; whoever waits for it may go on, or not at all.
    Ended(JobId),
    /// It has been recorded and waits for others, which may have ended before.
    Waits(JobId),
    /// It was split, and has ended, or was paused or resumed: so are its chunks.
    Whole(JobId),
}

impl Ledger {
    /// What has ended or waits by the decisions of this process. Can be taken once.
    ///
    /// # Panics
    /// When it was taken before.
    #[must_use]
    pub fn take_relatives(&self) -> mpsc::Receiver<Relative> {
        let mut slot = self.inner.relatives.lock().expect("no holder panics");
        slot.take().expect("one task follows families")
    }

    /// Lets go on, or ends, the children of `relatives` whose parents have ended. `skip`: a child counts as cancelled
    /// instead of failed with its parent. Answers how many were decided.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn settle_families(&self, relatives: &[Relative], skip: bool) -> Result<usize, Unavailable> {
        let (mut parents, mut children, mut wholes) = (Vec::new(), Vec::new(), Vec::new());
        for relative in relatives {
            match relative {
                Relative::Ended(job) => parents.push(job.0),
                Relative::Waits(job) => children.push(job.0),
                Relative::Whole(job) => wholes.push(job.0),
            }
        }
        let followed = if wholes.is_empty() { 0 } else { self.follow_wholes(Some(&wholes)).await? };
        let rows = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(SETTLED_OF).await?;
                Ok(client.query(&statement, &[&parents, &children, &i64::MAX]).await?)
            })
            .await?;
        Ok(followed + self.settle(&rows, skip).await?)
    }

    /// The same for every job that waits for others, and for every chunk.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn settle_waiting(&self, skip: bool) -> Result<usize, Unavailable> {
        let followed = self.follow_wholes(None).await?;
        let rows = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(SETTLED).await?;
                Ok(client.query(&statement, &[&SWEEP_MAX]).await?)
            })
            .await?;
        Ok(followed + self.settle(&rows, skip).await?)
    }

    /// Cancels the jobs whose chunks nobody waits for any more, and pauses and resumes the others with their wholes: of these
    /// wholes, or of all. Answers how many were decided.
    async fn follow_wholes(&self, wholes: Option<&[Uuid]>) -> Result<usize, Unavailable> {
        let rows = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(FOLLOW).await?;
                Ok(client.query(&statement, &[&wholes, &SWEEP_MAX]).await?)
            })
            .await?;
        let mut happenings = Vec::with_capacity(rows.len());
        for row in &rows {
            let (is_left, is_paused): (bool, bool) = (row.try_get("is_left")?, row.try_get("is_paused")?);
            let (input, by) = match (is_left, is_paused) {
                (true, _) => (Input::Cancel, "the end of the job whose chunk it makes"),
                (false, true) => (Input::Pause, "the pause of the job whose chunk it makes"),
                (false, false) => (Input::Resume, "the job whose chunk it makes"),
            };
            let evidence = Evidence { by: Some(by.to_owned()), ..Evidence::default() };
            happenings.push(Happening { evidence, ..Happening::new(JobId(row.try_get("id")?), input) });
        }
        let count = happenings.len();
        self.apply_all(happenings).await;
        Ok(count)
    }

    async fn settle(&self, rows: &[Row], skip: bool) -> Result<usize, Unavailable> {
        let mut happenings = Vec::with_capacity(rows.len());
        for row in rows {
            let child = JobId(row.try_get("child")?);
            let bad: Option<Uuid> = row.try_get("bad")?;
            happenings.push(match bad {
                None => Happening::new(child, Input::ParentsDone),
                Some(bad) => {
                    let end: Option<String> = row.try_get("bad_end")?;
                    let became = end.map_or_else(|| "was purged".to_owned(), |end| format!("has ended as {end}"));
                    let is_piece: bool = row.try_get("bad_is_piece")?;
                    let whose = if is_piece { "its chunk of job" } else { "job" };
                    let reason = Some(format!("{whose} {bad}, which it waits for, {became}"));
                    let failure: Option<Json<Failure>> = row.try_get("bad_failure")?;
                    let failure = failure.map(|Json(failure)| failure).filter(|_| is_piece);
                    let evidence = Evidence { reason, failure, ..Evidence::default() };
                    // Without one of its chunks a job is not skipped: it has failed.
                    let skip = skip && !is_piece;
                    Happening { evidence, ..Happening::new(child, Input::ParentFailed { skip }) }
                }
            });
        }
        let count = happenings.len();
        self.apply_all(happenings).await;
        Ok(count)
    }

    /// What is wrong with a job that would wait for itself, for whoever can still be told.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub(super) async fn circle_of(
        &self,
        job: JobId,
        tenant: Option<&str>,
        parents: &[JobId],
    ) -> Result<Option<Fault>, Unavailable> {
        let edges: Vec<Edge> = parents.iter().map(|parent| Edge { child: job, parent: *parent, tenant }).collect();
        self.bounded(async {
            let client = self.pool().get().await?;
            let circles = circles(&client, &edges).await?;
            Ok(circles.into_values().next())
        })
        .await
    }
}

/// The jobs among `missing` that would close a circle, as jobs that say so. Takes the lock if there is anything to
/// look at.
pub(super) async fn refuse_circles(
    client: &ClientWrapper,
    missing: &BTreeMap<JobId, &NewJob>,
) -> Result<BTreeMap<JobId, NewJob>, tokio_postgres::Error> {
    let edges = edges(missing.iter().map(|(id, new)| (*id, *new)));
    if edges.is_empty() {
        return Ok(BTreeMap::new());
    }
    let statement = client.prepare_cached("SELECT pg_advisory_xact_lock($1)").await?;
    client.execute(&statement, &[&RECORDING_LOCK]).await?;
    let circles = circles(client, &edges).await?;
    let refused =
        circles.into_iter().map(|(id, fault)| (id, NewJob { spec: Err(vec![fault]), ..missing[&id].clone() }));
    Ok(refused.collect())
}

/// Records who waits for whom. The children are recorded in the same transaction.
pub(super) async fn insert_dependencies<'a>(
    client: &ClientWrapper,
    recorded: impl Iterator<Item = (JobId, &'a NewJob)>,
) -> Result<(), tokio_postgres::Error> {
    let edges = edges(recorded);
    if edges.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(INSERT).await?;
    let (children, parents) = columns(edges.iter().map(|edge| (edge.child, edge.parent)));
    client.execute(&statement, &[&children, &parents]).await?;
    Ok(())
}

/// A new job that waits for another.
struct Edge<'a> {
    child: JobId,
    parent: JobId,
    /// Whose the child is.
    tenant: Option<&'a str>,
}

fn edges<'a>(jobs: impl Iterator<Item = (JobId, &'a NewJob)>) -> Vec<Edge<'a>> {
    jobs.filter_map(|(id, new)| Some((id, new.spec.as_ref().ok()?)))
        .flat_map(|(child, spec)| {
            let tenant = spec.tenant.as_deref();
            spec.depends_on.iter().map(move |parent| Edge { child, parent: *parent, tenant })
        })
        .collect()
}

fn columns(edges: impl Iterator<Item = (JobId, JobId)>) -> (Vec<Uuid>, Vec<Uuid>) {
    edges.map(|(child, parent)| (child.0, parent.0)).unzip()
}

/// The children of `new` edges that would wait for themselves, with what is wrong.
async fn circles(client: &ClientWrapper, new: &[Edge<'_>]) -> Result<BTreeMap<JobId, Fault>, tokio_postgres::Error> {
    let (children, parents) = columns(new.iter().map(|edge| (edge.child, edge.parent)));
    let tenants: Vec<Option<&str>> = new.iter().map(|edge| edge.tenant).collect();
    let statement = client.prepare_cached(CIRCLES).await?;
    let mut found = BTreeMap::new();
    for row in client.query(&statement, &[&children, &parents, &tenants]).await? {
        let job = JobId(row.try_get(0)?);
        let circle = name_circle(client, new, job).await?;
        let named: Vec<String> = circle.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let message =
            format!("a circle: {} waits for {job}, so none of them could ever run", named.join(" waits for "));
        found.insert(job, Fault::new("depends_on", "cycle", message));
    }
    Ok(found)
}

/// The shortest way from a job to itself, over parents, level by level.
async fn name_circle(
    client: &ClientWrapper,
    new: &[Edge<'_>],
    start: JobId,
) -> Result<Vec<JobId>, tokio_postgres::Error> {
    let statement = client.prepare_cached(EDGES).await?;
    let tenant = new.iter().find(|edge| edge.child == start).and_then(|edge| edge.tenant);
    let mut reached_from: BTreeMap<JobId, JobId> = BTreeMap::new();
    let mut level = BTreeSet::from([start]);
    while !level.is_empty() && !reached_from.contains_key(&start) {
        let ids: Vec<Uuid> = level.iter().map(|job| job.0).collect();
        let is_followed = |edge: &&Edge<'_>| edge.tenant == tenant && level.contains(&edge.child);
        let mut edges: Vec<(JobId, JobId)> =
            new.iter().filter(is_followed).map(|edge| (edge.child, edge.parent)).collect();
        for row in client.query(&statement, &[&ids, &tenant]).await? {
            edges.push((JobId(row.try_get(0)?), JobId(row.try_get(1)?)));
        }
        level.clear();
        for (child, parent) in edges {
            if let std::collections::btree_map::Entry::Vacant(vacant) = reached_from.entry(parent) {
                vacant.insert(child);
                level.insert(parent);
            }
        }
    }
    let mut circle = Vec::new();
    let mut at = start;
    while let Some(child) = reached_from.get(&at) {
        circle.push(*child);
        if *child == start {
            break;
        }
        at = *child;
    }
    circle.reverse();
    Ok(circle)
}

/// Lets each whole wait for these pieces, and no more for those that it was split into before.
pub(super) async fn wait_for_pieces(
    client: &ClientWrapper,
    edges: impl Iterator<Item = (JobId, JobId)>,
) -> Result<(), tokio_postgres::Error> {
    let (wholes, pieces) = columns(edges);
    let statement = client.prepare_cached(FORGET_PIECES).await?;
    client.execute(&statement, &[&wholes]).await?;
    let statement = client.prepare_cached(INSERT).await?;
    client.execute(&statement, &[&wholes, &pieces]).await?;
    Ok(())
}

const FORGET_PIECES: &str = "DELETE FROM dependency USING job \
     WHERE dependency.child = ANY ($1::uuid[]) AND job.id = dependency.parent AND job.part_of = dependency.child";

// The predicate of the index on open parts, word for word.
const FOLLOW: &str = "SELECT * FROM ( \
        SELECT p.id, p.paused, coalesce(w.paused, false) AS is_paused, \
               coalesce(w.state IN ('completed', 'failed', 'cancelled', 'rejected'), true) \
               OR NOT EXISTS (SELECT FROM dependency AS d WHERE d.child = p.part_of AND d.parent = p.id) AS is_left \
        FROM job AS p LEFT JOIN job AS w ON w.id = p.part_of \
        WHERE p.part_of IS NOT NULL AND p.state IN ('blocked', 'delayed', 'queued', 'running') \
              AND ($1::uuid[] IS NULL OR p.part_of = ANY ($1))) AS part \
     WHERE is_left OR paused <> is_paused LIMIT $2";

const INSERT: &str = "INSERT INTO dependency (child, parent) \
     SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING";

const EDGES: &str = "SELECT d.child, d.parent FROM dependency AS d JOIN job AS j ON j.id = d.child \
     WHERE d.child = ANY ($1::uuid[]) AND j.tenant IS NOT DISTINCT FROM $2";

// UNION forgets what was reached before, so that a graph of any shape is walked once. A circle can only be among jobs of one
// tenant, or of none: to a tenant's job others are not there. So none is named to somebody whose it is not.
const CIRCLES: &str = "WITH RECURSIVE above(start, tenant, node) AS ( \
        SELECT child, tenant, parent FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS new(child, parent, tenant) \
        UNION \
        SELECT above.start, above.tenant, edge.parent FROM above JOIN ( \
            SELECT d.child, d.parent, j.tenant FROM dependency AS d JOIN job AS j ON j.id = d.child \
            UNION ALL \
            SELECT child, parent, tenant FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS new(child, parent, tenant)) AS edge \
            ON edge.child = above.node AND edge.tenant IS NOT DISTINCT FROM above.tenant) \
     SELECT DISTINCT start FROM above WHERE start = node";

macro_rules! settled {
    ($from:literal, $limit:literal) => {
        concat!(
            "SELECT c.id AS child, \
                    (array_agg(d.parent ORDER BY p.number) \
                        FILTER (WHERE (g.id IS NOT NULL AND g.state IS DISTINCT FROM 'completed') OR p.state IN ('failed', 'cancelled', 'rejected')))[1] AS bad, \
                    (array_agg(p.state ORDER BY p.number) \
                        FILTER (WHERE (g.id IS NOT NULL AND g.state IS DISTINCT FROM 'completed') OR p.state IN ('failed', 'cancelled', 'rejected')))[1] AS bad_end, \
                    (array_agg(p.failure ORDER BY p.number) \
                        FILTER (WHERE (g.id IS NOT NULL AND g.state IS DISTINCT FROM 'completed') OR p.state IN ('failed', 'cancelled', 'rejected')))[1] AS bad_failure, \
                    coalesce((array_agg(p.part_of ORDER BY p.number) \
                        FILTER (WHERE (g.id IS NOT NULL AND g.state IS DISTINCT FROM 'completed') OR p.state IN ('failed', 'cancelled', 'rejected')))[1] = c.id, false) \
                        AS bad_is_piece ",
            $from,
            " JOIN dependency AS d ON d.child = c.id \
             LEFT JOIN job AS p ON p.id = d.parent AND (c.tenant IS NULL OR p.tenant = c.tenant) \
             LEFT JOIN purged AS g ON g.id = d.parent AND p.id IS NULL AND (c.tenant IS NULL OR g.tenant = c.tenant) \
             GROUP BY c.id \
             HAVING bool_and(coalesce(p.state = 'completed', g.state = 'completed', false)) \
                    OR bool_or((g.id IS NOT NULL AND g.state IS DISTINCT FROM 'completed') \
                            OR coalesce(p.state IN ('failed', 'cancelled', 'rejected'), false)) \
             LIMIT ",
            $limit
        )
    };
}

const SETTLED_OF: &str = settled!(
    "FROM (SELECT child FROM dependency WHERE parent = ANY ($1::uuid[]) UNION SELECT unnest($2::uuid[])) AS asked \
     JOIN job AS c ON c.id = asked.child AND c.state = 'blocked'",
    "$3"
);

const SETTLED: &str = settled!(
    "FROM (SELECT id, tenant FROM job WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'blocked') AS c",
    "$1"
);
