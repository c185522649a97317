//! Tariffs and what they make of a price, as text.

use protocol::rest::{PriceQuote, Tariff, TariffTerms, TariffWindow, VolumePeriod, Weekday};
use protocol::{Amount, BasisPoints, Bytes, Money};

use super::market::{hundredths, percent};
use super::table::table;
use super::{clean, date_time};

/// One line per tariff.
pub(crate) fn tariffs_table(tariffs: &[Tariff]) -> String {
    if tariffs.is_empty() {
        return "No tariffs. `spillway tariff create` makes one.\n".into();
    }
    let row = |tariff: &Tariff| vec![tariff.id.to_string(), tariff.version.to_string(), date_time(tariff.created_at), clean(&tariff.name)];
    table(&["TARIFF", "VERSION", "SINCE", "NAME"], &tariffs.iter().map(row).collect::<Vec<_>>())
}

/// A version of a tariff with all of its terms.
pub(crate) fn tariff_page(tariff: &Tariff) -> String {
    let terms = &tariff.terms;
    let money = |amount: Amount| Money { amount, currency: terms.currency };
    let mut page =
        format!("{}\n\nTariff     {}\nVersion    {} of {}\n", clean(&tariff.name), tariff.id, tariff.version, date_time(tariff.created_at));
    page.push_str(&format!(
        "Price      {} and {} per GiB, at least {}\nRelays     get {} of what is left of a charge after the fee of {}\n",
        money(terms.flat),
        money(terms.per_gib),
        money(terms.minimum),
        percent(terms.relay_share),
        percent(terms.fee)
    ));
    if !terms.windows.is_empty() {
        page.push_str(&format!("\nTimes of the day in {}, the first that fits\n", clean(&terms.time_zone)));
        let rows: Vec<Vec<String>> = terms.windows.iter().map(window_row).collect();
        page.push_str(&table(&["FROM", "TO", "PRICE", "RELAYS", "DAYS"], &rows));
    }
    let period = period_word(terms.period);
    if !terms.received.is_empty() {
        page.push_str(&format!("\nWho received so much since the {period} began (in {})\n", clean(&terms.time_zone)));
        let row = |step: &protocol::rest::ReceivedStep| thresholds(step.from_deliveries, step.from_bytes, hundredths(step.price_bp));
        page.push_str(&table(&["DELIVERIES", "OR BYTES", "PRICE"], &terms.received.iter().map(row).collect::<Vec<_>>()));
    }
    if !terms.sent.is_empty() {
        page.push_str(&format!("\nWhat relays sent since the {period} began (in {})\n", clean(&terms.time_zone)));
        let row = |step: &protocol::rest::SentStep| thresholds(step.from_deliveries, step.from_bytes, bonus(step.relay_bonus));
        page.push_str(&table(&["DELIVERIES", "OR BYTES", "RELAYS"], &terms.sent.iter().map(row).collect::<Vec<_>>()));
    }
    page
}

fn window_row(window: &TariffWindow) -> Vec<String> {
    let days: Vec<&str> = window.days.iter().map(|day| day_word(*day)).collect();
    let days = if days.is_empty() { "every day".to_owned() } else { days.join(" ") };
    vec![window.from.to_string(), window.to.to_string(), hundredths(window.price_bp), bonus(window.relay_bonus), days]
}

fn thresholds(deliveries: Option<u32>, bytes: Option<Bytes>, effect: String) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![or_none(deliveries.map(|count| count.to_string())), or_none(bytes.map(|bytes| bytes.to_string())), effect]
}

fn bonus(relay_bonus: BasisPoints) -> String {
    format!("+{}", percent(relay_bonus))
}

fn period_word(period: VolumePeriod) -> &'static str {
    match period {
        VolumePeriod::Day => "day",
        VolumePeriod::Week => "week",
        VolumePeriod::Month => "month",
    }
}

fn day_word(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Mon",
        Weekday::Tuesday => "Tue",
        Weekday::Wednesday => "Wed",
        Weekday::Thursday => "Thu",
        Weekday::Friday => "Fri",
        Weekday::Saturday => "Sat",
        Weekday::Sunday => "Sun",
    }
}

