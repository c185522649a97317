//! What a tariff makes of a download: its price, and the relays' share of it.
//!
//! * exact = (flat + per_gib · F / 2³⁰) · window · step, with F the edition's length, and window and step in hundredths of a percent, 10,000 where none applies;
//! * price = max(minimum, ⌈exact⌉): rounded once, at the end, in integers;
//! * a relay's share = relay_share + the window's bonus + its own step's bonus, 10,000 at most.
//!
//! The *window* is the first one that the local time of the request lies in. Where clocks are put forward an hour of the wall is missing, and a window within it has no
//! moment; where they are put back an hour comes twice, and is in the window both times. The *step* is the last one that the terminal has reached by what it had received
//! (a relay: sent) since the period began, before this delivery.
//!
//! A tariff is for downloads at any time. Ranks are sold by auction, whose prices no tariff touches: only fee and share of a release may come from one.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use protocol::rest::{TariffTerms, TariffWindow, VolumePeriod, Weekday};
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BasisPoints, Bytes, TimestampMs};

/// Windows, and steps of either kind, that a tariff may have.
pub const ENTRIES_MAX: usize = 64;
/// The most that a window or a step makes of a price: ten times as much.
pub const PRICE_BP_MAX: u32 = 100_000;

const GIB: u128 = 1 << 30;
const BP: u128 = 10_000;
const DAY_MINUTES: u16 = 24 * 60;

/// Why terms are no tariff. The index counts from 0 within its list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TariffError {
    #[error("no such time zone; expected a name of the IANA database, such as Europe/Berlin")]
    TimeZone,
    #[error("at most {ENTRIES_MAX} are allowed")]
    TooMany(&'static str),
    #[error("a window begins before 24:00, and does not end at 00:00 (say 24:00)")]
    Window(usize),
    #[error("the same day stands twice")]
    DayTwice(usize),
    #[error("at most {PRICE_BP_MAX}, which is ten times the price")]
    Factor(&'static str, usize),
    #[error("a step needs from_deliveries or from_bytes, above 0, and each of them more than in the step before")]
    Step(&'static str, usize),
    #[error("the price is above the largest amount")]
    OutOfBounds,
    #[error("the time is outside of the calendar")]
    Time,
}

impl TariffError {
    /// Where the fault is within the terms, as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        match self {
            Self::TimeZone => "/time_zone".to_owned(),
            Self::TooMany(list) => format!("/{list}"),
            Self::Window(index) => format!("/windows/{index}/from"),
            Self::DayTwice(index) => format!("/windows/{index}/days"),
            Self::Factor(list, index) => format!("/{list}/{index}/price_bp"),
            Self::Step(list, index) => format!("/{list}/{index}"),
            Self::OutOfBounds | Self::Time => String::new(),
        }
    }
}

/// What a terminal received, or sent, since a period began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    pub deliveries: u32,
    pub bytes: Bytes,
}

/// What a download costs, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    pub price: Amount,
    /// ⌈flat + per_gib · F / 2³⁰⌉: without window, step and minimum.
    pub list_price: Amount,
    /// The window and the step that count, by their place in the terms.
    pub window: Option<usize>,
    pub step: Option<usize>,
    /// Whether it is the minimum that is paid.
    pub is_minimum: bool,
}

/// Terms that have been checked, with the clocks of their zone.
#[derive(Debug, Clone)]
pub struct Tariff {
    terms: TariffTerms,
    zone: TimeZone,
}

impl Tariff {
    /// # Errors
    /// [`TariffError`] for the first thing that is wrong with the terms.
    pub fn new(terms: TariffTerms) -> Result<Self, TariffError> {
        // Not the system's database: everybody who recomputes a price must have the same rules of time.
        let zone = TimeZoneDatabase::bundled().get(&terms.time_zone).map_err(|_| TariffError::TimeZone)?;
        let lists = [("windows", terms.windows.len()), ("received", terms.received.len()), ("sent", terms.sent.len())];
        if let Some((list, _)) = lists.into_iter().find(|(_, length)| *length > ENTRIES_MAX) {
            return Err(TariffError::TooMany(list));
        }
        for (index, window) in terms.windows.iter().enumerate() {
            check_window(index, window)?;
        }
        let factors = terms.received.iter().map(|step| step.price_bp);
        if let Some(index) = factors.into_iter().position(|price_bp| price_bp > PRICE_BP_MAX) {
            return Err(TariffError::Factor("received", index));
        }
        check_steps("received", terms.received.iter().map(|step| (step.from_deliveries, step.from_bytes)))?;
        check_steps("sent", terms.sent.iter().map(|step| (step.from_deliveries, step.from_bytes)))?;
        Ok(Self { terms, zone })
    }

