//! Where an owner may have the service send something: to what the Internet reaches, and never into the network that the service stands in.
//!
//! An owner chooses the address and sees how the attempt ended, so that without this anybody with an account could have the service knock at machines
//! that only it can reach (server-side request forgery; OWASP). A name is looked up once per attempt, all that it leads to is checked, and the
//! connection goes to exactly that: a name that leads elsewhere a moment later wins nothing. An owner is told that an address is not allowed, and
//! never which one it was.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::prefix::Prefix;

/// The longest address that is taken.
pub const URL_MAX: usize = 2_048;
/// Below this only the ports of HTTP are allowed: no service of the Internet's plumbing is spoken to.
const PORT_MIN: u16 = 1_024;

/// What of IPv4 is not for everybody (IANA's registry of special-purpose addresses), with the address that one cloud answers its machines at.
const REFUSED_V4: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Link-local, and with it the metadata service 169.254.169.254.
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    // 6to4's relays.
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "168.63.129.16/32",
    "224.0.0.0/4",
    // Reserved, with the broadcast address.
    "240.0.0.0/4",
    "255.255.255.255/32",
];

/// All unicast addresses that are given out to the Internet. Outside are loopback, IPv4 in any form, NAT64, discard-only, unique-local (with the metadata
/// service fd00:ec2::254), link-local, site-local and multicast.
const GLOBAL_V6: &str = "2000::/3";

/// What of [`GLOBAL_V6`] leads elsewhere: protocol assignments with Teredo and benchmarking, documentation, 6to4.
const REFUSED_V6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// The address is not allowed. It says no more, so that nobody learns where a name leads inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address is not allowed")]
pub struct NotAllowed;

/// What a host's name leads to.
type Found = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Looks names up.
pub trait Lookup: Send + Sync + 'static {
    fn lookup(&self, host: &str) -> Found;
}

/// The machine's own resolver.
#[derive(Debug)]
struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> Found {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

struct Rules {
    refused: Vec<Prefix>,
    global_v6: Option<Prefix>,
    /// What the operator allows all the same.
    allowed: Vec<Prefix>,
    /// Whom plain HTTP is spoken with.
    http_hosts: Vec<String>,
    lookup: Box<dyn Lookup>,
}

/// The rules, and the lookup that keeps to them. Cheap to clone.
#[derive(Clone)]
pub struct Addresses(Arc<Rules>);

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addresses").field("allowed", &self.0.allowed).field("http_hosts", &self.0.http_hosts).finish_non_exhaustive()
    }
}

impl Addresses {
    /// `allowed` networks are not refused, and with `http_hosts` plain HTTP is spoken on any port.
    pub fn new(allowed: &[Prefix], http_hosts: &[String]) -> Self {
        Self::with_lookup(allowed, http_hosts, SystemLookup)
    }

    /// The same with another way of looking names up.
    pub fn with_lookup(allowed: &[Prefix], http_hosts: &[String], lookup: impl Lookup) -> Self {
        let prefixes = REFUSED_V4.iter().chain(&REFUSED_V6).filter_map(|text| text.parse().ok());
        Self(Arc::new(Rules {
            refused: prefixes.collect(),
            global_v6: GLOBAL_V6.parse().ok(),
            allowed: allowed.to_vec(),
            http_hosts: http_hosts.iter().map(|host| normal(host)).collect(),
            lookup: Box::new(lookup),
        }))
    }

    /// Whether a connection may go there.
    pub fn allows(&self, address: IpAddr) -> bool {
        let rules = &*self.0;
        if rules.allowed.iter().any(|prefix| prefix.contains(address) || prefix.contains(address.to_canonical())) {
            return true;
        }
        let outside = address.is_ipv6() && !rules.global_v6.is_some_and(|global| global.contains(address));
        !outside && !rules.refused.iter().any(|prefix| prefix.contains(address))
    }

    /// Reads an address that an owner states; what cannot be known before the name is looked up is checked at each attempt.
    ///
    /// # Errors
    /// A sentence that says what is expected instead.
    pub fn check(&self, text: &str) -> Result<Url, &'static str> {
        if text.len() > URL_MAX {
            return Err("expected at most 2048 bytes");
        }
        let url = Url::parse(text).map_err(|_| "expected an address such as https://example.org/spillway")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user name or a password in an address is not allowed; what is sent is signed");
        }
        if url.fragment().is_some() {
            return Err("a fragment is never sent; leave out what stands after the #");
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("expected an address with a host")?;
        match (url.scheme(), url.port_or_known_default()) {
            ("http", Some(_)) if self.0.http_hosts.contains(&normal(host)) => {}
            ("http", _) => return Err("expected https: the operator allows plain HTTP to no such host"),
            ("https", Some(port)) if port == 443 || port >= PORT_MIN => {}
            ("https", _) => return Err("expected port 443, or one from 1024 on"),
            _ => return Err("expected an address that begins with https"),
        }
        match literal(host) {
            Some(address) if !self.allows(address) => Err("the address is not allowed"),
            Some(_) | None => Ok(url),
        }
    }

    /// What a host's name leads to, if all of it is allowed.
    async fn resolve(self, host: String) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let found = self.0.lookup.lookup(&host).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name leads nowhere").into());
        }
        // One of several that is not allowed is a name to keep away from: which one is connected to is not ours to guess.
        if !found.iter().all(|address| self.allows(*address)) {
            return Err(NotAllowed.into());
        }
        Ok(found)
    }
}

