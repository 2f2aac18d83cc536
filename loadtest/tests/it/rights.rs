//! A pool whose parts have an account each, with the least rights: they suffice.

use std::process::Command;

use ffpool::AmqpProducer;
use ffpool_loadtest::pool::{PoolSettings, binary_path};
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::Encoding;

use crate::support::{BOUND, SMALL, encoding, long, pool, quick, run};

#[test]
fn a_pool_with_the_least_rights_on_every_server_does_all_its_work() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(SMALL).with_least_rights()).await?;
        // Over the broker, with an account that can only publish.
        let spec = quick(&pool.media.join("amqp.mp4").display().to_string());
        let producer = AmqpProducer::open(pool.amqp_url.clone());
        let published = producer.publish(&spec, Encoding::Json, None).await?;
        let detail = pool.until_ended(published, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());

        // Over the API: the dispatcher publishes into the work queue itself, gives orders to the worker, and takes a job
        // back that the worker hands in.
        let doomed = pool.client.submit(&long(&pool.media.join("doomed.mp4").display().to_string())).await?.id;
        pool.until(doomed, BOUND, encoding).await?;
        pool.client.cancel(doomed).await?;
        assert_eq!(pool.until_ended(doomed, BOUND).await?.job.state, State::Cancelled, "{}", pool.logs());
        let handed_back = pool.client.submit(&long(&pool.media.join("back.mp4").display().to_string())).await?.id;
        pool.until(handed_back, BOUND, encoding).await?;
        pool.restart_worker(0).await?;
        pool.until(handed_back, BOUND, |view| view.attempt > 1 && encoding(view)).await?;
        pool.client.cancel(handed_back).await?;
        pool.until_ended(handed_back, BOUND).await?;

        // Who looks on sees that all is well, without a right to any row or queue.
        let doctor = Command::new(binary_path("ffpool")?)
            .args(["doctor", "--output", "json"])
            .env("FFPOOL_AMQP_URL", &pool.amqp_url)
            .env("FFPOOL_NATS_URL", &pool.nats_url)
            .env("FFPOOL_DATABASE_URL", &pool.database_url)
            .output()?;
        let found: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
        let status = |name: &str| {
            let checks = found.as_array().or(found["checks"].as_array());
            let check = checks.and_then(|checks| checks.iter().find(|check| check["name"] == name));
            check.and_then(|check| check["status"].as_str()).map(str::to_owned)
        };
        for part in ["rabbitmq", "nats", "postgres", "ledger"] {
            assert_eq!(status(part).as_deref(), Some("ok"), "{part}: {found:#}");
        }
        Ok(())
    });
}
