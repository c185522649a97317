//! The money paths over a real Postgres. `DATABASE_URL` names a server in which databases may be created.

mod applying;
mod books;
mod closing;
mod contention;
mod duties;
mod fixture;
mod history;
mod invariants;
mod outgoing;
mod repeating;
mod scaling;
mod settling;
mod starting;
mod tariffs;
mod wallets;