/// For the HTTP client: it connects to what this gives, and to nothing else. An address in place of a name never comes here, see [`Addresses::check`].
impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, host) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = Self::resolve(rules, host).await.map_err(Unresolved::told)?;
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// A name that led nowhere; to be told from a connection that was refused.
#[derive(Debug, thiserror::Error)]
#[error("the name of the host leads nowhere")]
pub struct Unresolved(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Unresolved {
    fn told(error: Box<dyn std::error::Error + Send + Sync>) -> Box<dyn std::error::Error + Send + Sync> {
        if error.is::<NotAllowed>() { error } else { Box::new(Self(error)) }
    }
}

/// The host as an address, if it is one. The URL has brought every spelling of IPv4 (`0x7f.1`, `2130706433`) into the usual one.
fn literal(host: &str) -> Option<IpAddr> {
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    plain.parse().ok()
}

/// Names are the same in any case, and with or without the root's dot.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Addresses {
        Addresses::new(&[], &["Hooks.internal".to_owned()])
    }

    #[test]
    fn only_what_the_internet_reaches_is_connected_to() {
        for written in REFUSED_V4.iter().chain(&REFUSED_V6) {
            assert!(written.parse::<Prefix>().is_ok(), "{written}");
        }
        let refused = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255 169.254.0.1 \
            169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.1 192.0.0.171 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.0 \
            198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 \
            ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::ffff:0:10.0.0.1 64:ff9b::808:808 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 \
            2001:2::1 2001:10::1 2001:20::1 2001:1ff::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 3fff:fff::1 5f00::1 \
            fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 ff02::1 4000::1";
        for address in refused.split_whitespace() {
            assert!(!rules().allows(address.parse().unwrap()), "{address} was allowed");
        }
        let allowed = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.0.0.1 128.0.0.1 168.63.129.15 169.253.0.1 \
            172.15.255.255 172.32.0.0 192.0.1.1 192.167.0.1 198.17.0.1 198.20.0.1 223.255.255.255 2001:200::1 2001:4860:4860::8888 \
            2003::1 2606:4700::1111 3ffe::1";
        for address in allowed.split_whitespace() {
            assert!(rules().allows(address.parse().unwrap()), "{address} was refused");
        }
    }

    #[test]
    fn an_operator_allows_networks_and_no_others() {
        let allowed = ["127.0.0.0/8", "fd12::/16"].map(|text| text.parse().unwrap());
        let rules = Addresses::new(&allowed, &[]);
        for (address, is_allowed) in
            [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("fd12::1", true), ("fd13::1", false), ("10.0.0.1", false), ("::1", false)]
        {
            assert_eq!(rules.allows(address.parse().unwrap()), is_allowed, "{address}");
        }
    }

    #[test]
    fn an_address_is_read_once_and_told_what_is_wrong_with_it() {
        let good = [
            "https://example.org",
            "https://example.org:8443/a?b=c",
            "https://example.org:443/",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]:1024/",
            "http://hooks.internal/",
            "http://HOOKS.internal.:25/x",
            "https://hooks.internal/",
        ];
        for text in good {
            assert!(rules().check(text).is_ok(), "{text}: {:?}", rules().check(text));
        }
        let bad = [
            ("", "https://example.org/spillway"),
            ("example.org", "https://example.org/spillway"),
            ("https://", "https://example.org/spillway"),
            ("ftp://example.org", "begins with https"),
            ("file:///etc/passwd", "host"),
            ("http://example.org", "plain HTTP"),
            ("http://hooks.internal.example.org", "plain HTTP"),
            ("https://example.org:22", "port 443"),
            ("https://example.org:80", "port 443"),
            ("https://user@example.org", "user name"),
            ("https://:secret@example.org", "user name"),
            ("https://example.org/#a", "fragment"),
            ("https://127.0.0.1", "not allowed"),
            ("https://0x7f.1", "not allowed"),
            ("https://2130706433", "not allowed"),
            ("https://017700000001", "not allowed"),
            ("https://127.1", "not allowed"),
            ("https://127.0.0.1.", "not allowed"),
            ("https://１２７.０.０.１", "not allowed"),
            ("https://[::1]", "not allowed"),
            ("https://[::ffff:10.0.0.1]", "not allowed"),
            ("https://169.254.169.254/latest/meta-data", "not allowed"),
        ];
        for (text, told) in bad {
            let error = rules().check(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(rules().check(&format!("https://example.org/{}", "x".repeat(URL_MAX))).unwrap_err().contains("2048"));
    }
}
