//! Prepaid money: vouchers are made by operators and redeemed by anybody.

use protocol::ErrorCode;
use protocol::rest::{NewVouchers, Redemption};
use time::OffsetDateTime;

use super::checks::Checks;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::idempotency::{Answer, Idempotency};
use crate::store::vouchers::BATCH_MAX;

pub async fn make_vouchers(state: &AppState, new: NewVouchers, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.count("/count", new.count.into(), 1..=BATCH_MAX.into());
    checks.money("/value", new.value, state.config.currency);
    checks.ensure(new.value.amount.0 > 0, "/value/amount", "a voucher must be worth something");
    checks.done()?;
    let store = state.store.clone();
    state.to_the_end(async move { store.create_vouchers(&new, &request, now).await }).await
}

pub async fn redeem(state: &AppState, redemption: Redemption, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.text("/code", &redemption.code, 1..=64);
    checks.done()?;
    let store = state.store.clone();
    let parts = [ErrorCode::NotFound, ErrorCode::VoucherUsed, ErrorCode::VoucherExpired].map(|code| (code, "/code"));
    state.to_the_end(async move { store.redeem_voucher(&redemption.code, &request, now).await }).await.map_err(|error| error.about(&parts))
}
