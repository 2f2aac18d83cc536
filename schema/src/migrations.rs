//! The ledger's tables as a list of SQL migrations, oldest first.
//!
//! Invariant: a migration that has been released is never edited; a change is a new one. The dispatcher applies them at
//! its start, forward only.

/// Every migration: its name as `V<number>__<what>`, and its SQL.
pub const ALL: &[(&str, &str)] = &[
    ("V1__ledger", include_str!("../migrations/V1__ledger.sql")),
    ("V2__pausing_and_depending", include_str!("../migrations/V2__pausing_and_depending.sql")),
    ("V3__handing_back", include_str!("../migrations/V3__handing_back.sql")),
    ("V4__purged", include_str!("../migrations/V4__purged.sql")),
    ("V5__placing", include_str!("../migrations/V5__placing.sql")),
    ("V6__callbacks", include_str!("../migrations/V6__callbacks.sql")),
    ("V7__schedules", include_str!("../migrations/V7__schedules.sql")),
    ("V8__chunks", include_str!("../migrations/V8__chunks.sql")),
    ("V9__schedules_making", include_str!("../migrations/V9__schedules_making.sql")),
    ("V10__finishing", include_str!("../migrations/V10__finishing.sql")),
    ("V11__cost", include_str!("../migrations/V11__cost.sql")),
    ("V12__tenants", include_str!("../migrations/V12__tenants.sql")),
    ("V13__roles", include_str!("../migrations/V13__roles.sql")),
    ("V14__quotas", include_str!("../migrations/V14__quotas.sql")),
    ("V15__turns", include_str!("../migrations/V15__turns.sql")),
    ("V16__web_sessions", include_str!("../migrations/V16__web_sessions.sql")),
    ("V17__retention", include_str!("../migrations/V17__retention.sql")),
    ("V18__many", include_str!("../migrations/V18__many.sql")),
    ("V19__progress_curves", include_str!("../migrations/V19__progress_curves.sql")),
    ("V20__running", include_str!("../migrations/V20__running.sql")),
    ("V21__thumbnails", include_str!("../migrations/V21__thumbnails.sql")),
    ("V22__sums", include_str!("../migrations/V22__sums.sql")),
    ("V23__failures", include_str!("../migrations/V23__failures.sql")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_in_order() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let version = |name: &str| name[1..].split_once("__").unwrap().0.parse::<u32>().unwrap();
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".sql").to_owned())
            .collect();
        files.sort_by_key(|name| version(name));
        let listed: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, files);
    }
}
