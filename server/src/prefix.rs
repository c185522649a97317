//! Prefixes of network addresses, such as `192.0.2.0/24`.

use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// A text that is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address prefix; expected one like 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidPrefix(String);

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let fault = || InvalidPrefix(text.chars().take(64).collect());
        let (address, bits) = text.split_once('/').ok_or_else(fault)?;
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let bits: u8 = bits.parse().map_err(|_| fault())?;
        if u32::from(bits) > length_of(address) {
            return Err(fault());
        }
        Ok(Self { address, bits })
    }
}

impl Prefix {
    /// How many bits are the same.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether an address begins so. An IPv4 address within IPv6 is not an IPv4 address here.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && first_bits(self.address, self.bits) == first_bits(address, self.bits)
    }
}

fn length_of(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first `bits` of an address, as a number.
fn first_bits(address: IpAddr, bits: u8) -> u128 {
    let number = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    number.checked_shr(length_of(address) - u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_what_begins_with_its_bits_and_nothing_of_the_other_family() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "ffff::", true),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ];
        for (prefix, address, inside) in cases {
            assert_eq!(prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap()), inside, "{prefix} {address}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "a.example/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?}");
        }
    }
}
