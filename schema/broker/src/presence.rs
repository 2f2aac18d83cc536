//! Looks which objects of the topology exist, and changes nothing.

use ffpool_schema::topology::Topology;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::channels::{AmqpChannel, short};
use crate::deadline::{ANSWER, within};
use crate::error::BrokerError;
use crate::link::AmqpLink;

/// Whether an object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It exists.
    There,
    /// It does not.
    Missing,
    /// The account may not know.
    Forbidden,
}

/// Looks at every exchange and queue of `topology` by passive declare: `exchange jobs.live`, `queue jobs.ledger`, …
///
/// # Errors
/// When the broker cannot be asked.
pub async fn presence(link: &AmqpLink, topology: &Topology) -> Result<Vec<(String, Presence)>, BrokerError> {
    let mut channel = link.channel().await?;
    let mut found = Vec::with_capacity(topology.exchanges.len() + topology.queues.len());
    for exchange in &topology.exchanges {
        let looked = look_at_exchange(&channel, &exchange.name).await;
        found.push((format!("exchange {}", exchange.name), sort(link, &mut channel, looked).await?));
    }
    for queue in &topology.queues {
        let looked = channel.count(&queue.name).await.map(drop);
        found.push((format!("queue {}", queue.name), sort(link, &mut channel, looked).await?));
    }
    Ok(found)
}

async fn look_at_exchange(channel: &AmqpChannel, name: &str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    // A passive declare compares the name only; a kind has to be given all the same.
    let kind = lapin::ExchangeKind::Direct;
    let declare = channel.raw().exchange_declare(short(name)?, kind, options, FieldTable::default());
    within(ANSWER, || format!("look at exchange {name}"), declare).await
}

/// What the broker's answer means. A no closes the channel, so the next question needs a new one.
async fn sort(
    link: &AmqpLink,
    channel: &mut AmqpChannel,
    looked: Result<(), BrokerError>,
) -> Result<Presence, BrokerError> {
    let presence = match looked {
        Ok(()) => return Ok(Presence::There),
        Err(BrokerError::Missing { .. }) => Presence::Missing,
        Err(BrokerError::Forbidden { .. }) => Presence::Forbidden,
        Err(error) => return Err(error),
    };
    *channel = link.channel().await?;
    Ok(presence)
}
