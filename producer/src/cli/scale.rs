//! `scale-advice`: how many workers each pool needs, and why.

use ffpool::ScaleWishes;
use ffpool_schema::advice::{PoolAdvice, ScaleAnswer};
use ffpool_schema::job::Queue;

use super::args::ScaleAdvice;
use super::exit::{Exit, Trouble};
use super::output::table;
use super::{Context, format};

/// Workers that are named of those that would go first.
const NAMED_MAX: usize = 5;

pub(crate) async fn advise(context: &Context, args: ScaleAdvice) -> Result<Exit, Trouble> {
    let target = |queue: Queue| args.wait.iter().rev().find(|(said, _)| *said == queue).map(|(_, secs)| *secs);
    let wishes = ScaleWishes {
        pool: args.pool.as_ref().map(ToString::to_string),
        min: args.min,
        max: args.max,
        slots: args.slots,
        wait_live: target(Queue::Live),
        wait_default: target(Queue::Default),
        wait_batch: target(Queue::Batch),
    };
    let answer = context.client()?.scale(&wishes).await?;
    context.format.print(&answer, |answer| match answer {
        ScaleAnswer::Pool(advice) => told(advice),
        ScaleAnswer::Pools { pools } if pools.is_empty() => "No pool has a worker or a job.".to_owned(),
        ScaleAnswer::Pools { pools } => pools.iter().map(told).collect::<Vec<_>>().join("\n\n"),
    });
    Ok(Exit::Success)
}

fn told(advice: &PoolAdvice) -> String {
    let mut text = format!("Pool {}: {}\n", advice.pool, verdict(advice));
    if !advice.lines.is_empty() {
        text.push('\n');
        text.push_str(&lines(advice));
        text.push('\n');
    }
    text.push('\n');
    for reason in &advice.reasons {
        text.push_str(&format!("- {reason}\n"));
    }
    let first = advice.first_to_go.iter().take(NAMED_MAX).map(|candidate| {
        let lost =
            if candidate.idle { "idle".to_owned() } else { format!("loses {}", format::duration(candidate.lost_secs)) };
        format!("{} ({lost})", candidate.worker)
    });
    let first: Vec<String> = first.collect();
    if !first.is_empty() {
        text.push_str(&format!("- First to go: {}.\n", first.join(", ")));
    }
    text.trim_end().to_owned()
}

fn verdict(advice: &PoolAdvice) -> String {
    let PoolAdvice { desired_workers, ready_workers, missing_workers, surplus_workers, draining_workers, .. } = advice;
    let change = match (missing_workers, surplus_workers) {
        (0, 0) => "as there are".to_owned(),
        (0, surplus) => format!("{surplus} of {ready_workers} may go"),
        (missing, _) => format!("{missing} more than the {ready_workers} that take work"),
    };
    let draining =
        if *draining_workers > 0 { format!("; {draining_workers} draining, not counted") } else { String::new() };
    let noun = if *desired_workers == 1 { "worker" } else { "workers" };
    let slots =
        if advice.slots_per_worker == 1 { "1 slot".to_owned() } else { format!("{} slots", advice.slots_per_worker) };
    format!("{desired_workers} {noun} of {slots}, {change}{draining}")
}

fn lines(advice: &PoolAdvice) -> String {
    let rows = advice.lines.iter().map(|line| {
        [
            format!("{}/{}", line.queue, line.priority),
            line.waiting.to_string(),
            line.running.to_string(),
            format!("{:.1}", line.arriving_per_min),
            format::duration(line.oldest_secs),
            format::duration(line.target_secs),
            format!("{} ({})", format::duration(line.expected_secs), format::duration(line.p90_secs)),
            format!("{:.1}", line.needed_slots),
            if line.paused { "paused" } else { "" }.to_owned(),
        ]
    });
    table(["line", "waiting", "running", "new/min", "oldest", "target", "job (p90)", "slots needed", ""], rows)
}
