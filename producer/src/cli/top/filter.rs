//! Which jobs a filter lets pass.

use ffpool_schema::api::JobView;

/// Whether every word of the filter is in the job's number, id, scenario, worker, queue, priority, pool, tenant or labels.
pub(crate) fn passes(job: &JobView, filter: &str) -> bool {
    let mut words = filter.split_whitespace().map(str::to_lowercase);
    words.all(|word| facts(job).any(|fact| fact.to_lowercase().contains(&word)))
}

fn facts(job: &JobView) -> impl Iterator<Item = String> {
    let labels = job.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let plain = [format!("#{}", job.number), job.id.to_string(), job.scenario.clone(), job.pool.clone()];
    let line = format!("{}/{}", job.queue, job.priority);
    let owner = job.worker.as_ref().map(ToString::to_string);
    let cause = job.failure.as_ref().map(|failure| failure.cause.as_str().to_owned());
    plain.into_iter().chain([line]).chain(owner).chain(job.tenant.clone()).chain(cause).chain(labels)
}
