//! Deliveries that come twice, are held for long, or whose connection is lost.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_delivery_of_a_running_job_passes_into_custody_and_starts_nothing() {
    let pool = Pool::new("twice").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=4"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    pool.publish_as(job, NOOP, None).await;
    until("custody", async || {
        let custodies = pool.dispatcher.custodies();
        if custodies.iter().any(|custody| custody.job == job && custody.attempt == 1) { Ok(()) } else { Err(custodies) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    assert_eq!(pool.ends().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_neither_restarts_nor_loses_what_runs() {
    let pool = Pool::new("link").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=4"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    let vhost = pool.vhost();
    let close = move || Stack::shared().rabbit.ctl(["close_all_connections", "-p", &vhost, "test"]).unwrap();
    tokio::task::spawn_blocking(close).await.unwrap();
    until("the redelivery", async || {
        let claims = pool.dispatcher.claims();
        let again = claims.iter().any(|claim| claim.delivery.redelivered);
        // Once for the delivery that is lost, once for the one that came instead.
        let custodies = pool.dispatcher.custodies().len();
        if again && custodies >= 2 { Ok(()) } else { Err((claims.len(), custodies)) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_that_is_deleted_under_a_worker_is_there_again_and_jobs_flow() {
    let pool = Pool::new("deleted").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=2"]).await;
    // One in hand, whose delivery ends with its queue, and a slot that waits.
    let held = pool.publish(NOOP).await;
    until_running(&pool, held).await;
    let queue = "jobs.default.medium";
    let vhost = pool.vhost();
    let delete = move || Stack::shared().rabbit.ctl(["delete_queue", "-p", &vhost, queue]).unwrap();
    tokio::task::spawn_blocking(delete).await.unwrap();
    until("the queue to be there again", async || {
        let depths = pool.depths(&[queue]).await;
        if depths[0].is_some() { Ok(()) } else { Err(depths) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    // What comes between the queue and its binding is for the dispatcher, which is not there.
    let mut published = BTreeSet::from([held]);
    until("the held job and one of the new queue to finish", async || {
        published.insert(pool.publish(NOOP).await);
        let ends = pool.ends();
        let done = ends.contains_key(&(held, 1)) && ends.len() > 1;
        if done { Ok(()) } else { Err((ends, pool.depths(&[queue]).await)) }
    })
    .await;
    assert!(pool.ends().iter().all(|((job, _), ends)| published.contains(job) && ends == &["finished"]));
    assert_eq!(stop(worker).await, Finish::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_held_for_long_passes_into_custody_before_the_end() {
    let pool = Pool::new("custody").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=1", "--custody-after-secs=0"]).await;
    let job = pool.publish(NOOP).await;
    until("custody", async || {
        let custodies = pool.dispatcher.custodies();
        if custodies.is_empty() { Err(custodies) } else { Ok(()) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}
