//! A part of the acceptance matrix that a small machine carries out in a minute; the whole is a command.

use ffpool_loadtest::matrix::{self, MatrixArgs, Verdict};

use crate::support::run;

#[test]
fn small_jobs_of_the_matrix_are_as_asked_and_the_others_refused_for_a_reason() {
    let report = run(async {
        // Half a second of 720p30 and what is smaller.
        matrix::run(&MatrixArgs { seconds: 0.5, most_megapixels: 14.0, ..MatrixArgs::default() }).await
    });
    assert!(report.is_clean(), "{report}");
    let [made, refused, left_out, _] = report.counts();
    assert!(made >= 35 && refused >= 4 && left_out > 0, "{report}");
    for (case, verdict) in &report.rows {
        let Verdict::Refused { faults } = verdict else { continue };
        for fault in faults {
            assert!(
                matches!(fault.code.as_str(), "no_worker_fits" | "unsupported"),
                "{} is refused for {fault}",
                case.name
            );
        }
    }
}
