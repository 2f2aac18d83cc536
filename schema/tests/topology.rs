//! What exists on the broker, as data.

use std::collections::HashSet;

use ffpool_schema::job::{Pool, Priority, Queue};
use ffpool_schema::topology::{LEDGER_QUEUE, Topology, UNROUTABLE_EXCHANGE, WorkQueue, routing_key};

#[test]
fn the_order_of_choice_is_live_default_batch_then_high_medium_low() {
    let names: Vec<String> = WorkQueue::of_pool(&Pool::cpu()).iter().map(WorkQueue::name).collect();
    assert_eq!(
        names,
        [
            "jobs.live.high",
            "jobs.live.medium",
            "jobs.live.low",
            "jobs.default.high",
            "jobs.default.medium",
            "jobs.default.low",
            "jobs.batch.high",
            "jobs.batch.medium",
            "jobs.batch.low",
        ]
    );
    let live_high = WorkQueue { queue: Queue::Live, priority: Priority::High, pool: Pool::cpu() };
    let batch_low = WorkQueue { queue: Queue::Batch, priority: Priority::Low, pool: Pool::cpu() };
    assert_eq!((live_high.score(), batch_low.score()), (103, 11));
    assert_eq!(batch_low.returned_name(), "jobs.batch.low.returned");
}

#[test]
fn every_key_that_reaches_a_work_queue_reaches_the_ledger_too_and_no_other_does() {
    let gpu: Pool = "gpu".parse().unwrap();
    let topology = Topology::for_pools(std::slice::from_ref(&gpu));
    let keys = |queue: &str| {
        let of_queue = topology.bindings.iter().filter(|binding| binding.queue == queue);
        of_queue.map(|binding| (binding.exchange.clone(), binding.key.clone())).collect::<HashSet<_>>()
    };
    let work: HashSet<_> = topology
        .queues
        .iter()
        .filter(|queue| queue.dead_letter.is_some())
        .flat_map(|queue| keys(&queue.name))
        .collect();
    assert_eq!(work, keys(LEDGER_QUEUE));
    assert!(work.iter().all(|(_, key)| key != "#"));
    // Nine of each pool, and the empty key for `medium` of pool cpu in each of the three queues.
    assert_eq!(work.len(), 9 + 9 + 3);
    assert_eq!(routing_key(Priority::High, &gpu), "high.gpu");
}

#[test]
fn every_work_queue_has_a_twin_of_the_same_kind_that_no_exchange_and_no_pool_reaches() {
    let gpu: Pool = "gpu".parse().unwrap();
    let topology = Topology::for_pools(std::slice::from_ref(&gpu));
    for work in [Pool::cpu(), gpu].iter().flat_map(WorkQueue::of_pool) {
        let of = |name: String| topology.queues.iter().find(move |queue| queue.name == name);
        let (queue, twin) = (of(work.name()).unwrap(), of(work.returned_name()).unwrap());
        assert_eq!(queue.dead_letter, twin.dead_letter);
        assert!(!topology.bindings.iter().any(|binding| binding.queue == twin.name), "{}", twin.name);
    }
    let reserved = "returned".parse::<Pool>().unwrap_err();
    assert!(reserved.to_string().contains("choose another name"), "{reserved}");
}

#[test]
fn only_job_exchanges_have_an_alternate() {
    for exchange in Topology::for_pools(&[]).exchanges {
        let is_job = ["jobs.live", "jobs.default", "jobs.batch"].contains(&exchange.name.as_str());
        assert_eq!(exchange.alternate, is_job.then_some(UNROUTABLE_EXCHANGE), "{}", exchange.name);
    }
}
