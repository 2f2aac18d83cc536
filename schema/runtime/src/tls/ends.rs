//! When certificates end: told in the metrics at every look, and in the log once a day where it is soon.

use ffpool_schema::metrics::CERTIFICATE_EXPIRES_SECONDS;
use tracing::{error, warn};

use super::certificate::{Facts, now};

/// A certificate that ends sooner than this is worth a warning every day.
const WARN_SECS: i64 = 14 * DAY_SECS;
const DAY_SECS: i64 = 24 * 3600;

/// Tells of the ends of some certificates.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// When those that end soon were last warned of, in seconds since 1970.
    warned: i64,
}

impl Ends {
    /// Tells what is left of each now, by the name under which it is known.
    pub(super) fn tell<'a>(&mut self, certificates: impl IntoIterator<Item = (&'static str, &'a Facts)>) {
        let now = now();
        let is_new_day = now - self.warned >= DAY_SECS;
        for (certificate, facts) in certificates {
            let left = facts.left_secs(now);
            #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
            metrics::gauge!(CERTIFICATE_EXPIRES_SECONDS, "certificate" => certificate).set(left as f64);
            if is_new_day && left <= 0 {
                error!(certificate, subject = %facts.subject, "expired: nobody should trust it any more, replace its file");
            } else if is_new_day && left < WARN_SECS {
                warn!(certificate, subject = %facts.subject, days_left = left / DAY_SECS, "the certificate ends soon");
            }
        }
        if is_new_day {
            self.warned = now;
        }
    }
}
