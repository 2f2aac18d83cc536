//! The API's door over TLS with a crowd in it that only holds places.

use std::process::Command;

use ffpool_loadtest::doors::{self, DoorsArgs};
use ffpool_loadtest::pool::binary_path;
use ffpool_stack::Stack;

use crate::support::run;

#[test]
fn a_crowd_that_only_holds_places_and_a_flood_keep_nobody_from_being_answered() {
    run(async {
        let stack = tokio::task::spawn_blocking(Stack::shared).await?;
        let args = DoorsArgs { idle: 300, slow: 50, places: None, asks: 40, flood: 500 };
        let report = doors::run_on(stack, &args).await?;
        assert!(report.is_everybody_answered(), "{report}");
        assert_eq!(report.idle, 300, "those who wait keep their places while there is room: {report}");
        let flood = report.flood.as_ref().expect("it was asked for");
        assert_eq!(flood.others_failed, 0, "{report}");
        assert!(flood.passed >= 200, "{report}");
        Ok(())
    });
}

#[test]
fn settings_that_contradict_each_other_end_a_dispatcher_with_2_before_it_asks_any_server() {
    for (setting, value, told) in [
        ("FFPOOL_API_TLS", "files", "FFPOOL_API_CERT"),
        ("FFPOOL_API_CLIENT_ROLES", "cn=ops:operator", "FFPOOL_API_CLIENT_CA"),
        ("FFPOOL_API_CLIENT_CRL", "/crl.pem", "FFPOOL_API_CLIENT_CA"),
    ] {
        let output = Command::new(binary_path("ffpool-dispatcher").unwrap())
            .env_clear()
            .env("FFPOOL_API_ADDR", "127.0.0.1:0")
            .env("FFPOOL_METRICS_ADDR", "127.0.0.1:0")
            .env("FFPOOL_AMQP_URL", "amqp://127.0.0.1:1")
            .env("FFPOOL_NATS_URL", "nats://127.0.0.1:1")
            .env("FFPOOL_DATABASE_URL", "postgres://127.0.0.1:1/none")
            .env(setting, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(told), "{setting}: {:?} {said}", output.status);
    }
}
