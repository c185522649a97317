//! `/v1/wallet`, `/v1/vouchers` and `/v1/ledger`: prepaid money.

use std::future::ready;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use futures_util::{StreamExt, stream};
use protocol::rest::{Hold, LedgerTotals, NewVouchers, Page, Redemption, Vouchers, Wallet, WalletEntry};

use super::answers::once;
use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, IdempotencyKey, Paging};
use super::refusals::{Conflict, NotFound, Unprocessable};
use crate::app::wallet;
use crate::auth::{Caller, Operator};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::{PageRequest, StoreError};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/wallet").route(web::get().to(get)))
        .service(web::resource("/v1/wallet/entries").route(web::get().to(entries)))
        .service(web::resource("/v1/wallet/entries.csv").route(web::get().to(statement)))
        .service(web::resource("/v1/wallet/holds").route(web::get().to(holds)))
        .service(web::resource("/v1/wallet/redemptions").route(web::post().to(redeem)))
        .service(web::resource("/v1/vouchers").route(web::post().to(make_vouchers)))
        .service(web::resource("/v1/ledger/totals").route(web::get().to(totals)));
}

/// The own wallet.
#[utoipa::path(get, path = "/v1/wallet", tag = "wallet", operation_id = "get_wallet",
    responses((status = 200, description = "The wallet.", body = Wallet)))]
pub async fn get(state: web::Data<AppState>, caller: Caller) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.wallet(caller.user_id).await?))
}

/// The own wallet's statement, newest first.
#[utoipa::path(get, path = "/v1/wallet/entries", tag = "wallet", operation_id = "list_wallet_entries", params(PagingParameters),
    responses((status = 200, description = "A page of entries.", body = Page<WalletEntry>)))]
pub async fn entries(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.wallet_entries(caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// The whole statement of the own wallet as comma-separated values (RFC 4180), newest first, with amounts in major units.
#[utoipa::path(get, path = "/v1/wallet/entries.csv", tag = "wallet", operation_id = "get_wallet_statement",
    responses((status = 200, description = "The statement.", body = String, content_type = "text/csv")))]
pub async fn statement(state: web::Data<AppState>, caller: Caller) -> Result<HttpResponse, ApiError> {
    // The first page before the headers, so that what fails is a problem and no torn file.
    let first = state.store.wallet_entries(caller.user_id, &PageRequest::default()).await?;
    let store = state.store.clone();
    let pages = stream::try_unfold(Some(first), move |page| {
        let store = store.clone();
        async move {
            let Some(Page { items, next_cursor }) = page else { return Ok::<_, StoreError>(None) };
            let lines: String = items.iter().map(WalletEntry::csv_line).collect();
            let next = match next_cursor {
                Some(cursor) => {
                    let request = PageRequest { cursor: Some(cursor), ..PageRequest::default() };
                    Some(store.wallet_entries(caller.user_id, &request).await?)
                }
                None => None,
            };
            Ok(Some((web::Bytes::from(lines), next)))
        }
    });
    let header = stream::once(ready(Ok(web::Bytes::from_static(WalletEntry::CSV_HEADER.as_bytes()))));
    Ok(HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8; header=present")
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"statement.csv\""))
        .streaming(header.chain(pages)))
}

/// What is held of the own wallet, and for what, oldest first.
#[utoipa::path(get, path = "/v1/wallet/holds", tag = "wallet", operation_id = "list_wallet_holds", params(PagingParameters),
    responses((status = 200, description = "A page of holds.", body = Page<Hold>)))]
pub async fn holds(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.wallet_holds(caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// Redeem a voucher: its value is added to the own wallet.
#[utoipa::path(post, path = "/v1/wallet/redemptions", tag = "wallet", operation_id = "redeem_voucher",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")), request_body = Redemption,
    responses((status = 201, description = "Redeemed.", body = WalletEntry), NotFound, Conflict, Unprocessable))]
pub async fn redeem(
    state: web::Data<AppState>,
    caller: Caller,
    key: IdempotencyKey,
    body: Body<Redemption>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &body.0)?;
    once(&wallet::redeem(&state, body.0, request, clock::now()).await?)
}

/// Make prepaid vouchers. Operators only.
#[utoipa::path(post, path = "/v1/vouchers", tag = "wallet", operation_id = "create_vouchers",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$",
        description = "The codes are as secret as this key is: draw a random UUID.")),
    request_body = NewVouchers, responses((status = 201, description = "Made.", body = Vouchers), Conflict, Unprocessable))]
pub async fn make_vouchers(
    state: web::Data<AppState>,
    operator: Operator,
    key: IdempotencyKey,
    body: Body<NewVouchers>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(operator.user_id, &body.0)?;
    once(&wallet::make_vouchers(&state, body.0, request, clock::now()).await?)
}

/// The totals of the ledger, whose sum is always 0. Operators only.
#[utoipa::path(get, path = "/v1/ledger/totals", tag = "wallet", operation_id = "get_ledger_totals",
    responses((status = 200, description = "The totals.", body = LedgerTotals)))]
pub async fn totals(state: web::Data<AppState>, _: Operator) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.ledger_totals().await?))
}
