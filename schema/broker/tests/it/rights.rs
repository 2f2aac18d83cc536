//! The accounts of `compose/rights` on real servers: what each may do works, and what it must not is refused.

use std::process::Command;
use std::time::Duration;

use ffpool_broker::{AmqpConfig, BrokerError, Outgoing, PublishError, Publisher, Signals, declare_topology};
use ffpool_schema::rights::Account;
use ffpool_schema::topology::Topology;
use ffpool_stack::Stack;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::mpsc;

use crate::{BOUND, Place, message, soon, until};

/// Access refused.
const REFUSED: u16 = 403;

/// Something an account tries on RabbitMQ.
#[derive(Debug, Clone, Copy)]
enum Try {
    Get(&'static str),
    Consume(&'static str),
    Purge(&'static str),
    Delete(&'static str),
    Declare(&'static str),
    DeclareExchange(&'static str),
    /// A queue to an exchange.
    Bind(&'static str, &'static str),
    /// To an exchange, under a key.
    Publish(&'static str, &'static str),
}

/// The broker's answer: `Err` with the code it closed the channel with.
async fn attempt(channel: &Channel, what: Try) -> Result<(), u16> {
    let (queue_options, table) = (QueueDeclareOptions { durable: true, ..Default::default() }, FieldTable::default());
    let exchange_options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let answer = match what {
        Try::Get(queue) => channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await.map(drop),
        Try::Consume(queue) => {
            channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), table).await.map(drop)
        }
        Try::Purge(queue) => channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop),
        Try::Delete(queue) => channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop),
        Try::Declare(queue) => channel.queue_declare(queue.into(), queue_options, table).await.map(drop),
        Try::DeclareExchange(name) => {
            channel.exchange_declare(name.into(), ExchangeKind::Direct, exchange_options, table).await
        }
        Try::Bind(queue, exchange) => {
            channel.queue_bind(queue.into(), exchange.into(), "stolen".into(), QueueBindOptions::default(), table).await
        }
        Try::Publish(exchange, key) => {
            let publish = BasicPublishOptions { mandatory: true, ..Default::default() };
            match channel.basic_publish(exchange.into(), key.into(), publish, b"{}", BasicProperties::default()).await {
                Ok(confirm) => confirm.await.map(drop),
                Err(error) => Err(error),
            }
        }
    };
    answer.map_err(|error| match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) => amqp.get_id(),
        other => panic!("{what:?}: {other:?}"),
    })
}

/// RabbitMQ's definitions with passwords, as an operator makes them.
fn definitions(vhost: &str) -> String {
    apply(&["definitions"], vhost)
}

fn apply(arguments: &[&str], vhost: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/rights/apply");
    let made = Command::new("sh")
        .arg(script)
        .args(arguments)
        .env("RABBITMQ_VHOST", vhost)
        .envs(
            ["PRODUCER", "WORKER", "DISPATCHER", "TENANT"]
                .map(|name| (format!("RABBITMQ_{name}_PASSWORD"), "rights-1")),
        )
        .output()
        .expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("text")
}

fn login(url: &str, account: Account) -> String {
    login_as(url, account.login())
}

fn login_as(url: &str, user: &str) -> String {
    url.replace("guest:guest", &format!("{user}:rights-1"))
}

async fn judge(url: &str, account: Account, may: &[Try], may_not: &[Try]) {
    judge_user(url, account.login(), may, may_not).await;
}

async fn judge_user(url: &str, user: &str, may: &[Try], may_not: &[Try]) {
    let url = login_as(url, user);
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    let connection = soon("connect", connecting).await.unwrap_or_else(|error| panic!("{user}: {error}"));
    let cases = may.iter().map(|&what| (what, Ok(()))).chain(may_not.iter().map(|&what| (what, Err(REFUSED))));
    for (what, expected) in cases {
        // The broker closes the channel over a refusal.
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let answer = soon("the broker's answer", attempt(&channel, what)).await;
        assert_eq!(answer, expected, "{user} tries {what:?}");
    }
    connection.close(200, "done".into()).await.expect("close");
}

/// Publishes a job that says who published it.
async fn say(url: &str, user: &str, said: &str) -> Result<(), PublishError> {
    let publisher = Publisher::open(AmqpConfig::new(login_as(url, user), "rights"));
    let message = Outgoing { user_id: Some(said.to_owned()), ..message("jobs.default", "", "1") };
    let published = soon("an answer", publisher.publish(message)).await;
    publisher.close().await;
    published
}

