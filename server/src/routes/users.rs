//! `/v1/users`: registration, the own account, and for operators everybody's.

use actix_web::dev::Payload;
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use protocol::UserId;
use protocol::rest::{ChangePassword, ChangeRole, NewUser, Page, User};
use std::future::{Ready, ready};

use super::answers::created;
use super::input::query::{PagingParameters, Query, cursor_fault};
use super::input::{Body, Paging};
use super::limits;
use super::refusals::{Conflict, Credentials, NotFound, TooMany};
use crate::app::accounts;
use crate::auth::{Caller, Operator};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/users").route(web::post().to(create).wrap(from_fn(limits::registrations))).route(web::get().to(list)))
        .service(web::resource("/v1/users/me").route(web::get().to(me)))
        .service(web::resource("/v1/users/me/password").route(web::put().to(change_password)))
        .service(web::resource("/v1/users/{id}/role").route(web::put().to(change_role)));
}

/// Register.
#[utoipa::path(post, path = "/v1/users", tag = "users", operation_id = "create_user", request_body = NewUser,
    responses((status = 201, description = "Registered.", body = User), Conflict, TooMany), security(()))]
pub async fn create(state: web::Data<AppState>, body: Body<NewUser>) -> Result<HttpResponse, ApiError> {
    let NewUser { email, password } = body.0;
    let email = accounts::normal_email(&email)?;
    let own = state.clone();
    let user = state.to_the_end(async move { accounts::register(&own.store, &own.passwords, email, password, clock::now()).await }).await?;
    Ok(created("/v1/users/me".to_owned(), user))
}

/// The own account.
#[utoipa::path(get, path = "/v1/users/me", tag = "users", operation_id = "get_own_user",
    responses((status = 200, description = "The caller.", body = User)))]
pub async fn me(state: web::Data<AppState>, caller: Caller) -> Result<HttpResponse, ApiError> {
    let user = state.store.user(caller.user_id).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(user))
}

/// Change the own password. Ends every session.
#[utoipa::path(put, path = "/v1/users/me/password", tag = "users", operation_id = "change_password", request_body = ChangePassword,
    responses((status = 204, description = "Changed; every refresh token of this user has ended."), Credentials, TooMany))]
pub async fn change_password(state: web::Data<AppState>, caller: Caller, body: Body<ChangePassword>) -> Result<HttpResponse, ApiError> {
    limits::password_changes(&state, caller.user_id).await?;
    accounts::change_password(&state, caller.user_id, body.0, clock::now()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Give a user another role. Operators only.
#[utoipa::path(put, path = "/v1/users/{id}/role", tag = "users", operation_id = "change_role", params(("id" = UserId, Path)),
    request_body = ChangeRole, responses((status = 200, description = "Changed; it counts at once.", body = User), NotFound))]
pub async fn change_role(
    state: web::Data<AppState>,
    _: Operator,
    id: web::Path<UserId>,
    body: Body<ChangeRole>,
) -> Result<HttpResponse, ApiError> {
    let (store, id, role) = (state.store.clone(), id.into_inner(), body.0.role);
    let user = state.to_the_end(async move { store.set_role(id, role).await }).await?;
    Ok(HttpResponse::Ok().json(user))
}

/// Everybody, oldest first, or the one with an e-mail address. Operators only.
#[utoipa::path(get, path = "/v1/users", tag = "users", operation_id = "list_users",
    params(("email" = Option<String>, Query, max_length = 254), PagingParameters),
    responses((status = 200, description = "A page of users.", body = Page<User>)))]
pub async fn list(state: web::Data<AppState>, _: Operator, wanted: WantedUsers) -> Result<HttpResponse, ApiError> {
    let page = state.store.users(wanted.email.as_deref(), &wanted.paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// The parameters of the list.
#[derive(Debug)]
pub struct WantedUsers {
    email: Option<String>,
    paging: Paging,
}

impl FromRequest for WantedUsers {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::of(request).and_then(|mut query| {
            // What is no address is nobody's: the list is empty, and the database is not asked about bytes that it cannot hold.
            let email = query.take("email")?;
            if email.as_ref().is_some_and(|email| email.chars().count() > accounts::EMAIL_MAX) {
                return Err(ApiError::invalid("query/email", format!("expected at most {} characters", accounts::EMAIL_MAX)));
            }
            let email = email.map(|email| accounts::normal_email(&email).unwrap_or_default());
            let paging = query.paging()?;
            query.done()?;
            Ok(Self { email, paging })
        }))
    }
}
