//! The REST API: one file per resource; parse → app or store → answer. Every path and method here stands in the OpenAPI document, too.

mod answers;
pub mod applications;
pub mod contents;
pub mod downloads;
pub mod input;
pub mod kits;
pub(crate) mod limits;
pub mod measurements;
pub mod openapi;
pub mod origin;
pub mod problems;
pub mod quarantines;
mod refusals;
pub mod releases;
pub mod service;
pub mod sessions;
pub mod tariffs;
pub mod terminals;
#[cfg(test)]
pub(crate) mod tests;
pub mod uploads;
pub mod users;
pub mod wallet;
pub mod webhooks;

use actix_web::error::PathError;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::error::ApiError;

/// All routes of the service.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .app_data(web::PathConfig::default().error_handler(path_fault))
        .configure(users::configure)
        .configure(sessions::configure)
        .configure(terminals::configure)
        .configure(kits::configure)
        .configure(quarantines::configure)
        .configure(measurements::configure)
        .configure(contents::configure)
        .configure(uploads::configure)
        .configure(downloads::configure)
        .configure(tariffs::configure)
        .configure(releases::configure)
        .configure(applications::configure)
        .configure(wallet::configure)
        .configure(webhooks::configure)
        .configure(origin::configure)
        .configure(crate::ws::configure)
        .configure(service::configure)
        .configure(openapi::configure)
        .default_service(web::to(nothing_here));
}

async fn nothing_here() -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found())
}

/// A part of the path that is not what stands there, such as an id that is none.
fn path_fault(error: PathError, request: &HttpRequest) -> actix_web::Error {
    let mut parts = request.match_info().iter().map(|(name, _)| name);
    let pointer = match (parts.next(), parts.next()) {
        (Some(name), None) => format!("path/{name}"),
        _ => "path".to_owned(),
    };
    ApiError::invalid(pointer, error.to_string()).into()
}