#[tokio::test(flavor = "multi_thread")]
async fn on_rabbitmq_each_account_may_do_its_work_and_nothing_else() {
    let place = Place::bare(Stack::shared().rabbit.new_vhost(), "rights").await;
    let vhost = place.vhost();
    let import = tokio::task::spawn_blocking(move || Stack::shared().rabbit.import(&definitions(&vhost)));
    import.await.expect("it ends").expect("the definitions are taken");

    // Before anything exists: only the dispatcher makes it, the queues of another pool too.
    let topology = Topology::for_pools(&["gpu".parse().unwrap()]);
    for account in [Account::Producer, Account::Worker] {
        let other = Place::bare(login(&place.url, account), "rights").await;
        let refused = declare_topology(&other.link, &topology).await;
        assert!(matches!(refused, Err(BrokerError::Forbidden { .. })), "{account:?}: {refused:?}");
    }
    let dispatcher = Place::bare(login(&place.url, Account::Dispatcher), "rights").await;
    declare_topology(&dispatcher.link, &topology).await.expect("a dispatcher declares all of it");
    let connection = Connection::connect(&place.url, ConnectionProperties::default()).await.expect("connect");
    let channel = connection.create_channel().await.expect("a channel");
    attempt(&channel, Try::Declare("somebody.elses")).await.expect("an administrator may");

    judge(
        &place.url,
        Account::Producer,
        &[Try::Publish("jobs.live", "high"), Try::Publish("jobs.default", ""), Try::Publish("jobs.batch", "low.gpu")],
        &[
            Try::Get("jobs.live.high"),
            Try::Consume("jobs.ledger"),
            Try::Purge("jobs.live.high"),
            Try::Delete("jobs.live.high"),
            Try::Declare("jobs.live.urgent"),
            Try::Declare("mine"),
            Try::DeclareExchange("mine"),
            Try::Bind("jobs.ledger", "jobs.live"),
            // Into a work queue past the ledger's copy, as an event, as a dead letter.
            Try::Publish("", "jobs.live.high"),
            Try::Publish("jobs.events", "finished"),
            Try::Publish("jobs.dead", "high"),
            Try::Publish("jobs.unroutable", ""),
            Try::Publish("amq.topic", "jobs.live.high"),
        ],
    )
    .await;
    judge(
        &place.url,
        Account::Worker,
        &[
            Try::Get("jobs.live.high"),
            Try::Get("jobs.default.medium.returned"),
            Try::Consume("jobs.batch.low.gpu"),
            Try::Publish("jobs.events", "finished"),
        ],
        &[
            Try::Publish("jobs.live", "high"),
            Try::Publish("", "jobs.live.high"),
            Try::Publish("jobs.dead", "high"),
            Try::Get("jobs.ledger"),
            Try::Consume("jobs.events"),
            Try::Get("jobs.dead"),
            Try::Get("somebody.elses"),
            Try::Declare("jobs.live.high.mine"),
            Try::Delete("jobs.live.high"),
            Try::Bind("jobs.live.high", "jobs.events"),
        ],
    )
    .await;
    judge(
        &place.url,
        Account::Dispatcher,
        &[Try::Get("jobs.ledger"), Try::Get("jobs.events"), Try::Publish("", "jobs.live.high.gpu.returned")],
        &[
            Try::Declare("mine"),
            Try::DeclareExchange("mine"),
            Try::Get("somebody.elses"),
            Try::Publish("amq.topic", "x"),
            Try::Bind("somebody.elses", "jobs.live"),
        ],
    )
    .await;
    // A tenant's user is one more producer, and says that it is nobody else.
    let vhost = place.vhost();
    let import = move || Stack::shared().rabbit.import(&apply(&["tenant-definitions", "acme-in"], &vhost));
    tokio::task::spawn_blocking(import).await.expect("it ends").expect("the definitions are taken");
    judge_user(
        &place.url,
        "acme-in",
        &[Try::Publish("jobs.default", "")],
        &[Try::Get("jobs.live.high"), Try::Declare("mine"), Try::Publish("", "jobs.live.high")],
    )
    .await;
    say(&place.url, "acme-in", "acme-in").await.expect("it is who it says");
    for (user, said) in [("acme-in", "beta-in"), ("ffpool-producer", "acme-in"), ("ffpool-dispatcher", "acme-in")] {
        let refused = say(&place.url, user, said).await;
        let is_refused = matches!(&refused, Err(PublishError::Rejected { reply, .. }) if reply.contains("user_id"));
        assert!(is_refused, "{user} says that it is {said}: {refused:?}");
    }
    let absent = Connection::connect(&login(&place.url, Account::Client), ConnectionProperties::default()).await;
    assert!(absent.is_err(), "who only looks on has no login here");
}

/// `compose/rights/nats.conf` with one password for all.
fn nats_settings() -> String {
    let text = include_str!("../../../../compose/rights/nats.conf");
    ["CLIENT", "WORKER", "DISPATCHER"]
        .iter()
        .fold(text.to_owned(), |text, name| text.replace(&format!("$NATS_{name}_PASSWORD"), "rights-1"))
}