    pub fn terms(&self) -> &TariffTerms {
        &self.terms
    }

    /// The price of a download of `length` bytes that is asked for `at`, by a terminal that received `received` since [`Tariff::period_start`].
    ///
    /// # Errors
    /// [`TariffError::OutOfBounds`] if that is no valid amount, [`TariffError::Time`] if `at` is beyond the year 9999.
    pub fn quote(&self, length: Bytes, at: TimestampMs, received: Volume) -> Result<Quote, TariffError> {
        let window = self.window(at)?;
        let step = last_reached(self.terms.received.iter().map(|step| (step.from_deliveries, step.from_bytes)), received);
        let window_bp = window.and_then(|index| self.terms.windows.get(index)).map_or(BP, |window| window.price_bp.into());
        let step_bp = step.and_then(|index| self.terms.received.get(index)).map_or(BP, |step| step.price_bp.into());
        let listed = self.listed(length)?;
        let scaled = listed.checked_mul(window_bp).and_then(|product| product.checked_mul(step_bp)).ok_or(TariffError::OutOfBounds)?;
        let exact = amount(scaled.div_ceil(GIB.saturating_mul(BP).saturating_mul(BP)))?;
        Ok(Quote {
            price: exact.max(self.terms.minimum),
            list_price: amount(listed.div_ceil(GIB))?,
            window,
            step,
            is_minimum: exact < self.terms.minimum,
        })
    }

    /// The share of a relay that sent `sent` since [`Tariff::period_start`], of a delivery that was asked for `at`.
    ///
    /// # Errors
    /// [`TariffError::Time`] if `at` is beyond the year 9999.
    pub fn relay_share(&self, at: TimestampMs, sent: Volume) -> Result<BasisPoints, TariffError> {
        let window = self.window(at)?.and_then(|index| self.terms.windows.get(index)).map_or(0, |window| window.relay_bonus.get());
        let step = last_reached(self.terms.sent.iter().map(|step| (step.from_deliveries, step.from_bytes)), sent);
        let step = step.and_then(|index| self.terms.sent.get(index)).map_or(0, |step| step.relay_bonus.get());
        let share = self.terms.relay_share.get().saturating_add(window).saturating_add(step);
        Ok(BasisPoints::new(share).unwrap_or(BasisPoints::ALL))
    }

    /// When the period began that `at` lies in: at midnight of the zone, or at the first moment of a day that has none.
    ///
    /// # Errors
    /// [`TariffError::Time`] if `at` is beyond the year 9999.
    pub fn period_start(&self, at: TimestampMs) -> Result<TimestampMs, TariffError> {
        let today = self.local(at)?.date();
        let first = match self.terms.period {
            VolumePeriod::Day => Some(today),
            VolumePeriod::Week => monday_of(today),
            VolumePeriod::Month => Some(today.first_of_month()),
        };
        let midnight = first.and_then(|first| first.to_zoned_datetime(self.zone.clone()).ok()).ok_or(TariffError::Time)?;
        u64::try_from(midnight.timestamp().as_millisecond()).map(TimestampMs).map_err(|_| TariffError::Time)
    }

    /// (flat + per_gib · F / 2³⁰) · 2³⁰
    fn listed(&self, length: Bytes) -> Result<u128, TariffError> {
        let flat = u128::from(self.terms.flat.0).checked_mul(GIB);
        let by_length = u128::from(self.terms.per_gib.0).checked_mul(length.0.into());
        flat.zip(by_length).and_then(|(flat, by_length)| flat.checked_add(by_length)).ok_or(TariffError::OutOfBounds)
    }

