//! Finds out whose machine this is.
//!
//! Invariant: where the firmware names none of the providers, nothing is asked over the network, unless a setting gives
//! an address to ask.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info};

use super::Provider;
use super::ask::Metadata;
use super::aws::Aws;
use super::azure::Azure;
use super::gcp::Gcp;
use super::settings::{Choice, Eviction};

/// For a provider to show itself.
const SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// What the firmware says of the machine: readable for all, in containers too.
const DMI: &str = "/sys/class/dmi/id";
/// The chassis of every virtual machine of Azure; Hyper-V elsewhere has another.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// The providers to listen to.
pub(super) async fn providers(eviction: &Eviction) -> Vec<Provider> {
    let named = match &eviction.choice {
        Choice::Off => return Vec::new(),
        Choice::These(providers) => return providers.clone(),
        Choice::Auto => named_by_firmware(Path::new(DMI)),
    };
    let candidates =
        Provider::ALL.into_iter().filter(|provider| named == Some(*provider) || eviction.has_url(*provider));
    for provider in candidates {
        let Ok(metadata) = Metadata::open(&eviction.url(provider)) else { continue };
        let shows = async {
            match provider {
                Provider::Aws => Aws::answers(&metadata).await,
                Provider::Gcp => Gcp::answers(&metadata).await,
                Provider::Azure => Azure::answers(&metadata).await,
            }
        };
        if timeout(SHOWS_WITHIN, shows).await.unwrap_or(false) {
            info!(%provider, "listening for eviction notices");
            return vec![provider];
        }
        info!(%provider, "no metadata service answers: eviction notices of this provider are not heard");
    }
    debug!("no provider found: no eviction notices");
    Vec::new()
}

/// The provider that the files in `dmi` name.
fn named_by_firmware(dmi: &Path) -> Option<Provider> {
    let read = |name: &str| std::fs::read_to_string(dmi.join(name)).unwrap_or_default().to_ascii_lowercase();
    let vendor = read("sys_vendor");
    // The older machines are Xen's, with a BIOS of Amazon's.
    if vendor.contains("amazon") || read("bios_version").contains("amazon") {
        Some(Provider::Aws)
    } else if vendor.contains("google") {
        Some(Provider::Gcp)
    } else if read("chassis_asset_tag").trim() == AZURE_CHASSIS {
        Some(Provider::Azure)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_names_the_provider_or_none() {
        let says = |files: &[(&str, &str)]| {
            let dmi = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(dmi.path().join(name), text).unwrap();
            }
            named_by_firmware(dmi.path())
        };
        assert_eq!(says(&[("sys_vendor", "Amazon EC2\n")]), Some(Provider::Aws));
        assert_eq!(says(&[("sys_vendor", "Xen\n"), ("bios_version", "4.11.amazon\n")]), Some(Provider::Aws));
        assert_eq!(says(&[("sys_vendor", "Google\n")]), Some(Provider::Gcp));
        let hyper_v = ("sys_vendor", "Microsoft Corporation\n");
        let tag = format!("{AZURE_CHASSIS}\n");
        assert_eq!(says(&[hyper_v, ("chassis_asset_tag", &tag)]), Some(Provider::Azure));
        assert_eq!(says(&[hyper_v, ("chassis_asset_tag", "12\n")]), None);
        assert_eq!(says(&[]), None);
    }
}
