//! `spillway-server`: routes → app → store (Postgres) and live (Redis); the WebSocket of the terminals; work with a due time; the origin's chunks.

pub mod admin;
pub mod app;
pub mod auth;
pub mod clock;
pub mod config;
pub mod error;
pub mod jobs;
pub mod live;
pub mod metrics;
pub mod origin;
pub mod prefix;
pub mod regions;
pub mod routes;
pub mod secrets;
pub mod serve;
pub mod state;
pub mod store;
pub mod webhooks;
pub mod ws;

pub use error::ApiError;
pub use state::AppState;