    fn local(&self, at: TimestampMs) -> Result<jiff::ZonedDateTime, TariffError> {
        let moment = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).ok_or(TariffError::Time)?;
        Ok(moment.to_zoned_datetime(self.zone.clone()))
    }

    fn window(&self, at: TimestampMs) -> Result<Option<usize>, TariffError> {
        let local = self.local(at)?;
        let hours_minutes = u16::try_from(local.hour()).ok().zip(u16::try_from(local.minute()).ok());
        let minute = hours_minutes.and_then(|(hour, minute)| hour.checked_mul(60)?.checked_add(minute)).ok_or(TariffError::Time)?;
        let today = weekday(local.weekday());
        Ok(self.terms.windows.iter().position(|window| holds(window, today, minute)))
    }
}

fn weekday(day: jiff::civil::Weekday) -> Weekday {
    match day {
        jiff::civil::Weekday::Monday => Weekday::Monday,
        jiff::civil::Weekday::Tuesday => Weekday::Tuesday,
        jiff::civil::Weekday::Wednesday => Weekday::Wednesday,
        jiff::civil::Weekday::Thursday => Weekday::Thursday,
        jiff::civil::Weekday::Friday => Weekday::Friday,
        jiff::civil::Weekday::Saturday => Weekday::Saturday,
        jiff::civil::Weekday::Sunday => Weekday::Sunday,
    }
}

fn day_before(day: Weekday) -> Weekday {
    match day {
        Weekday::Monday => Weekday::Sunday,
        Weekday::Tuesday => Weekday::Monday,
        Weekday::Wednesday => Weekday::Tuesday,
        Weekday::Thursday => Weekday::Wednesday,
        Weekday::Friday => Weekday::Thursday,
        Weekday::Saturday => Weekday::Friday,
        Weekday::Sunday => Weekday::Saturday,
    }
}

fn monday_of(day: Date) -> Option<Date> {
    let mut monday = day;
    while monday.weekday() != jiff::civil::Weekday::Monday {
        monday = monday.yesterday().ok()?;
    }
    Some(monday)
}

/// Whether the window holds that minute of that day.
fn holds(window: &TariffWindow, today: Weekday, minute: u16) -> bool {
    let on = |day: Weekday| window.days.is_empty() || window.days.contains(&day);
    let (from, to) = (window.from.minutes(), window.to.minutes());
    if from < to {
        return on(today) && (from..to).contains(&minute);
    }
    (on(today) && minute >= from) || (on(day_before(today)) && minute < to)
}

fn check_window(index: usize, window: &TariffWindow) -> Result<(), TariffError> {
    if window.from.minutes() >= DAY_MINUTES || window.to.minutes() == 0 {
        return Err(TariffError::Window(index));
    }
    let mut days = window.days.clone();
    days.sort_unstable();
    days.dedup();
    if days.len() < window.days.len() {
        return Err(TariffError::DayTwice(index));
    }
    if window.price_bp > PRICE_BP_MAX {
        return Err(TariffError::Factor("windows", index));
    }
    Ok(())
}

/// The thresholds of a step: of deliveries, and of bytes.
type Thresholds = (Option<u32>, Option<Bytes>);

fn check_steps(list: &'static str, steps: impl Iterator<Item = Thresholds>) -> Result<(), TariffError> {
    let (mut deliveries, mut bytes) = (0, Bytes(0));
    for (index, (from_deliveries, from_bytes)) in steps.enumerate() {
        let rises = from_deliveries.is_none_or(|from| from > deliveries) && from_bytes.is_none_or(|from| from > bytes);
        if !rises || (from_deliveries.is_none() && from_bytes.is_none()) {
            return Err(TariffError::Step(list, index));
        }
        deliveries = from_deliveries.unwrap_or(deliveries);
        bytes = from_bytes.unwrap_or(bytes);
    }
    Ok(())
}

fn last_reached(steps: impl DoubleEndedIterator<Item = Thresholds> + ExactSizeIterator, volume: Volume) -> Option<usize> {
    let reached = |(deliveries, bytes): &Thresholds| {
        deliveries.is_some_and(|from| volume.deliveries >= from) || bytes.is_some_and(|from| volume.bytes >= from)
    };
    steps.enumerate().rev().find(|(_, step)| reached(step)).map(|(index, _)| index)
}

fn amount(value: u128) -> Result<Amount, TariffError> {
    u64::try_from(value).ok().filter(|value| *value <= JSON_INTEGER_MAX).map(Amount).ok_or(TariffError::OutOfBounds)
}
