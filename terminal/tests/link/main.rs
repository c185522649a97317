//! Links over real sockets: both ends in this process over loopback, unless a test says otherwise.

mod ending;
mod hostile;
mod opening;
mod pair;
mod pressure;
