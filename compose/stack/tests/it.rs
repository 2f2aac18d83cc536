//! The stack against the real servers: they answer, survive being killed, and are gone when their owner is.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ffpool_stack::{Stack, StackError};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postgres::{Client, NoTls};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn all_three_answer_and_every_test_has_its_own_vhost_and_database() {
    let stack = Stack::shared();
    assert!(stack.nats.version().starts_with(|first: char| first.is_ascii_digit()), "{:?}", stack.nats.version());
    assert!(stack.rabbit.version().starts_with(|first: char| first.is_ascii_digit()), "{:?}", stack.rabbit.version());

    let (one, other) = (stack.rabbit.new_vhost(), stack.rabbit.new_vhost());
    assert_ne!(one, other);
    in_async(async {
        let declared = connect(&one).await.create_channel().await.unwrap();
        declare_quorum_queue(&declared, "here").await;
        let elsewhere = connect(&other).await.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        elsewhere.queue_declare("here".into(), passive, FieldTable::default()).await.unwrap_err();
    });
    let vhosts = stack.rabbit.ctl(["list_vhosts", "name"]).unwrap();
    assert!(vhosts.lines().any(|line| one.ends_with(line)), "{one} is not in {vhosts}");

    let (one, other) = (stack.postgres.new_database(), stack.postgres.new_database());
    Client::connect(&one, NoTls).unwrap().batch_execute("CREATE TABLE here ()").unwrap();
    Client::connect(&other, NoTls).unwrap().batch_execute("SELECT FROM here").unwrap_err();
    Client::connect(&stack.postgres.url(), NoTls).unwrap().batch_execute("SELECT 1").unwrap();
}

#[test]
fn a_database_can_be_made_from_async_code() {
    in_async(async {
        assert!(Stack::shared().postgres.new_database().starts_with("postgres://"));
    });
}

#[test]
fn a_killed_rabbitmq_comes_back_with_its_messages() {
    let stack = Stack::builder().nats(false).postgres(false).start().unwrap();
    let url = stack.rabbit.new_vhost();
    in_async(async {
        let channel = connect(&url).await.create_channel().await.unwrap();
        declare_quorum_queue(&channel, "kept").await;
        // RabbitMQ writes the name of a new quorum queue down every half second, and nothing tells when.
        tokio::time::sleep(Duration::from_secs(2)).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let confirm = channel
            .basic_publish("".into(), "kept".into(), BasicPublishOptions::default(), b"still here", persistent)
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(confirm.is_ack());
    });

    stack.rabbit.kill();
    in_async(async {
        Connection::connect(&url, ConnectionProperties::default()).await.unwrap_err();
    });
    stack.rabbit.restart().unwrap();

    let message = until("the message is back", || {
        in_async(async {
            let channel = connect(&url).await.create_channel().await.map_err(|error| error.to_string())?;
            let got = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await;
            got.map_err(|error| error.to_string())?.ok_or_else(|| "the queue is empty".to_owned())
        })
    });
    assert_eq!(message.delivery.data, b"still here");
}

#[test]
fn a_killed_postgres_and_a_killed_nats_come_back_where_they_were() {
    let stack = Stack::builder().rabbit(false).start().unwrap();
    let database = stack.postgres.new_database();
    let mut before = Client::connect(&database, NoTls).unwrap();
    before.batch_execute("CREATE TABLE kept AS SELECT 7 AS number").unwrap();
    let nats = stack.nats.url();

    stack.postgres.kill();
    stack.nats.kill();
    before.batch_execute("SELECT 1").unwrap_err();
    Client::connect(&database, NoTls).map(drop).unwrap_err();
    stack.postgres.restart().unwrap();
    stack.nats.restart().unwrap();

    let mut after = Client::connect(&database, NoTls).unwrap();
    assert_eq!(after.query_one("SELECT number FROM kept", &[]).unwrap().get::<_, i32>(0), 7);
    assert_eq!(stack.nats.url(), nats);
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    let base = tempfile::tempdir_in("/tmp").unwrap();
    open_to_all(base.path());
    let mut owner = start_owner(Command::new(env!("CARGO_BIN_EXE_ffpool-stack")).env("TMPDIR", base.path()));
    let root = only_entry(base.path());
    assert!(!processes_in(&root).is_empty(), "no server runs in {}", root.display());

    owner.kill().unwrap();
    owner.wait().unwrap();

    until("the servers and their data are gone", || {
        let processes = processes_in(&root);
        if processes.is_empty() && !root.exists() {
            Ok(())
        } else {
            Err(format!("{} exists: {}; processes: {processes:?}", root.display(), root.exists()))
        }
    });
}

