//! Units live in types: a number of bytes is not a rate, and money is never a float.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The largest integer that JSON carries exactly to a browser: 2^53 − 1.
pub const JSON_INTEGER_MAX: u64 = (1 << 53) - 1;

macro_rules! count {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = u64, maximum = 9007199254740991u64)]
        pub struct $name(pub u64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = u64::deserialize(deserializer)?;
                if value > JSON_INTEGER_MAX {
                    return Err(serde::de::Error::custom(format_args!("{value} is above the largest allowed integer, {JSON_INTEGER_MAX}")));
                }
                Ok(Self(value))
            }
        }
    };
}

count!(/// A length or an amount of data, in bytes.
    Bytes);
count!(/// A rate, in bits per second. 0 where a rate is not known.
    BitsPerSecond);
count!(/// Money in minor units (cents) of the one currency of the service. Never negative: a direction is a posting's, not an amount's.
    Amount);
count!(/// A moment of the server's clock, in milliseconds since the Unix epoch.
    TimestampMs);

impl BitsPerSecond {
    pub const fn from_mbit(mbit: u64) -> Self {
        Self(mbit * 1_000_000)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut whole = self.0;
        if whole < 1024 {
            return write!(f, "{whole} B");
        }
        let mut tenths = 0;
        let mut unit = "";
        for name in UNITS {
            if whole < 1024 {
                break;
            }
            tenths = (whole % 1024) * 10 / 1024;
            whole /= 1024;
            unit = name;
        }
        write!(f, "{whole}.{tenths} {unit}")
    }
}

/// An ISO 4217 code or a code of the same shape: three upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "EUR")]
pub struct Currency([u8; 3]);

impl Currency {
    pub const EUR: Self = Self(*b"EUR");

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl std::str::FromStr for Currency {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(format!("{:?} is not a currency code; expected three upper-case letters", text.chars().take(16).collect::<String>())),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount with its currency, as it stands in REST bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    pub amount: Amount,
    pub currency: Currency,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} {}", self.amount.0 / 100, self.amount.0 % 100, self.currency)
    }
}

/// A share in hundredths of a percent, 0 to 10,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = u16, maximum = 10000)]
pub struct BasisPoints(u16);

impl BasisPoints {
    pub const ALL: Self = Self(10_000);

    pub const fn new(value: u16) -> Option<Self> {
        if value <= 10_000 { Some(Self(value)) } else { None }
    }
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for BasisPoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u16::deserialize(deserializer)?;
        Self::new(value).ok_or_else(|| serde::de::Error::custom(format_args!("{value} basis points are more than the whole, 10000")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_whole_number_between_zero_and_two_to_the_fifty_third() {
        assert_eq!(serde_json::from_str::<Amount>("9007199254740991").unwrap(), Amount(JSON_INTEGER_MAX));
        for bad in ["-1", "9007199254740992", "1.5", "\"1\"", "1e400", "99999999999999999999999"] {
            assert!(serde_json::from_str::<Amount>(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_share_above_the_whole_is_refused() {
        assert!(serde_json::from_str::<BasisPoints>("10000").is_ok());
        assert!(serde_json::from_str::<BasisPoints>("10001").is_err());
    }

    #[test]
    fn bytes_are_shown_in_the_unit_a_person_would_choose() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (65_536, "64.0 KiB"), (3 << 19, "1.5 MiB"), (1 << 30, "1.0 GiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_currency_is_three_upper_case_letters() {
        assert!(serde_json::from_str::<Currency>("\"EUR\"").is_ok());
        assert!(serde_json::from_str::<Currency>("\"eur\"").is_err());
    }
}
