//! Who a request comes from: the address of its connection, or what a proxy that the operator has named says of it.
//!
//! Invariant: pure. A header counts only as far as trusted proxies wrote it: read from its right end, the first address that
//! is not a trusted proxy's is the client's, whatever stands to the left of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;
use clap::ValueEnum;
use ffpool_runtime::guard::Cidr;

/// Whoever has one IPv6 address has a /64 of them.
const V6_PREFIX_BITS: u32 = 64;
/// Proxies in a row that are looked at.
const HOPS_MAX: usize = 32;

/// In which header trusted proxies say for whom they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

impl ProxyHeader {
    fn name(self) -> &'static str {
        match self {
            ProxyHeader::XForwardedFor => "x-forwarded-for",
            ProxyHeader::Forwarded => "forwarded",
        }
    }

    /// The address of one hop; `None` when it is not told.
    fn address(self, hop: &str) -> Option<IpAddr> {
        match self {
            ProxyHeader::XForwardedFor => address(hop.trim()),
            ProxyHeader::Forwarded => hop.split(';').find_map(|pair| {
                let (name, value) = pair.trim().split_once('=')?;
                name.eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"')))?
            }),
        }
    }
}

/// What is counted as one client: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// The one that an address belongs to.
    pub(crate) fn of(address: IpAddr) -> Origin {
        Origin(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> (128 - V6_PREFIX_BITS) << (128 - V6_PREFIX_BITS)))
            }
        })
    }
}

/// The client's address, as far as `trusted` proxies vouch for it.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, header: ProxyHeader, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut known = peer.to_canonical();
    let lines: Vec<&str> =
        headers.get_all(header.name()).iter().map(|line| line.to_str().unwrap_or_default()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')).take(HOPS_MAX) {
        if !is_trusted(known) {
            break;
        }
        // A proxy that does not say for whom it asks is the last that is known.
        let Some(told) = header.address(hop) else { break };
        known = told;
    }
    known
}

/// An address with or without port, with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let read = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    read.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, header: ProxyHeader, lines: &[&str], trusted: &str) -> String {
        let trusted: Vec<Cidr> = trusted.split_whitespace().map(|range| range.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_str(line).unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, header, &trusted).to_string()
    }

    #[test]
    fn a_header_counts_only_where_its_writer_is_named() {
        let x = ProxyHeader::XForwardedFor;
        assert_eq!(found("198.51.100.9", x, &["203.0.113.1"], ""), "198.51.100.9");
        assert_eq!(found("198.51.100.9", x, &["203.0.113.1"], "10.0.0.0/8"), "198.51.100.9");
        assert_eq!(found("10.0.0.1", x, &["203.0.113.1"], "10.0.0.0/8"), "203.0.113.1");
        assert_eq!(found("::ffff:10.0.0.1", x, &["203.0.113.1"], "10.0.0.0/8"), "203.0.113.1");
        assert_eq!(found("10.0.0.1", x, &[], "10.0.0.0/8"), "10.0.0.1");
    }

    #[test]
    fn what_a_client_forges_stands_left_of_its_own_address_and_does_not_count() {
        let x = ProxyHeader::XForwardedFor;
        assert_eq!(found("10.0.0.1", x, &["8.8.8.8, 203.0.113.1"], "10.0.0.0/8"), "203.0.113.1");
        assert_eq!(found("10.0.0.1", x, &["10.9.9.9, 203.0.113.1, 10.0.0.2"], "10.0.0.0/8"), "203.0.113.1");
        assert_eq!(found("10.0.0.1", x, &["8.8.8.8", "203.0.113.1,10.0.0.2"], "10.0.0.0/8"), "203.0.113.1");
        assert_eq!(found("10.0.0.1", x, &["203.0.113.1, rubbish"], "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(found("10.0.0.1", x, &["203.0.113.1, rubbish, 10.0.0.7"], "10.0.0.0/8"), "10.0.0.7");
        assert_eq!(found("10.0.0.1", x, &["10.0.0.8, 10.0.0.7"], "10.0.0.0/8"), "10.0.0.8");
        assert_eq!(found("10.0.0.1", x, &[&"10.0.0.2,".repeat(1000)], "10.0.0.0/8"), "10.0.0.1");
    }

    #[test]
    fn both_headers_are_read_with_ports_and_brackets() {
        let (x, f) = (ProxyHeader::XForwardedFor, ProxyHeader::Forwarded);
        for (header, line, client) in [
            (x, "203.0.113.1:4711", "203.0.113.1"),
            (x, "[2001:db8::1]:4711", "2001:db8::1"),
            (x, "2001:db8::1", "2001:db8::1"),
            (f, "for=203.0.113.1;proto=https;by=10.0.0.1", "203.0.113.1"),
            (f, "proto=https; For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            (f, "for=8.8.8.8, for=203.0.113.1", "203.0.113.1"),
            (f, "for=8.8.8.8, for=_hidden", "10.0.0.1"),
            (f, "for=unknown", "10.0.0.1"),
            (f, "proto=https", "10.0.0.1"),
        ] {
            assert_eq!(found("10.0.0.1", header, &[line], "10.0.0.1"), client, "{line}");
        }
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4_one() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:aaaa::1"), of("2001:db8:1:2:bbbb::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("203.0.113.1"), of("203.0.113.2"));
        assert_eq!(of("::ffff:203.0.113.1"), of("203.0.113.1"));
    }
}
