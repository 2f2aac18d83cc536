//! When the certificates of our links to servers end: those that we show there, and those by which we judge the servers.
//!
//! Invariants:
//! * what is told is what the next connection goes by: RabbitMQ's and NATS' files are read for each, and so at each look,
//!   Postgres' at the start;
//! * a file that cannot be used leaves the last answer standing, and is told of once.

use std::path::PathBuf;
use std::time::Duration;

use tracing::{error, warn};

use super::certificate::{Facts, facts_in};
use super::client::{Server, certificate_files};
use super::ends::Ends;
use crate::settings::chain;

/// How often the files are read.
const LOOK: Duration = Duration::from_secs(60);

/// A file that a link's address names.
#[derive(Debug)]
struct Watched {
    /// Under which its end is told.
    name: &'static str,
    file: PathBuf,
    /// Whether a change of the file changes what is used.
    is_read_again: bool,
    /// Of the certificate in it that ends first: of a chain every link counts, of authorities who knows.
    known: Option<Facts>,
    /// What was last said of it.
    trouble: Option<String>,
}

/// The certificates of a process's links.
#[derive(Debug)]
pub struct LinkCertificates {
    watched: Vec<Watched>,
    ends: Ends,
}

impl LinkCertificates {
    /// Reads those that these addresses name; each has the setting that it stands in, as for
    /// [`warn_of_plain_links`](super::warn_of_plain_links).
    #[must_use]
    pub fn read(links: &[(&str, Server, &str)]) -> LinkCertificates {
        let mut watched = Vec::new();
        for (_, server, url) in links {
            let (shown, trusted, is_read_again) = match server {
                Server::Amqp => ("amqp", "amqp-ca", true),
                Server::Nats => ("nats", "nats-ca", true),
                Server::Postgres => ("postgres", "postgres-ca", false),
            };
            let files = certificate_files(*server, url);
            for (name, file) in [(shown, files.shown), (trusted, files.trusted)] {
                let one = |file| Watched { name, file, is_read_again, known: None, trouble: None };
                watched.extend(file.map(one));
            }
        }
        watched.iter_mut().for_each(Watched::read);
        LinkCertificates { watched, ends: Ends::default() }
    }

    /// Looks after them for as long as it is polled.
    pub async fn watch(mut self) {
        loop {
            let look = move || {
                self.look();
                self
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(looked) => self = looked,
                Err(error) => {
                    error!(%error, "the certificates of the links are no longer looked at; please report it");
                    return std::future::pending().await;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One look: reads what may have changed, tells what is left. Blocks.
    pub fn look(&mut self) {
        self.watched.iter_mut().filter(|one| one.is_read_again).for_each(Watched::read);
        self.ends.tell(self.watched.iter().filter_map(|one| Some((one.name, one.known.as_ref()?))));
    }
}

impl Watched {
    fn read(&mut self) {
        match facts_in(&self.file) {
            Ok(all) => {
                self.known = all.into_iter().min_by_key(|facts| facts.not_after).or(self.known.take());
                self.trouble = None;
            }
            Err(error) => {
                let trouble = chain(&error);
                if self.trouble.as_ref() != Some(&trouble) {
                    warn!(certificate = self.name, "nobody knows when it ends: {trouble}");
                }
                self.trouble = Some(trouble);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::certificate::now;
    use super::super::{Authority, Wanted, write_over};
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn certificate(authority: &Authority, days: i64) -> String {
        let life = Duration::from_secs(u64::try_from(days * DAY).unwrap());
        let names = vec!["localhost".to_owned()];
        let wanted = Wanted { common_name: "ours".to_owned(), names, is_server: false, is_client: true, life };
        authority.issue(&wanted).unwrap().certificate
    }

    /// What is known, in whole days.
    fn days_left(certificates: &LinkCertificates) -> Vec<(&'static str, Option<i64>)> {
        let days = |facts: &Facts| (facts.left_secs(now()) + DAY / 2) / DAY;
        certificates.watched.iter().map(|one| (one.name, one.known.as_ref().map(days))).collect()
    }

    fn escaped(path: &Path) -> String {
        path.display().to_string().replace('/', "%2F")
    }

    #[test]
    fn what_the_next_connection_goes_by_is_known_by_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_create(&folder.path().join("ca"), "ours").unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            write_over(&path, text, false).unwrap();
            path
        };
        let own = file("own.pem", &certificate(&authority, 100));
        // A chain of which the second ends first.
        let chain = [certificate(&authority, 90), certificate(&authority, 30)].concat();
        let nats = file("nats.pem", &chain);
        let postgres = file("postgres.pem", &certificate(&authority, 50));
        let root = file("root.pem", &certificate(&authority, 60));
        let amqp_url =
            format!("AMQPS://u:p@h/%2f?certfile={0}&keyfile={0}&cacertfile={1}", escaped(&own), escaped(&root));
        let nats_url = format!("tls://a:4222,tls://b:4222?certfile={0}&keyfile={0}", nats.display());
        let database = format!("postgres://u@h/d?sslrootcert={}&sslcert={}", root.display(), escaped(&postgres));
        let mut certificates = LinkCertificates::read(&[
            ("FFPOOL_AMQP_URL", Server::Amqp, &amqp_url),
            ("FFPOOL_NATS_URL", Server::Nats, &nats_url),
            ("FFPOOL_DATABASE_URL", Server::Postgres, &database),
        ]);
        let mut expected = [
            ("amqp", Some(100)),
            ("amqp-ca", Some(60)),
            ("nats", Some(30)),
            ("postgres", Some(50)),
            ("postgres-ca", Some(60)),
        ];
        assert_eq!(days_left(&certificates), expected);

        // Of what is renewed Postgres' link makes nothing before its process starts again.
        for path in [&own, &postgres, &root] {
            write_over(path, &certificate(&authority, 200), false).unwrap();
        }
        write_over(&nats, "half a certificate", false).unwrap();
        certificates.look();
        (expected[0].1, expected[1].1) = (Some(200), Some(200));
        assert_eq!(days_left(&certificates), expected, "and the last answer stands where a file cannot be used");
        assert!(certificates.watched[2].trouble.as_ref().is_some_and(|said| said.contains("nats.pem")));
        write_over(&nats, &certificate(&authority, 70), false).unwrap();
        certificates.look();
        assert_eq!((days_left(&certificates)[2], &certificates.watched[2].trouble), (("nats", Some(70)), &None));
    }

    #[test]
    fn a_link_without_certificates_of_its_own_has_none_to_tell_of() {
        let none = |server, url: &str| LinkCertificates::read(&[("SETTING", server, url)]).watched.is_empty();
        assert!(none(Server::Amqp, "amqp://u:p@h/%2f"));
        assert!(none(Server::Amqp, "amqps://u:p@h/%2f?heartbeat=5"));
        assert!(none(Server::Amqp, "amqp://u:p@h/%2f?cacertfile=/ca.pem"), "without TLS nobody reads it");
        assert!(none(Server::Nats, "tls://u:p@h:4222"));
        assert!(none(Server::Postgres, "postgres://u@h/d?sslmode=verify-full&sslrootcert=system"));
        assert!(none(Server::Postgres, "what nobody can split"));
        assert!(!none(Server::Nats, "nats://h:4222?cacertfile=/none.pem"), "a file makes it TLS");
        assert!(!none(Server::Postgres, "host=h sslrootcert=/none.pem"));
    }
}
