//! The flags of `scale-advice`.

use std::time::Duration;

use clap::Args;
use ffpool_schema::job::{Pool, Queue};

use super::time;

/// Longest wait that the API takes.
const LONGEST: Duration = Duration::from_secs(604_800);

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool scale-advice
  ffpool scale-advice --pool cpu --min 1 --max 20 --slots 12
  ffpool scale-advice --wait batch=2h --wait live=10s
  ffpool scale-advice --pool cpu --output json | jq .desired_workers

docs/scaling.md tells how the numbers come about, and how autoscalers read them.";

/// What the advice is asked for.
#[derive(Debug, Args)]
pub(crate) struct ScaleAdvice {
    /// Only this pool. With --output json its advice is then the whole answer.
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<Pool>,
    /// Never fewer workers than these.
    #[arg(long, value_name = "COUNT")]
    pub(crate) min: Option<u32>,
    /// No more workers than these, but for those that are busy.
    #[arg(long, value_name = "COUNT")]
    pub(crate) max: Option<u32>,
    /// Slots of a worker that would be added. Default: as those that are there have.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) slots: Option<u32>,
    /// How long jobs of a queue may wait, such as `batch=2h`; may repeat. Default: the dispatcher's settings.
    #[arg(long, value_name = "QUEUE=TIME", value_parser = wait)]
    pub(crate) wait: Vec<(Queue, u32)>,
}

fn wait(text: &str) -> Result<(Queue, u32), String> {
    const EXPECTED: &str = "a queue and a time from 1s to 7d are expected, such as batch=2h";
    let (queue, time) = text.split_once('=').ok_or(EXPECTED)?;
    let queue = queue.parse().map_err(|_| format!("`{queue}` is no queue: live, default or batch is expected"))?;
    let time = time::within(time, Duration::from_secs(1)..=LONGEST, EXPECTED)?;
    Ok((queue, u32::try_from(time.as_secs()).map_err(|_| EXPECTED)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_queue_and_a_time() {
        assert_eq!(wait("batch=2h"), Ok((Queue::Batch, 7200)));
        assert_eq!(wait("live=5s"), Ok((Queue::Live, 5)));
        for wrong in ["batch", "batch=", "fast=2h", "batch=0s", "batch=-1h", "batch=8d", "batch=soon"] {
            wait(wrong).unwrap_err();
        }
    }
}
