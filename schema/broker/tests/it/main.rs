//! The links against real servers. Each test has a vhost or a subject space of its own on one shared stack; a test that
//! takes a server down has a stack of its own.

mod batches;
mod depth;
mod intake;
mod outage;
mod pool;
mod publishing;
mod rights;
mod signals;
mod tls;
mod topology;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use ffpool_broker::{AmqpConfig, AmqpLink, Outgoing, Publisher, declare_topology, queue_depth};
use ffpool_schema::topology::Topology;
use ffpool_stack::{Rabbit, Stack};

/// No fact that these tests wait for takes longer, however slow the machine.
const BOUND: Duration = Duration::from_secs(60);

/// Waits until `check` answers with a value; otherwise fails with the last state it saw.
async fn until<T, S: Debug, F: Future<Output = Result<T, S>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(state) if start.elapsed() > BOUND => panic!("{what}: not within {BOUND:?}, last seen: {state:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Awaits what must not take for ever.
async fn soon<T>(what: &str, fact: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, fact).await.unwrap_or_else(|_| panic!("{what}: not within {BOUND:?}"))
}

/// A vhost of the test's own with the whole topology.
struct Place {
    url: String,
    link: AmqpLink,
    publisher: Publisher,
}

impl Place {
    async fn new(name: &str) -> Place {
        Place::on(&Stack::shared().rabbit, name).await
    }

    async fn on(rabbit: &Rabbit, name: &str) -> Place {
        let place = Place::bare(rabbit.new_vhost(), name).await;
        declare_topology(&place.link, &Topology::for_pools(&[])).await.expect("declare the topology");
        place
    }

    async fn bare(url: String, name: &str) -> Place {
        let link = AmqpLink::open(AmqpConfig::new(&url, name));
        link.connected(BOUND).await.expect("connect");
        let publisher = Publisher::open(AmqpConfig::new(&url, format!("{name} publisher")));
        Place { url, link, publisher }
    }

    fn vhost(&self) -> String {
        self.url.rsplit_once('/').expect("the URL has a path").1.to_owned()
    }

    async fn publish(&self, exchange: &str, key: &str, id: &str) {
        let message = message(exchange, key, id);
        self.publisher.publish(message).await.expect("publish");
    }

    /// Asks the broker itself how many messages are in somebody's hand.
    async fn unacknowledged(&self) -> u32 {
        let vhost = self.vhost();
        let listed = tokio::task::spawn_blocking(move || {
            let rabbit = &Stack::shared().rabbit;
            rabbit.ctl(["list_queues", "-p", &vhost, "name", "messages_unacknowledged"]).expect("list_queues")
        });
        let listed = listed.await.expect("rabbitmqctl");
        listed.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok()).sum()
    }
}

/// How many messages lie ready in a queue.
async fn ready(place: &Place, queue: &str) -> u32 {
    let depths = queue_depth(&place.link, &[queue.to_owned()]).await.expect("depth");
    depths[0].as_ref().unwrap_or_else(|| panic!("{queue} is missing")).ready
}

fn message(exchange: &str, key: &str, id: &str) -> Outgoing {
    Outgoing {
        exchange: exchange.into(),
        routing_key: key.into(),
        body: format!("body of {id}").into_bytes(),
        content_type: "application/json".into(),
        message_id: Some(id.into()),
        headers: BTreeMap::from([("traceparent".to_owned(), "00-1-2-03".to_owned())]),
        message_type: Some("job".into()),
        user_id: None,
    }
}
