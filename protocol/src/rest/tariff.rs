//! Tariffs: what downloads at any time cost, and what relays get of it, by volume and by the time of the transfer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;

use crate::ids::*;
use crate::units::{Amount, BasisPoints, Bytes, Currency, Money};

/// The terms of one version of a tariff. Versions are never changed: other terms are another version, and what was asked for under one stays under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TariffTerms {
    pub currency: Currency,
    /// By its name in the IANA database, such as `Europe/Berlin`: windows are times of its clocks, and periods begin at its midnight.
    pub time_zone: String,
    /// For how long volumes are added up before they begin at nothing again.
    pub period: VolumePeriod,
    /// For each download, whatever its length.
    pub flat: Amount,
    /// For each GiB of the edition, in proportion.
    pub per_gib: Amount,
    /// No download costs less, whatever is taken off.
    pub minimum: Amount,
    /// The platform's share of a charge.
    pub fee: BasisPoints,
    /// Relays' share of what is left of a charge after the fee.
    pub relay_share: BasisPoints,
    /// Times of the day at which something else is asked. The first one that a download is asked for in counts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub windows: Vec<TariffWindow>,
    /// What else is asked of a terminal that received much in the period, in rising order. The last step that it has reached counts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub received: Vec<ReceivedStep>,
    /// What more a relay gets that sent much in the period, in rising order. The last step that it has reached counts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sent: Vec<SentStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTariff {
    /// 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    pub terms: TariffTerms,
}

/// A version of a tariff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tariff {
    pub id: TariffId,
    pub name: String,
    /// From 1. The latest one is what a download is asked for under.
    pub version: u32,
    pub terms: TariffTerms,
    /// Of the version.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Which version of which tariff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TariffVersion {
    pub tariff_id: TariffId,
    pub version: u32,
}

/// What a terminal received of the publisher since the tariff's period began, as far as it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceivedVolume {
    pub deliveries: u32,
    pub bytes: Bytes,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// What an edition would cost now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PriceQuote {
    pub price: Money,
    /// Without window, step and minimum.
    pub list_price: Money,
    /// Absent with a flat price, and so is all that follows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tariff: Option<TariffVersion>,
    /// The window that counts, by its place in the terms, from 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<u32>,
    /// The step of `received` that counts, by its place in the terms, from 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<u32>,
    /// Whether the price is the tariff's minimum.
    #[serde(default)]
    pub is_minimum: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub received: Option<ReceivedVolume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumePeriod {
    Day,
    /// From Monday.
    Week,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// From one time of the day to another, the end not included. If it does not end after it begins it passes midnight, and belongs to the day that it begins on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TariffWindow {
    /// Every day if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub days: Vec<Weekday>,
    pub from: TimeOfDay,
    pub to: TimeOfDay,
    /// Of the price, in hundredths of a percent: 8000 takes a fifth off, 12000 adds one. At most 100,000.
    #[schema(maximum = 100_000)]
    pub price_bp: u32,
    /// Added to the relays' share.
    #[serde(default)]
    pub relay_bonus: BasisPoints,
}

/// It is reached by that many downloads, or by that many bytes, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceivedStep {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_deliveries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_bytes: Option<Bytes>,
    /// Of the price, in hundredths of a percent, on top of what a window makes of it. At most 100,000.
    #[schema(maximum = 100_000)]
    pub price_bp: u32,
}

/// It is reached by that many deliveries that it had a part in, or by that many bytes, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SentStep {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_deliveries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_bytes: Option<Bytes>,
    /// Added to the relays' share, on top of what a window adds.
    pub relay_bonus: BasisPoints,
}

/// Minutes after midnight by the clock on the wall, 00:00 to 24:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$", example = "22:00")]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// `None` beyond 24:00.
    pub const fn from_minutes(minutes: u16) -> Option<Self> {
        if minutes <= 24 * 60 { Some(Self(minutes)) } else { None }
    }

    pub const fn minutes(self) -> u16 {
        self.0
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{:?} is no time of the day; expected one as 07:30, at most 24:00", text.chars().take(16).collect::<String>());
        let two_digits =
            |part: &str| (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse::<u16>().ok()).flatten();
        let (hours, minutes) = text.split_once(':').ok_or_else(malformed)?;
        let (hours, minutes) = two_digits(hours).zip(two_digits(minutes)).filter(|(_, minutes)| *minutes < 60).ok_or_else(malformed)?;
        Self::from_minutes(hours * 60 + minutes).ok_or_else(malformed)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a07_a_time_of_the_day_is_read_as_it_is_written() {
        for (text, minutes) in [("00:00", 0), ("07:30", 450), ("23:59", 1439), ("24:00", 1440)] {
            assert_eq!(text.parse::<TimeOfDay>().map(TimeOfDay::minutes), Ok(minutes));
            assert_eq!(text.parse::<TimeOfDay>().unwrap().to_string(), text);
        }
        for bad in ["", "7:30", "07:60", "24:01", "25:00", "07.30", "+7:30", "07:3", "007:30", "07:30:00"] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad:?} was accepted");
        }
    }
}
