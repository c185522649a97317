//! What must hold for the text of the other end before the library sees it, and the fingerprint it carries.

use super::config::{CANDIDATES_MAX, DESCRIPTION_BYTES_MAX, MAX_MESSAGE_BYTES};
use super::error::LinkError;

/// SHA-256 of a certificate.
pub(super) type Fingerprint = [u8; 32];

/// What an RFC 8841 description without the attribute means.
const MESSAGE_BYTES_UNSTATED: usize = 64 << 10;

/// Checks a description (SDP, RFC 8866) and returns the fingerprint of its writer's certificate.
///
/// One media section, for data channels; one fingerprint, however often it is repeated (with two, the hello could sign one while the library
/// accepts the other); a bounded number of candidates; room for our messages.
pub(super) fn check(sdp: &str) -> Result<Fingerprint, LinkError> {
    if sdp.len() > DESCRIPTION_BYTES_MAX {
        return Err(unusable(format!("{} bytes long", sdp.len())));
    }
    let mut media_sections = 0;
    let mut candidates = 0;
    let mut fingerprint: Option<Fingerprint> = None;
    let mut message_bytes = MESSAGE_BYTES_UNSTATED;
    for line in sdp.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            media_sections += 1;
            if !media.starts_with("application ") {
                return Err(unusable("a media section that is not for data channels"));
            }
        } else if line.starts_with("a=candidate:") {
            candidates += 1;
        } else if let Some(value) = line.strip_prefix("a=fingerprint:") {
            let read = parse_fingerprint(value.trim_end())?;
            if fingerprint.is_some_and(|known| known != read) {
                return Err(unusable("two different fingerprints"));
            }
            fingerprint = Some(read);
        } else if let Some(value) = line.strip_prefix("a=max-message-size:") {
            message_bytes = value.trim_end().parse().map_err(|_| unusable("a max-message-size that is not a number"))?;
        }
    }
    if media_sections != 1 {
        return Err(unusable(format!("{media_sections} media sections")));
    }
    if candidates > CANDIDATES_MAX {
        return Err(unusable(format!("{candidates} candidates")));
    }
    // 0 means any size.
    if message_bytes != 0 && message_bytes < MAX_MESSAGE_BYTES {
        return Err(unusable(format!("the other end takes messages of {message_bytes} bytes at most")));
    }
    fingerprint.ok_or_else(|| unusable("no fingerprint"))
}

/// The user name fragment (RFC 8839, section 5.4) of a description.
pub(super) fn user_name_fragment(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).map(str::trim_end)
}

/// `sha-256 AB:CD:…`, 32 pairs (RFC 8122).
fn parse_fingerprint(value: &str) -> Result<Fingerprint, LinkError> {
    let digits = value.strip_prefix("sha-256 ").ok_or_else(|| unusable("a fingerprint that is not SHA-256"))?;
    let malformed = || unusable("a malformed fingerprint");
    let mut fingerprint = Fingerprint::default();
    let mut pairs = digits.split(':');
    for byte in &mut fingerprint {
        let pair = pairs.next().ok_or_else(malformed)?;
        hex::decode_to_slice(pair, std::slice::from_mut(byte)).map_err(|_| malformed())?;
    }
    if pairs.next().is_some() {
        return Err(malformed());
    }
    Ok(fingerprint)
}

fn unusable(why: impl Into<String>) -> LinkError {
    LinkError::Description(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex_pairs(byte: u8) -> String {
        vec![format!("{byte:02X}"); 32].join(":")
    }

    fn description(extra: &[String]) -> String {
        let mut lines =
            vec!["v=0".to_string(), "m=application 9 UDP/DTLS/SCTP webrtc-datachannel".into(), "a=max-message-size:262144".into()];
        lines.extend_from_slice(extra);
        lines.join("\r\n") + "\r\n"
    }

    fn fingerprint_line(byte: u8) -> String {
        format!("a=fingerprint:sha-256 {}", hex_pairs(byte))
    }

    #[test]
    fn the_fingerprint_is_read_whether_it_stands_once_or_twice_and_in_either_case() {
        assert_eq!(check(&description(&[fingerprint_line(0xAB)])), Ok([0xAB; 32]));
        let lower = format!("a=fingerprint:sha-256 {}", hex_pairs(0xAB).to_lowercase());
        assert_eq!(check(&description(&[fingerprint_line(0xAB), lower])), Ok([0xAB; 32]));
    }

    #[test]
    fn unusable_descriptions_are_refused_with_the_reason() {
        let short = format!("a=fingerprint:sha-256 {}", &hex_pairs(1)[3..]);
        let long = format!("{}:01", fingerprint_line(1));
        let not_hex = fingerprint_line(1).replace("01:01", "0g:01");
        let signed = fingerprint_line(1).replacen("01:", "+1:", 1);
        let crowd: Vec<String> = std::iter::once(fingerprint_line(1))
            .chain((0..=CANDIDATES_MAX).map(|n| format!("a=candidate:1 1 udp 1 192.0.2.1 {n} typ host")))
            .collect();
        let cases: Vec<(String, &str)> = vec![
            (description(&[]), "no fingerprint"),
            (description(&[fingerprint_line(1), fingerprint_line(2)]), "two different fingerprints"),
            (description(&["a=fingerprint:sha-1 AB:CD".into()]), "not SHA-256"),
            (description(&[short]), "malformed"),
            (description(&[long]), "malformed"),
            (description(&[not_hex]), "malformed"),
            (description(&[signed]), "malformed"),
            (description(&crowd), "33 candidates"),
            (description(&[fingerprint_line(1), "m=audio 9 UDP/TLS/RTP/SAVPF 0".into()]), "not for data channels"),
            (description(&[fingerprint_line(1), "m=application 9 UDP/DTLS/SCTP webrtc-datachannel".into()]), "2 media sections"),
            (description(&[fingerprint_line(1), "a=max-message-size:16384".into()]), "16384 bytes at most"),
            (description(&[fingerprint_line(1), "a=max-message-size:-1".into()]), "not a number"),
            (description(&[fingerprint_line(1), "x".repeat(DESCRIPTION_BYTES_MAX)]), "bytes long"),
            (String::new(), "0 media sections"),
        ];
        for (sdp, expected) in cases {
            let Err(LinkError::Description(why)) = check(&sdp) else { panic!("accepted, expected {expected}") };
            assert!(why.contains(expected), "{why} instead of {expected}");
        }
    }

    #[test]
    fn an_end_without_a_message_limit_of_its_own_is_told_apart_from_one_that_states_too_little() {
        let unlimited = description(&[fingerprint_line(3)]).replace("262144", "0");
        assert_eq!(check(&unlimited), Ok([3; 32]));
        let unstated = description(&[fingerprint_line(3)]).replace("a=max-message-size:262144\r\n", "");
        assert!(check(&unstated).is_err(), "unstated means 64 KiB, less than a full message with its header");
    }
}
