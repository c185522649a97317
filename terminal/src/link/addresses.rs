//! Which local addresses a link binds. A socket bound to the wildcard address has no address to offer the other end, so each interface gets its own.

use std::net::IpAddr;

use rtc::shared::ifaces::ifaces;

use super::config::{ADDRESSES_MAX, BindPolicy};
use super::error::LinkError;

/// The addresses to bind now. Asked anew per link, because a laptop changes its network.
pub(super) fn to_bind(policy: &BindPolicy, include_loopback: bool) -> Result<Vec<IpAddr>, LinkError> {
    let chosen = match policy {
        BindPolicy::Only(addresses) => addresses.clone(),
        BindPolicy::Interfaces => {
            let interfaces = ifaces().map_err(|error| LinkError::Transport(error.to_string()))?;
            choose(interfaces.into_iter().filter_map(|interface| interface.addr).map(|address| address.ip()), include_loopback)
        }
    };
    if chosen.is_empty() {
        return Err(LinkError::NoLocalAddress);
    }
    Ok(chosen)
}

/// Every usable address once, and one loopback address (127.0.0.1 before ::1) if it is asked for or nothing else is there.
fn choose(addresses: impl Iterator<Item = IpAddr>, include_loopback: bool) -> Vec<IpAddr> {
    let mut reachable: Vec<IpAddr> = Vec::new();
    let mut loopback: Option<IpAddr> = None;
    for address in addresses {
        if address.is_loopback() {
            if loopback.is_none_or(|known| known.is_ipv6() && address.is_ipv4()) {
                loopback = Some(address);
            }
        } else if is_reachable(address) && !reachable.contains(&address) {
            reachable.push(address);
        }
    }
    // The loopback address first: the cut below must not remove what was asked for.
    let wanted = loopback.filter(|_| include_loopback || reachable.is_empty());
    wanted.into_iter().chain(reachable).take(ADDRESSES_MAX).collect()
}

/// Link-local addresses mean nothing without their interface, which a candidate cannot name.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(addresses: &[&str], include_loopback: bool) -> Vec<String> {
        let parsed: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        choose(parsed.into_iter(), include_loopback).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn interface_addresses_are_bound_once_each_without_loopback_and_link_local() {
        let addresses = ["127.0.0.1", "::1", "192.0.2.2", "fd00::2", "fe80::1", "169.254.3.4", "192.0.2.2"];
        assert_eq!(chosen(&addresses, false), ["192.0.2.2", "fd00::2"]);
    }

    #[test]
    fn loopback_is_added_once_when_asked_for() {
        assert_eq!(chosen(&["::1", "127.0.0.1", "192.0.2.2"], true), ["127.0.0.1", "192.0.2.2"]);
    }

    #[test]
    fn a_machine_with_only_loopback_uses_it_unasked() {
        assert_eq!(chosen(&["::1", "127.0.0.1", "fe80::1"], false), ["127.0.0.1"]);
        assert_eq!(chosen(&["::1"], false), ["::1"]);
        assert!(chosen(&[], true).is_empty());
    }

    #[test]
    fn a_machine_full_of_bridges_does_not_get_a_socket_for_each() {
        let bridges: Vec<String> = (0..50).map(|n| format!("172.17.{n}.1")).collect();
        let with_loopback: Vec<&str> = bridges.iter().map(String::as_str).chain(["127.0.0.1"]).collect();
        let chosen = chosen(&with_loopback, true);
        assert_eq!(chosen.len(), ADDRESSES_MAX);
        assert_eq!(chosen[0], "127.0.0.1");
    }

    #[test]
    fn only_the_named_addresses_are_bound_if_they_are_named() {
        let policy = BindPolicy::Only(vec!["127.0.0.1".parse().unwrap()]);
        assert_eq!(to_bind(&policy, false).unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(to_bind(&BindPolicy::Only(Vec::new()), true), Err(LinkError::NoLocalAddress));
    }
}
