//! Who may do what on the servers: every name of the topology against the patterns of every account. The same run prints
//! the files in `compose/rights`, so that what servers are given cannot drift from the code.

use std::collections::BTreeSet;

use ffpool_schema::job::Pool;
use ffpool_schema::rights::{Account, AmqpRights, amqp, nats};
use ffpool_schema::subjects;
use ffpool_schema::topology::{Topology, WorkQueue};
use regex::Regex;
use serde_json::{Value, json};

fn names() -> BTreeSet<String> {
    let pools = ["gpu", "a-1"].map(|pool| pool.parse::<Pool>().unwrap());
    let Topology { exchanges, queues, .. } = Topology::for_pools(&pools);
    let others = [
        "",
        "amq.default",
        "amq.topic",
        "jobs",
        "jobs.live.urgent",
        "xjobs.live.high",
        "jobs.live.high.",
        "jobs.lives",
    ];
    let topology =
        exchanges.into_iter().map(|exchange| exchange.name).chain(queues.into_iter().map(|queue| queue.name));
    topology.chain(others.map(String::from)).collect()
}

fn allowed(pattern: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    names().into_iter().filter(|name| !name.is_empty() && pattern.is_match(name)).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_producer_writes_to_the_job_exchanges_and_nothing_else() {
    let rights = amqp(Account::Producer).unwrap();
    assert_eq!(allowed(&rights.write), set(&["jobs.batch", "jobs.default", "jobs.live"]));
    assert_eq!((allowed(&rights.configure), allowed(&rights.read)), (set(&[]), set(&[])));
    assert!(nats(Account::Producer).is_none());
}

#[test]
fn a_worker_reads_the_work_queues_with_their_twins_and_writes_events() {
    let rights = amqp(Account::Worker).unwrap();
    let pools = ["cpu", "gpu", "a-1"].map(|pool| pool.parse::<Pool>().unwrap());
    let work = pools.iter().flat_map(WorkQueue::of_pool).flat_map(|work| [work.name(), work.returned_name()]).collect();
    assert_eq!(allowed(&rights.read), work);
    assert_eq!(allowed(&rights.write), set(&["jobs.events"]));
    assert_eq!(allowed(&rights.configure), set(&[]));
}

#[test]
fn a_dispatcher_has_its_topology_and_no_other_object() {
    let rights = amqp(Account::Dispatcher).unwrap();
    let Topology { exchanges, queues, .. } = Topology::for_pools(&["gpu", "a-1"].map(|pool| pool.parse().unwrap()));
    let own: BTreeSet<String> =
        exchanges.into_iter().map(|exchange| exchange.name).chain(queues.into_iter().map(|queue| queue.name)).collect();
    assert_eq!((allowed(&rights.configure), allowed(&rights.read)), (own.clone(), own.clone()));
    assert_eq!(allowed(&rights.write), own.into_iter().chain(["amq.default".to_owned()]).collect());
}

#[test]
fn what_one_part_says_another_hears_and_no_inbox_is_anybody_elses() {
    let (worker, dispatcher, client) = (Account::Worker, Account::Dispatcher, Account::Client);
    let rights = |account| nats(account).unwrap();
    let inbox = |subject: &&String| subject.starts_with("_INBOX");
    for subject in rights(worker).publish.iter().filter(|subject| !inbox(subject) && *subject != subjects::HAND_OVERS) {
        assert!(rights(dispatcher).subscribe.contains(subject), "a dispatcher does not hear {subject}");
        assert!(!rights(dispatcher).publish.contains(subject), "a dispatcher pretends to be a worker on {subject}");
    }
    for subject in [subjects::CONTROL_OF_WORKERS, subjects::CONTROL_OF_JOBS].map(String::from) {
        assert!(rights(dispatcher).publish.contains(&subject) && rights(worker).subscribe.contains(&subject));
        assert!(!rights(worker).publish.contains(&subject), "a worker gives orders on {subject}");
    }
    assert_eq!((rights(client).publish, rights(client).answers), (Vec::<String>::new(), false));
    for (account, own) in [(worker, "_INBOX.ffpool-worker.>"), (dispatcher, "_INBOX.ffpool-dispatcher.>")] {
        let heard = rights(account).subscribe;
        assert_eq!(heard.iter().filter(inbox).collect::<Vec<_>>(), [own]);
    }
    assert_eq!(subjects::inbox(None), "_INBOX");
    assert_eq!(subjects::inbox(Some("a.>")), "_INBOX", "a login is no way to hear others");
}

/// `${NAME}` and `$NAME` stand for values of the environment: `compose/rights/apply` puts them in, and NATS itself.
fn password(server: &str, account: Account) -> String {
    format!("{server}_{}_PASSWORD", account.login().trim_start_matches("ffpool-").to_uppercase())
}

fn rabbitmq_definitions() -> String {
    let vhost = "${RABBITMQ_VHOST}";
    let accounts = || Account::ALL.into_iter().filter_map(|account| Some((account, amqp(account)?)));
    let users: Vec<_> = accounts()
        .map(|(account, _)| {
            let password = format!("${{{}}}", password("RABBITMQ", account));
            json!({"name": account.login(), "password": password, "tags": ""})
        })
        .collect();
    let permissions: Vec<_> = accounts().map(|(account, rights)| permissions(account.login(), &rights)).collect();
    let definitions = json!({"vhosts": [{"name": vhost}], "users": users, "permissions": permissions});
    format!("{}\n", serde_json::to_string_pretty(&definitions).unwrap())
}

fn permissions(user: &str, rights: &AmqpRights) -> Value {
    json!({
        "user": user, "vhost": "${RABBITMQ_VHOST}",
        "configure": rights.configure, "write": rights.write, "read": rights.read,
    })
}

/// A tenant's user is one more producer. Without any tag: one that may impersonate others says `user_id` as it likes.
fn tenant_definitions() -> String {
    let rights = amqp(Account::Producer).expect("it publishes");
    let user = json!({"name": "${RABBITMQ_USER}", "password": "${RABBITMQ_TENANT_PASSWORD}", "tags": ""});
    let definitions = json!({"users": [user], "permissions": [permissions("${RABBITMQ_USER}", &rights)]});
    format!("{}\n", serde_json::to_string_pretty(&definitions).unwrap())
}

fn nats_authorization() -> String {
    let list =
        |subjects: &[String]| subjects.iter().map(|subject| format!("          {subject:?}\n")).collect::<String>();
    let user = |account: Account| {
        let rights = nats(account)?;
        // An empty list of what is allowed would allow everything.
        let publish = match rights.publish.as_slice() {
            [] => "        publish: { deny: \">\" }\n".to_owned(),
            some => format!("        publish: {{ allow: [\n{}        ] }}\n", list(some)),
        };
        let subscribe = format!("        subscribe: {{ allow: [\n{}        ] }}\n", list(&rights.subscribe));
        // Longer than anybody waits for an answer.
        let answers = if rights.answers { "        allow_responses: { max: 1, expires: \"1m\" }\n" } else { "" };
        Some(format!(
            "    {{\n      user: \"{}\"\n      password: ${}\n      permissions: {{\n{publish}{subscribe}{answers}      }}\n    }}\n",
            account.login(),
            password("NATS", account),
        ))
    };
    let users: String = Account::ALL.into_iter().filter_map(user).collect();
    format!(
        "# Who may do what on NATS: include it in the server's configuration. Passwords come from its environment.\n\
         # Made by schema/tests/rights.rs; FFPOOL_BLESS=1 rewrites it.\n\
         authorization {{\n  users: [\n{users}  ]\n}}\n"
    )
}

#[test]
fn the_files_for_the_servers_are_what_the_code_makes() {
    let files = [
        ("rabbitmq.json", rabbitmq_definitions()),
        ("rabbitmq-tenant.json", tenant_definitions()),
        ("nats.conf", nats_authorization()),
    ];
    for (name, text) in files {
        let path = format!("{}/../compose/rights/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("FFPOOL_BLESS").is_some() {
            std::fs::write(&path, &text).expect("the file can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, text, "{path} is out of date: FFPOOL_BLESS=1 cargo test -p ffpool-schema");
    }
}
