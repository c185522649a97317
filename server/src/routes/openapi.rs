//! The OpenAPI document of the service and the page that shows it.
//!
//! The document is generated from the handlers; `openapi/openapi.json` in the repository is a copy that a test compares.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use protocol::ErrorCode;
use protocol::error::{Problem, ProblemError};
use protocol::rest::Event;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{KnownFormat, ObjectBuilder, OpenApi as Document, RefOr, Schema, SchemaFormat, Type};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};
use utoipa_swagger_ui::SwaggerUi;

use super::refusals::problem;
use super::{
    applications, contents, downloads, kits, measurements, origin, quarantines, releases, service, sessions, tariffs, terminals, uploads,
    users, wallet, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Spillway",
        description = "Releases large contents to many machines at a set time. Money is in integer minor units of one currency; times are RFC 3339 in \
            UTC; lists have cursors; refusals are problems (RFC 9457) whose `code` a program may act on.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        users::create, users::list, users::me, users::change_password, users::change_role,
        sessions::create, sessions::refresh, sessions::end,
        terminals::create, terminals::list, terminals::get, crate::ws::open,
        kits::create, kits::list, kits::next,
        quarantines::impose, quarantines::list, quarantines::get, quarantines::appeal, quarantines::decide,
        measurements::downlink, measurements::uplink, measurements::record, measurements::get,
        contents::create, contents::list, contents::get, contents::edition, contents::manifest,
        uploads::announce, uploads::receive,
        releases::create, releases::list, releases::get, releases::cancel, releases::abort, releases::deliveries, releases::report,
        releases::book, releases::book_bids,
        origin::chunk, origin::sealed_manifest,
        downloads::terms, downloads::offer, downloads::withdraw, downloads::quote, downloads::ask, downloads::list, downloads::get, downloads::cancel,
        tariffs::create, tariffs::list, tariffs::get, tariffs::change,
        applications::create, applications::list, applications::get, applications::change, applications::withdraw, applications::explanation,
        wallet::get, wallet::entries, wallet::statement, wallet::holds, wallet::redeem, wallet::make_vouchers, wallet::totals,
        webhooks::create, webhooks::list, webhooks::get, webhooks::change, webhooks::remove, webhooks::rotate, webhooks::test, webhooks::deliveries,
        webhooks::delivered, webhooks::retry,
        service::home, service::live, service::ready, service::metrics, service::jwks,
    ),
    components(schemas(Problem, ProblemError, ErrorCode, Event)),
    security(("access_token" = [])),
    tags(
        (name = "users", description = "Accounts."),
        (name = "sessions", description = "Logging in and staying logged in."),
        (name = "terminals", description = "Client machines."),
        (name = "contents", description = "Contents, uploads and editions."),
        (name = "releases", description = "Scheduled distributions."),
        (name = "downloads", description = "Contents at any time, from terminals that have them."),
        (name = "applications", description = "Bids for an edition and a rank."),
        (name = "wallet", description = "Prepaid money."),
        (name = "quarantines", description = "Terminals that are shut out for a while, why, what their owners say to it, and what operators decide."),
        (name = "webhooks", description = "Being told of events: signed as Standard Webhooks has it, at least once, in no order. The body is an `Event`."),
        (name = "service", description = "For machines: health, metrics, keys."),
    ),
    modifiers(&Completed)
)]
struct Api;

/// Bytes as they are.
pub(super) struct RawBytes;

impl PartialSchema for RawBytes {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for RawBytes {}

/// Adds what every operation of a kind may answer, so that no handler can forget to say it.
struct Completed;

impl Modify for Completed {
    fn modify(&self, document: &mut Document) {
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
        document.components.get_or_insert_default().add_security_scheme("access_token", bearer);
        for item in document.paths.paths.values_mut() {
            for operation in operations_of(item) {
                complete(operation);
            }
        }
    }
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

fn complete(operation: &mut Operation) {
    let with_body = operation.request_body.is_some();
    let with_parameters = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let with_token = operation.security.is_none();
    let mut refusals = vec![("500", "The server failed."), ("503", "The service is not ready; see `Retry-After`.")];
    if with_body || with_parameters {
        refusals.push(("400", "The request is not valid; `errors` names the parts."));
    }
    if with_body {
        refusals.extend([("413", "The body is too large."), ("415", "The body's media type is not supported.")]);
    }
    if with_token {
        refusals.extend([("401", "A valid access token is needed."), ("403", "The caller's role does not allow it.")]);
    }
    for (status, description) in refusals {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(description)));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && response.content.is_empty()
        {
            *response = problem(&response.description);
        }
    }
}

/// The document.
pub fn document() -> Document {
    Api::openapi()
}

/// The document as it is kept in the repository.
pub fn document_text() -> Result<String, serde_json::Error> {
    document().to_pretty_json().map(|text| text + "\n")
}

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/docs").route(web::get().to(to_the_page))).service(
        // Serves the document at /openapi.json, too.
        SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", document()),
    );
}

/// The page's own links are relative to a path that ends in a slash.
async fn to_the_page() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}
