//! Query strings: each parameter at most once, none that the operation does not know.

use std::fmt::Display;
use std::future::{Ready, ready};
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use protocol::ErrorCode;

use crate::error::ApiError;
use crate::store::PageRequest;
use crate::store::page::LIMIT_MAX;

/// Items on a page when the client does not say.
const LIMIT_DEFAULT: u32 = 50;
/// The longest cursor: a UUID takes 36 characters.
const CURSOR_MAX: usize = 128;

/// The parameters that nobody has taken yet.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        pairs.map(|pairs| Self { pairs: pairs.into_inner() }).map_err(|error| ApiError::invalid("query", error.to_string()))
    }

    /// Takes a parameter out.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.pairs.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let value = values.next();
        if values.next().is_some() {
            return Err(ApiError::invalid(format!("query/{name}"), "given more than once"));
        }
        Ok(value)
    }

    /// Takes a parameter out that must be there.
    pub fn needed<T>(&mut self, name: &str) -> Result<T, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.take(name)?.ok_or_else(|| ApiError::invalid(format!("query/{name}"), "this parameter is needed"))?;
        text.parse().map_err(|error: T::Err| ApiError::invalid(format!("query/{name}"), error.to_string()))
    }

    /// Nothing may be left.
    pub fn done(self) -> Result<(), ApiError> {
        match self.pairs.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(ApiError::invalid(format!("query/{name}"), "there is no such parameter"))
            }
        }
    }

    /// `limit` and `cursor`.
    pub fn paging(&mut self) -> Result<Paging, ApiError> {
        let limit = match self.take("limit")? {
            None => LIMIT_DEFAULT,
            Some(limit) => match limit.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => limit,
                Ok(_) | Err(_) => return Err(ApiError::invalid("query/limit", format!("expected 1 to {LIMIT_MAX}"))),
            },
        };
        let cursor = self.take("cursor")?;
        if cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_MAX) {
            return Err(cursor_fault(ApiError::new(ErrorCode::InvalidRequest)));
        }
        Ok(Paging(PageRequest { limit, cursor }))
    }
}

/// [`Paging`] as the OpenAPI document has it.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PagingParameters {
    /// Items on a page.
    #[param(minimum = 1, maximum = 100, default = 50)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(max_length = 128)]
    pub cursor: Option<String>,
}

/// Which page of a list is wanted; the only parameters of most lists.
#[derive(Debug, Clone)]
pub struct Paging(pub PageRequest);

impl FromRequest for Paging {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::of(request).and_then(|mut query| {
            let paging = query.paging()?;
            query.done()?;
            Ok(paging)
        }))
    }
}

/// A list refuses nothing of a request but its cursor.
pub fn cursor_fault(error: impl Into<ApiError>) -> ApiError {
    let error = error.into();
    if error.code == ErrorCode::InvalidRequest && error.errors.is_empty() {
        return ApiError::invalid("query/cursor", "expected a cursor that this list has given");
    }
    error
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn paging(uri: &str) -> Result<PageRequest, String> {
        let request = TestRequest::with_uri(uri).to_http_request();
        let paging = Paging::from_request(&request, &mut Payload::None).into_inner();
        paging.map(|paging| paging.0).map_err(|error| error.errors[0].pointer.clone())
    }

    #[test]
    fn a_page_has_a_default_and_bounds() {
        assert_eq!(paging("/").unwrap().limit, LIMIT_DEFAULT);
        let request = paging("/?limit=100&cursor=a%20b").unwrap();
        assert_eq!((request.limit, request.cursor.as_deref()), (100, Some("a b")));
        for bad in ["/?limit=0", "/?limit=101", "/?limit=x", "/?limit=", "/?limit=1&limit=2"] {
            assert_eq!(paging(bad).unwrap_err(), "query/limit", "{bad}");
        }
        assert_eq!(paging(&format!("/?cursor={}", "x".repeat(129))).unwrap_err(), "query/cursor");
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_refused() {
        assert_eq!(paging("/?limit=1&page=2").unwrap_err(), "query/page");
    }

    #[test]
    fn only_a_refusal_without_a_part_is_blamed_on_the_cursor() {
        assert_eq!(cursor_fault(ApiError::new(ErrorCode::InvalidRequest)).errors[0].pointer, "query/cursor");
        assert_eq!(cursor_fault(ApiError::not_found()).code, ErrorCode::NotFound);
    }
}
