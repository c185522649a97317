//! From a request's bytes to checked values, with every refusal naming the part at fault.

pub mod body;
pub mod headers;
pub mod located;
pub mod query;

pub use body::Body;
pub use headers::{IdempotencyKey, IfMatch, IfMatchAny};
pub use query::Paging;
