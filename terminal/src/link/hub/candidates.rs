//! The local candidates of a link, in the library's form (RFC 8445, section 5.1.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rtc::ice::candidate::CandidateConfig;
use rtc::ice::candidate::candidate_host::CandidateHostConfig;
use rtc::ice::candidate::candidate_relay::CandidateRelayConfig;
use rtc::ice::candidate::candidate_server_reflexive::CandidateServerReflexiveConfig;
use rtc::peer_connection::transport::{RTCIceCandidate, RTCIceCandidateInit};
use rtc::shared::error::Result;

/// RTP's one component; data channels have no other.
const COMPONENT: u16 = 1;

fn base(address: SocketAddr) -> CandidateConfig {
    CandidateConfig {
        network: "udp".to_owned(),
        address: address.ip().to_string(),
        port: address.port(),
        component: COMPONENT,
        ..CandidateConfig::default()
    }
}

/// A socket of this machine.
pub(super) fn host(local: SocketAddr) -> Result<RTCIceCandidateInit> {
    let config = CandidateHostConfig { base_config: base(local), ..CandidateHostConfig::default() };
    RTCIceCandidate::from(&config.new_candidate_host()?).to_json()
}

/// How a STUN server sees the socket `local`.
pub(super) fn server_reflexive(mapped: SocketAddr, local: SocketAddr) -> Result<RTCIceCandidateInit> {
    let config = CandidateServerReflexiveConfig {
        base_config: base(mapped),
        rel_addr: local.ip().to_string(),
        rel_port: local.port(),
        ..CandidateServerReflexiveConfig::default()
    };
    RTCIceCandidate::from(&config.new_candidate_server_reflexive()?).to_json()
}

/// An address at a TURN server. The related address, which would be this machine's, is left out as RFC 8839, section 5.1, says it: nobody needs it, and it
/// may be what is to be kept from the other end.
pub(super) fn relayed(relayed: SocketAddr) -> Result<RTCIceCandidateInit> {
    const DISCARD: u16 = 9;
    let unspecified: IpAddr = if relayed.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let config = CandidateRelayConfig {
        base_config: base(relayed),
        rel_addr: unspecified.to_string(),
        rel_port: DISCARD,
        ..CandidateRelayConfig::default()
    };
    RTCIceCandidate::from(&config.new_candidate_relay()?).to_json()
}