#[test]
fn data_in_a_named_directory_outlives_a_killed_owner() {
    let base = tempfile::tempdir_in("/tmp").unwrap();
    open_to_all(base.path());
    let root = base.path().join("kept");
    let mut owner = start_owner(Command::new(env!("CARGO_BIN_EXE_ffpool-stack")).arg("--root").arg(&root));
    owner.kill().unwrap();
    owner.wait().unwrap();

    // Waits by itself until the first one's servers are swept.
    let stack = Stack::builder().root(root.clone()).start().unwrap();
    let vhost = stack.rabbit.new_vhost();
    in_async(async {
        connect(&vhost).await;
    });
    let said = Command::new(root.join("rabbitmqctl")).args(["--quiet", "list_users"]).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("guest"), "{said:?}");
    drop(stack);
    assert!(root.join("postgres/data/PG_VERSION").exists());
    assert_eq!(processes_in(&root.canonicalize().unwrap()), Vec::<String>::new());
}

#[test]
fn the_program_ends_by_itself_when_it_is_asked_to() {
    let base = tempfile::tempdir_in("/tmp").unwrap();
    open_to_all(base.path());
    let root = base.path().join("kept");
    let mut owner = start_owner(Command::new(env!("CARGO_BIN_EXE_ffpool-stack")).arg("--root").arg(&root));
    kill(Pid::from_raw(owner.id().cast_signed()), Signal::SIGTERM).unwrap();
    // A node that is stopped in good order says that it was asked; one that is killed says nothing.
    let log = root.join("rabbit/log/ff@localhost.log");
    let status = until("the program has ended", || owner.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned()));
    assert!(status.success(), "{status}");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("SIGTERM received"), "{log}");
}

#[test]
fn a_missing_server_names_the_package_to_install() {
    let error = Stack::builder().programs(Vec::new()).start().unwrap_err();
    assert!(matches!(error, StackError::Missing { package: "rabbitmq-server", .. }), "{error}");
    assert!(error.to_string().contains("apt-get install rabbitmq-server"), "{error}");
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let stack = Stack::builder().nats(false).postgres(false).rabbit_setting("no.such.setting = 1").start();
    let error = stack.unwrap_err().to_string();
    assert!(error.contains("no.such.setting"), "{error}");
}

fn in_async<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

async fn declare_quorum_queue(channel: &lapin::Channel, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, arguments).await.unwrap();
}

fn until<T>(fact: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        match check() {
            Ok(value) => return value,
            Err(state) => assert!(Instant::now() < deadline, "not within {BOUND:?}: {fact}; last state: {state}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Starts the `ffpool-stack` program and waits for the exports that it prints when its servers answer.
fn start_owner(command: &mut Command) -> Child {
    let mut owner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(owner.stdout.take().unwrap());
    for name in ["FFPOOL_AMQP_URL", "FFPOOL_NATS_URL", "FFPOOL_DATABASE_URL"] {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if !line.starts_with(&format!("export {name}='")) {
            let mut errors = String::new();
            owner.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("expected the export of {name}, read {line:?}; standard error: {errors}");
        }
    }
    owner
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
}

fn only_entry(directory: &Path) -> PathBuf {
    let entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().unwrap()
}

/// The processes that have the directory on their command line or work below it.
fn processes_in(root: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let text = root.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name != own && name.parse::<u32>().is_ok()))
        .filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let works_below = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
            (works_below || command.contains(text)).then(|| format!("{} {command}", entry.file_name().display()))
        })
        .collect()
}
