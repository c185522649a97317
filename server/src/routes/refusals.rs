//! Refusals as the OpenAPI document lists them: named in a handler's `responses(…)` where they are particular to the operation. What any operation of
//! its kind may answer (400, 401, 403, 413, 415, 500, 503) is added by [`super::openapi`].

use std::collections::BTreeMap;

use protocol::error::Problem;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// A problem response with a description.
pub(super) fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name(Problem::name());
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", ContentBuilder::new().schema(Some(RefOr::<utoipa::openapi::Schema>::Ref(schema))).build())
        .build()
}

/// Keeps the problem's schema in use where only its name is needed.
const _: fn() -> RefOr<utoipa::openapi::Schema> = Problem::schema;

macro_rules! refusals {
    ($( $(#[$doc:meta])* $name:ident = $( $status:literal $description:literal ),+ ; )*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    BTreeMap::from([$( ($status.to_owned(), RefOr::T(problem($description))) ),+])
                }
            }
        )*
    };
}

refusals! {
    /// What is named does not exist for the caller.
    NotFound = "404" "There is no such thing for this caller.";
    /// The present state forbids it.
    Conflict = "409" "The present state forbids it; see `code`.";
    /// The request is well-formed, and refused for what it says.
    Unprocessable = "422" "A rule of the service forbids it; see `code`.";
    /// An edit for another version.
    Precondition = "412" "`If-Match` names another version than the present one.", "428" "`If-Match` is missing.";
    /// Too often.
    TooMany = "429" "Too many requests; see `Retry-After`.";
    /// Log in with other credentials.
    Credentials = "401" "The credentials are wrong or have ended; see `code`.";
}