/// Connects and passes on every refusal of the server.
async fn complaining(url: &str) -> (async_nats::Client, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let options = async_nats::ConnectOptions::new().event_callback(move |event| {
        let tell = tell.clone();
        async move {
            if let async_nats::Event::ServerError(error) = event {
                let _ = tell.send(error.to_string().to_lowercase());
            }
        }
    });
    let server: async_nats::ServerAddr = url.parse().expect("a URL");
    let (user, password) = (server.username().unwrap().to_owned(), server.password().unwrap().to_owned());
    let client =
        soon("connect", options.user_and_password(user, password).connect(server)).await.expect("the login is known");
    (client, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_nats_each_account_may_say_and_hear_what_its_work_needs_and_nothing_else() {
    let start = || Stack::builder().rabbit(false).postgres(false).nats_settings(nats_settings()).start();
    let stack = tokio::task::spawn_blocking(start).await.expect("it ends").expect("NATS takes the file");
    let url = |account: Account| stack.nats.url_of(account.login(), "rights-1");

    // What must work: a question and its answer, each in the inbox of its own account.
    let open = async |account: Account| {
        let signals = Signals::open(&url(account), "rights").await.expect("open");
        until("NATS is up", || async { if signals.is_up() { Ok(()) } else { Err("down") } }).await;
        signals
    };
    let (worker, dispatcher, client) =
        (open(Account::Worker).await, open(Account::Dispatcher).await, open(Account::Client).await);
    let mut claims = dispatcher.serve::<u64>("ffpool.v1.claim", "dispatchers").await.expect("serve");
    let mut orders = worker.serve::<u64>("ffpool.v1.ctl.worker.enc-1", "enc-1").await.expect("serve");
    let mut lines = client.subscribe::<u64>("ffpool.v1.log.1").await.expect("subscribe");
    dispatcher.round_trip(BOUND).await.expect("subscriptions of the dispatcher stand");
    worker.round_trip(BOUND).await.expect("subscriptions of the worker stand");
    let serving = tokio::spawn(async move {
        let claim = claims.next_request().await.expect("a claim");
        claim.answer(&(claim.value + 1)).await.expect("answer");
        let order = orders.next_request().await.expect("an order");
        order.answer(&(order.value + 1)).await.expect("answer");
    });
    assert_eq!(worker.request::<_, u64>("ffpool.v1.claim", &1, BOUND).await.expect("a claim is answered"), 2);
    let order = dispatcher.request::<_, u64>("ffpool.v1.ctl.worker.enc-1", &5, BOUND);
    assert_eq!(order.await.expect("an order is answered"), 6);
    soon("both were served", serving).await.expect("no panic");
    // Who only looks on cannot prove that its subscription stands: lines are repeated until one is heard.
    let heard = async {
        loop {
            worker.publish("ffpool.v1.log.1", &7).await.expect("publish");
            if let Ok(Some(line)) = tokio::time::timeout(Duration::from_millis(50), lines.next()).await {
                return line;
            }
        }
    };
    assert_eq!(soon("a line of the log", heard).await, 7);

    let says: [(Account, &[&str]); 3] = [
        (Account::Client, &["ffpool.v1.hb.enc-1", "ffpool.v1.claim", "ffpool.v1.ctl.job.1", "ffpool.v1.log.1", "x"]),
        (
            Account::Worker,
            &[
                "ffpool.v1.ctl.worker.enc-2",
                "ffpool.v1.ctl.job.1",
                "ffpool.v1.echo.1",
                "_INBOX.ffpool-dispatcher.a",
                "x",
            ],
        ),
        (Account::Dispatcher, &["ffpool.v1.claim", "ffpool.v1.hb.enc-1", "ffpool.v1.log.1", "_INBOX.ffpool-worker.a"]),
    ];
    for (account, subjects) in says {
        let (client, mut refusals) = complaining(&url(account)).await;
        for &subject in subjects {
            client.publish(subject, "1".into()).await.expect("it is sent");
            let refusal = soon("a refusal", refusals.recv()).await.expect("the connection stands");
            let expected = format!("publish to \"{}\"", subject.to_lowercase());
            assert!(refusal.contains(&expected), "{} says {subject}: {refusal}", account.login());
        }
    }
    let hears: [(Account, &[&str]); 3] = [
        (Account::Client, &["ffpool.v1.claim", "ffpool.v1.hb.*", "ffpool.v1.ctl.>", "_INBOX.>", ">"]),
        (
            Account::Worker,
            &["ffpool.v1.claim", "ffpool.v1.commit", "ffpool.v1.hb.*", "_INBOX.>", "_INBOX.ffpool-dispatcher.>", ">"],
        ),
        (Account::Dispatcher, &["ffpool.v1.ctl.worker.*", "ffpool.v1.handover.*", "_INBOX.ffpool-worker.>", ">"]),
    ];
    for (account, subjects) in hears {
        let (client, mut refusals) = complaining(&url(account)).await;
        for &subject in subjects {
            let _subscription = client.subscribe(subject).await.expect("it is sent");
            let refusal = soon("a refusal", refusals.recv()).await.expect("the connection stands");
            let expected = format!("subscription to \"{}\"", subject.to_lowercase());
            assert!(refusal.contains(&expected), "{} hears {subject}: {refusal}", account.login());
        }
    }
    let nobody = async_nats::connect(stack.nats.url()).await;
    assert!(nobody.is_err(), "without a login nothing is to be had");
}
