//! The API's door over TLS with a crowd in it that only holds places.

use ffpool_loadtest::doors::{self, DoorsArgs};
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
