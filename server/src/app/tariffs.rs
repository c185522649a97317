//! Tariffs: made, and changed by another version.

use protocol::rest::{NewTariff, TariffTerms};
use protocol::{Currency, TariffId};
use rules::tariff;
use time::OffsetDateTime;

use super::checks::Checks;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::idempotency::{Answer, Idempotency};

/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn create(state: &AppState, new: NewTariff, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.text("/name", &new.name, 1..=100);
    check_terms(&mut checks, "/terms", &new.terms, state.config.currency);
    checks.done()?;
    let store = state.store.clone();
    state.to_the_end(async move { store.create_tariff(&new, &request, now).await }).await
}

/// `seen` is the version that the publisher has seen; none stands for whichever it is.
///
/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn change(
    state: &AppState,
    id: TariffId,
    seen: Option<u32>,
    terms: TariffTerms,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    check_terms(&mut checks, "", &terms, state.config.currency);
    checks.done()?;
    let store = state.store.clone();
    state.to_the_end(async move { store.change_tariff(id, seen, &terms, &request, now).await }).await
}

fn check_terms(checks: &mut Checks, pointer: &str, terms: &TariffTerms, currency: Currency) {
    let other = format!("{} is not the currency of this service, {currency}", terms.currency);
    checks.ensure(terms.currency == currency, format_args!("{pointer}/currency"), other);
    if let Err(error) = tariff::Tariff::new(terms.clone()) {
        checks.ensure(false, format_args!("{pointer}{}", error.pointer()), error.to_string());
    }
}
