//! Which providers are listened to, where, and how often.

use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use super::Provider;

/// All three providers have their service at this address of the link.
const LINK_LOCAL: &str = "http://169.254.169.254";
/// What is expected where a provider is.
const EXPECTED: &str = "off, auto, or a list of aws, gcp and azure is expected";

/// Settings, as a part of the worker's.
#[derive(Debug, Clone, clap::Args)]
pub struct EvictionArgs {
    /// Whose eviction notices are heeded: off, auto (whatever the machine's firmware says it is), or a list of aws, gcp
    /// and azure.
    #[arg(long, env = "FFPOOL_EVICTION", value_name = "PROVIDERS", value_delimiter = ',', default_value = "auto", value_parser = word)]
    pub eviction: Vec<Word>,
    /// Address of the metadata service, or `PROVIDER=URL` for one provider; several with commas. Plain HTTP, never
    /// through a proxy. Default: the link-local address of all three.
    #[arg(long, env = "FFPOOL_EVICTION_URL", value_name = "URL", value_delimiter = ',')]
    pub eviction_url: Vec<EvictionUrl>,
    /// Seconds between two looks for a notice. Default: 5 for aws, 1 for the others, as each provider recommends.
    #[arg(long, env = "FFPOOL_EVICTION_POLL_SECS", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub eviction_poll_secs: Option<u64>,
    /// Whether Azure is told that it may take the machine as soon as the worker has drained. Only where nothing else on the
    /// machine needs the time that is left.
    #[arg(long, env = "FFPOOL_EVICTION_ACKNOWLEDGE", value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub eviction_acknowledge: bool,
    /// Whether the advice of AWS to rebalance drains the worker; otherwise it is only logged.
    #[arg(long, env = "FFPOOL_EVICTION_REBALANCE", value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub eviction_rebalance: bool,
}

/// One word of the list of providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// None. Wins over whatever stands beside it.
    Off,
    /// Find out. Wins over names beside it.
    Auto,
    /// This one.
    Provider(Provider),
}

/// An address of a metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionUrl {
    /// Whose; `None`: everybody's.
    pub provider: Option<Provider>,
    /// Where.
    pub url: Url,
}

impl FromStr for EvictionUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<EvictionUrl, String> {
        let (provider, address) = match text.split_once('=') {
            Some((name, address)) => (Some(provider_named(name)?), address),
            None => (None, text),
        };
        let url: Url = address.parse().map_err(|error| format!("{address} is no URL: {error}"))?;
        if url.scheme() != "http" || !url.has_host() || url.query().is_some() {
            return Err("an address such as http://169.254.169.254 is expected".into());
        }
        Ok(EvictionUrl { provider, url })
    }
}

/// Who is listened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Off,
    Auto,
    These(Vec<Provider>),
}

/// What the watch for notices works by.
#[derive(Debug, Clone)]
pub struct Eviction {
    pub(super) choice: Choice,
    urls: Vec<EvictionUrl>,
    poll: Option<Duration>,
    pub(super) acknowledge: bool,
    pub(super) heeds_rebalance: bool,
}

impl From<&EvictionArgs> for Eviction {
    fn from(args: &EvictionArgs) -> Eviction {
        let mut named = Vec::new();
        let (mut off, mut auto) = (args.eviction.is_empty(), false);
        for word in &args.eviction {
            match *word {
                Word::Off => off = true,
                Word::Auto => auto = true,
                Word::Provider(provider) if !named.contains(&provider) => named.push(provider),
                Word::Provider(_) => {}
            }
        }
        let choice = match (off, auto) {
            (true, _) => Choice::Off,
            (false, true) => Choice::Auto,
            (false, false) => Choice::These(named),
        };
        Eviction {
            choice,
            urls: args.eviction_url.clone(),
            poll: args.eviction_poll_secs.map(Duration::from_secs),
            acknowledge: args.eviction_acknowledge,
            heeds_rebalance: args.eviction_rebalance,
        }
    }
}

impl Eviction {
    /// Where `provider` is asked.
    pub(super) fn url(&self, provider: Provider) -> Url {
        let own = self.urls.iter().find(|url| url.provider == Some(provider));
        let chosen = own.or_else(|| self.urls.iter().find(|url| url.provider.is_none()));
        chosen.map_or_else(|| LINK_LOCAL.parse().expect("a constant address"), |chosen| chosen.url.clone())
    }

    /// Whether a setting says where `provider` is asked.
    pub(super) fn has_url(&self, provider: Provider) -> bool {
        self.urls.iter().any(|url| url.provider.is_none_or(|named| named == provider))
    }

    /// Between two looks at `provider`. What waits for its news by a long poll pauses only so that trouble does not spin.
    pub(super) fn pause(&self, provider: Provider) -> Duration {
        self.poll.unwrap_or(match provider {
            Provider::Aws => Duration::from_secs(5),
            Provider::Gcp | Provider::Azure => Duration::from_secs(1),
        })
    }
}

fn word(text: &str) -> Result<Word, String> {
    match text {
        "off" => Ok(Word::Off),
        "auto" => Ok(Word::Auto),
        name => provider_named(name).map(Word::Provider),
    }
}

fn provider_named(name: &str) -> Result<Provider, String> {
    Provider::ALL.into_iter().find(|provider| provider.as_str() == name).ok_or_else(|| EXPECTED.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        eviction: EvictionArgs,
    }

    fn parse(flags: &[&str]) -> Result<Eviction, String> {
        let arguments = ["worker"].iter().chain(flags);
        Args::try_parse_from(arguments).map(|args| Eviction::from(&args.eviction)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_names_the_providers_and_off_wins() {
        assert_eq!(parse(&[]).unwrap().choice, Choice::Auto);
        let both = Choice::These(vec![Provider::Aws, Provider::Azure]);
        assert_eq!(parse(&["--eviction=aws,azure,aws"]).unwrap().choice, both);
        assert_eq!(parse(&["--eviction=aws,off"]).unwrap().choice, Choice::Off);
        assert!(parse(&["--eviction=oracle"]).is_err());
    }

    #[test]
    fn an_address_is_for_one_provider_or_for_all() {
        let one = parse(&["--eviction-url=http://h:1,aws=http://[fd00:ec2::254]"]).unwrap();
        assert_eq!(one.url(Provider::Aws).as_str(), "http://[fd00:ec2::254]/");
        assert_eq!(one.url(Provider::Gcp).as_str(), "http://h:1/");
        assert_eq!(parse(&[]).unwrap().url(Provider::Azure).as_str(), "http://169.254.169.254/");
        for wrong in ["h:1", "https://h", "oracle=http://h", "http://h/?x=1"] {
            assert!(parse(&[&format!("--eviction-url={wrong}")]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_provider_is_asked_as_often_as_it_recommends_unless_a_setting_says_otherwise() {
        let usual = parse(&[]).unwrap();
        assert_eq!(usual.pause(Provider::Aws), Duration::from_secs(5));
        assert_eq!(usual.pause(Provider::Azure), Duration::from_secs(1));
        assert_eq!(parse(&["--eviction-poll-secs=2"]).unwrap().pause(Provider::Aws), Duration::from_secs(2));
    }
}
