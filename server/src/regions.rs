//! Which region a network address stands in, as the operator has it. Regions are numbers that say nothing by themselves: only equal ones are alike.

use std::net::IpAddr;

use serde::Deserialize;

use crate::prefix::{InvalidPrefix, Prefix};

/// Address prefixes and their regions; the longest prefix that an address has counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions(Vec<Block>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    prefix: Prefix,
    region: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prefix: String,
    region: u16,
}

impl std::str::FromStr for Regions {
    type Err = String;

    /// A JSON list of `{"prefix": "192.0.2.0/24", "region": 1}`.
    fn from_str(text: &str) -> Result<Self, String> {
        let entries: Vec<Entry> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON list of prefixes and regions: {error}"))?;
        entries.into_iter().map(Block::try_from).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<Entry> for Block {
    type Error = String;

    fn try_from(entry: Entry) -> Result<Self, String> {
        let prefix = entry.prefix.parse().map_err(|error: InvalidPrefix| error.to_string())?;
        Ok(Self { prefix, region: entry.region })
    }
}

impl Regions {
    /// The region of an address, if the operator has said one. IPv4 addresses within IPv6 count as what they are.
    pub fn of(&self, address: IpAddr) -> Option<u16> {
        let address = address.to_canonical();
        let blocks = self.0.iter().filter(|block| block.prefix.contains(address));
        blocks.max_by_key(|block| block.prefix.bits()).map(|block| block.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_that_an_address_has_names_its_region() {
        let regions: Regions =
            r#"[{"prefix": "10.0.0.0/8", "region": 1}, {"prefix": "10.1.0.0/16", "region": 2}, {"prefix": "2001:db8::/32", "region": 3},
            {"prefix": "0.0.0.0/0", "region": 9}, {"prefix": "192.0.2.7/32", "region": 4}]"#
                .parse()
                .unwrap();
        let cases = [
            ("10.2.3.4", Some(1)),
            ("10.1.255.1", Some(2)),
            ("::ffff:10.1.0.1", Some(2)),
            ("192.0.2.7", Some(4)),
            ("192.0.2.8", Some(9)),
            ("2001:db8:1::1", Some(3)),
            ("2001:db9::1", None),
        ];
        for (address, region) in cases {
            assert_eq!(regions.of(address.parse().unwrap()), region, "{address}");
        }
        assert_eq!(Regions::default().of("10.1.1.1".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_prefix_is_named() {
        for text in ["{}", r#"[{"prefix": "10.0.0.0", "region": 1}]"#, r#"[{"prefix": "10.0.0.0/33", "region": 1}]"#] {
            assert!(text.parse::<Regions>().is_err(), "{text}");
        }
        let error = r#"[{"prefix": "example.org/8", "region": 1}]"#.parse::<Regions>().unwrap_err();
        assert!(error.contains("example.org/8") && error.contains("192.0.2.0/24"), "{error}");
        assert!(r#"[{"prefix": "::/0", "region": 65536}]"#.parse::<Regions>().is_err());
    }
}
