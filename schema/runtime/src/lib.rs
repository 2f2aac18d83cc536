//! What every ffpool process shares around its own work: settings, logs and traces, metrics, stop signals, the service
//! manager.
//!
//! A `main` calls [`settings::parse`], then [`telemetry::init`], then [`metrics::install`], and waits on
//! [`stop::signals`]. Who reads jobs loads the operator's [`scenarios`] too; what its options are
//! becomes the pages of [`man`].

pub mod guard;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod notify;
pub mod scenarios;
pub mod settings;
pub mod settings_page;
pub mod stop;
pub mod telemetry;
pub mod tls;
pub mod traces;

/// Makes ring the process's TLS provider. Needed once before any TLS connection; a second call changes nothing.
pub fn install_crypto() {
    // `Err` means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