/// A price, and what of a tariff made it.
pub(crate) fn quote_line(quote: &PriceQuote, terms: Option<&TariffTerms>) -> String {
    let mut reasons = Vec::new();
    if quote.list_price != quote.price {
        reasons.push(format!("{} without reductions and additions", quote.list_price));
    }
    let place = |index: Option<u32>| index.and_then(|index| usize::try_from(index).ok());
    if let Some(window) = terms.zip(place(quote.window)).and_then(|(terms, index)| terms.windows.get(index)) {
        reasons.push(format!("{} from {} to {}", hundredths(window.price_bp), window.from, window.to));
    }
    if let Some((step, received)) = terms.zip(place(quote.step)).and_then(|(terms, index)| terms.received.get(index)).zip(quote.received) {
        let downloads = if received.deliveries == 1 { "download" } else { "downloads" };
        reasons.push(format!("{} after {} {downloads} of {}", hundredths(step.price_bp), received.deliveries, received.bytes));
    }
    if quote.is_minimum {
        reasons.push("the tariff's least price".to_owned());
    }
    match reasons.as_slice() {
        [] => quote.price.to_string(),
        reasons => format!("{} ({})", quote.price, reasons.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use protocol::rest::{ReceivedStep, ReceivedVolume, SentStep};
    use protocol::{Currency, TariffId};
    use time::macros::datetime;

    use super::*;

    fn tariff() -> Tariff {
        let bp = |value| BasisPoints::new(value).unwrap();
        let terms = TariffTerms {
            currency: Currency::EUR,
            time_zone: "Europe/Berlin".into(),
            period: VolumePeriod::Month,
            flat: Amount(100),
            per_gib: Amount(50),
            minimum: Amount(30),
            fee: bp(200),
            relay_share: bp(5_000),
            windows: vec![TariffWindow {
                days: vec![Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday, Weekday::Saturday],
                from: "22:00".parse().unwrap(),
                to: "06:00".parse().unwrap(),
                price_bp: 8_050,
                relay_bonus: bp(500),
            }],
            received: vec![ReceivedStep { from_deliveries: Some(10), from_bytes: None, price_bp: 9_000 }],
            sent: vec![SentStep { from_deliveries: None, from_bytes: Some(Bytes(1 << 40)), relay_bonus: bp(1_000) }],
        };
        Tariff { id: TariffId::from_bytes([1; 16]), name: "Nights".into(), version: 2, terms, created_at: datetime!(2026-11-23 12:00 UTC) }
    }

    #[test]
    fn a06_a_tariff_is_shown_whole_within_eighty_columns() {
        let page = tariff_page(&tariff());
        for part in
            ["1.00 EUR and 0.50 EUR per GiB, at least 0.30 EUR", "80.50%", "+5%", "Mon Tue", "22:00", "90%", "1.0 TiB", "+10%", "month"]
        {
            assert!(page.contains(part), "no {part} in\n{page}");
        }
        assert!(page.lines().all(|line| line.len() <= 79), "{page}");
        assert!(tariffs_table(&[tariff()]).lines().all(|line| line.len() <= 79));
        assert!(tariffs_table(&[]).contains("tariff create"));
    }

    #[test]
    fn a06_a_quote_says_what_made_it() {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        let since = datetime!(2026-11-01 0:00 UTC);
        let mut quote = PriceQuote {
            price: money(150),
            list_price: money(150),
            tariff: None,
            window: None,
            step: None,
            is_minimum: false,
            received: Some(ReceivedVolume { deliveries: 12, bytes: Bytes(3 << 30), since }),
        };
        let terms = tariff().terms;
        assert_eq!(quote_line(&quote, Some(&terms)), "1.50 EUR");
        (quote.price, quote.window, quote.step) = (money(109), Some(0), Some(0));
        let told = "1.09 EUR (1.50 EUR without reductions and additions, 80.50% from 22:00 to 06:00, 90% after 12 downloads of 3.0 GiB)";
        assert_eq!(quote_line(&quote, Some(&terms)), told);
    }
}
