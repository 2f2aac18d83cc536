//! Mistakes that a stranger makes: each is told in plain words, with what to do next, and ends with its own code.

use crate::{ffpool, run, stderr};

/// What is typed, the code, what is said, and the step that is named.
const MISTAKES: &[(&[&str], i32, &str, &str)] = &[
    (&["jobs", "list", "--api-url", "pool.example:8080"], 2, "no http:// or https:// address", "such as https://"),
    (&["jobs", "list", "--api-url", "http://127.0.0.1:1"], 6, "Connection refused", "Start the dispatcher"),
    (&["jobs", "list", "--api-url", "https://ffpool.invalid"], 6, "no answer", "No machine has that name"),
    (&["jobs", "list", "--api-ca-file", "/nonexistent/ca.pem"], 2, "cannot be read", "the dispatcher's log names"),
    (&["jobs", "list", "--api-ca-file", "empty.pem"], 2, "holds no certificate", "the dispatcher's log names"),
    (&["jobs", "list", "--api-client-cert", "empty.pem"], 2, "certificate and its private key", "certs issue"),
    (&["jobs", "list", "--api-key", "two\nlines"], 2, "no header can carry", "keys create"),
    (&["submit", "/nonexistent/job.json"], 2, "No such file", "Check the path"),
    (&["submit", "."], 2, "Is a directory", "this is a folder"),
    (&["submit", "cut.json"], 2, "is no JSON", "ffpool schema"),
    (&["submit", "misspelt.json"], 4, "did you mean `scenario`?", "ffpool schema"),
    (&["submit", "-s", "720p30-h264", "--amqp"], 2, "RabbitMQ's address", "FFPOOL_AMQP_URL"),
    (&["jobs", "log", "17", "--follow"], 2, "NATS' address", "FFPOOL_NATS_URL"),
    (&["jobs", "show", "abc"], 2, "its number (17) or its id", "--help"),
    (&["batch", "/nonexistent.csv"], 2, "No such file", "Check the path"),
    (&["queues", "--config", "/nonexistent.toml"], 2, "read the settings file", "--config"),
    (&["queues", "--config", "misspelt.toml"], 2, "unknown key `api_ulr`", "Correct the key"),
    (&["queues", "--config", "broken.toml"], 2, "is no TOML", "in quotes"),
    (&["watch", "/nonexistent"], 2, "cannot be used", "Name a folder"),
    (&["scenarios", "--check", "/nonexistent.toml"], 2, "read the scenario file", "check the file again"),
    (&["certs", "show", "/nonexistent.pem"], 1, "No such file", "certs issue"),
    (&["top"], 2, "needs a terminal", "--once"),
];

#[test]
fn a_strangers_mistakes_are_told_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("empty.pem", "no certificate\n"),
        ("cut.json", "{\"scenario\": "),
        ("misspelt.json", "{\"scenaro\": \"720p30-h264\"}"),
        ("misspelt.toml", "api_ulr = \"https://pool\"\n"),
        ("broken.toml", "api_url =\n"),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for (typed, code, what, next) in MISTAKES {
        let output = run(*code, ffpool(typed).current_dir(folder.path()).stdin(std::process::Stdio::null()));
        let said = stderr(&output);
        assert!(
            said.contains(what) && said.contains(next),
            "{typed:?}: `{what}` and `{next}` are expected in:\n{said}"
        );
        assert!(output.stdout.is_empty(), "{typed:?}: a mistake is no result");
    }
}
