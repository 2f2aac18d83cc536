//! The arguments of `ffpool certs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool certs init /root/ffpool-certs
  ffpool certs issue /root/ffpool-certs rabbitmq nats postgres --host broker.example --host 10.0.0.5
  ffpool certs issue /root/ffpool-certs worker client
  ffpool certs issue /root/ffpool-certs objects --server --host objects.example
  ffpool certs issue /root/ffpool-certs --renew-before 30
  ffpool certs revoke /root/ffpool-certs worker-7
  ffpool certs show /root/ffpool-certs/*.pem";

/// Certificates of the pool's parts.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make a certificate authority: `ca.pem` for everybody to trust, `ca-key.pem` to keep.
    #[command(
        after_help = "Examples:\n  ffpool certs init /root/ffpool-certs\n  ffpool certs init ./certs --name 'pool CA'"
    )]
    Init {
        /// Where; made if it is missing. An authority that is there stays.
        folder: PathBuf,
        /// Its name.
        #[arg(long, default_value = "ffpool CA", value_name = "NAME")]
        name: String,
    },
    /// Make certificates, each with its key in one file, `<part>.pem`.
    #[command(
        after_help = "Examples:\n  ffpool certs issue ./certs api --host pool.example\n  ffpool certs issue ./certs worker client --days 90\n  ffpool certs issue ./certs worker --renew\n  ffpool certs issue ./certs --renew-before 30"
    )]
    Issue(Issue),
    /// Revoke certificates: put them on the authority's list, `crl.pem` in its folder, which is then to be installed where
    /// clients are judged.
    #[command(
        after_help = "Examples:\n  ffpool certs revoke ./certs worker-7\n  ffpool certs revoke ./certs /tmp/stolen.pem\n  ffpool certs revoke ./certs --days 365"
    )]
    Revoke(Revoke),
    /// Show what stands in certificates and in lists of revoked ones, and how long they last. Code 1 if one has expired.
    #[command(after_help = "Examples:\n  ffpool certs show ./certs/*.pem\n  ffpool certs show api.pem --output json")]
    Show {
        /// PEM files. Certificates that a list among them, or `crl.pem` beside them, names are shown as revoked.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// What to issue.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The folder of `certs init`.
    pub(crate) folder: PathBuf,
    /// For whom: `api`, `rabbitmq`, `nats` and `postgres` get a server's certificate, anybody else a client's whose common
    /// name this is. Default: api, rabbitmq, nats, postgres, dispatcher, worker and client.
    #[arg(value_name = "PART")]
    pub(crate) parts: Vec<String>,
    /// A host name or address by which servers are called, besides the part's name and `localhost`; may repeat.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Make servers' certificates for other names too, such as that of an object store.
    #[arg(long, requires = "parts")]
    pub(crate) server: bool,
    /// For how long.
    #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub(crate) days: u32,
    /// Write over certificates that are there.
    #[arg(long, conflicts_with = "renew_before")]
    pub(crate) renew: bool,
    /// Write over those only that have no so many days left, lack one of the names or are revoked; for a timer.
    #[arg(long, value_name = "DAYS")]
    pub(crate) renew_before: Option<u32>,
}

/// What to revoke.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The folder of `certs init`.
    pub(crate) folder: PathBuf,
    /// The certificates: by part, `worker-7` for `worker-7.pem` in the folder, or by file. Without any the list is made anew,
    /// with who stands on it already.
    #[arg(value_name = "PART|FILE")]
    pub(crate) certificates: Vec<String>,
    /// For how long the list counts: when it is over, nobody is let in by it, until it is made anew.
    #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3660))]
    pub(crate) days: u32,
}
