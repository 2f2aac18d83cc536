//! The settings of remote inputs and outputs, as flags, variables or keys of the settings file.

use std::path::PathBuf;

use clap::Args;
use ffpool_schema::location::Scheme;

use ffpool_runtime::guard::Cidr;

/// Remote inputs and outputs.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// Address ranges that inputs may come from, and live outputs go to, besides public ones, separated by commas:
    /// `10.0.0.0/8,fd00::/8`.
    #[arg(long, env = "FFPOOL_FETCH_ALLOW", value_name = "RANGES", value_delimiter = ',')]
    pub fetch_allow: Vec<Cidr>,
    /// Certificates, as PEM, that live servers over TLS must descend from, instead of those that the system trusts.
    #[arg(long, env = "FFPOOL_LIVE_CA_FILE", value_name = "FILE")]
    pub live_ca_file: Option<PathBuf>,
    /// A TOML file with the profiles of object stores, one table each; it holds credentials. See docs/storage.md.
    #[arg(long, env = "FFPOOL_STORES", value_name = "FILE")]
    pub stores: Option<PathBuf>,
    /// Object stores that this machine's own identity opens, separated by commas: `s3`, `gs`, `az`.
    #[arg(long, env = "FFPOOL_MACHINE_STORES", value_name = "STORES", value_delimiter = ',', value_parser = store)]
    pub machine_stores: Vec<Scheme>,
}

fn store(text: &str) -> Result<Scheme, String> {
    let known = Scheme::ALL.into_iter().find(|scheme| scheme.is_object_store() && scheme.as_str() == text);
    known.ok_or_else(|| "s3, gs or az is expected".to_owned())
}
