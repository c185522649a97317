//! Why a link did not open, and why it ended.

use std::fmt;

/// Why a link ended. The first reason counts; later ones are its consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// This end closed the link, or dropped the last handle to it.
    Local,
    /// The other end closed the link.
    Remote,
    /// Nothing was heard of the other end for [`super::LOST_AFTER`], or the connection broke underneath.
    Lost,
    /// The other end sent a message above [`super::MAX_MESSAGE_BYTES`].
    Oversize { bytes: usize },
    /// The other end opened a channel that a link does not have, or sent text.
    Violation,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed by this end"),
            Self::Remote => f.write_str("closed by the other end"),
            Self::Lost => f.write_str("the other end was not heard any more"),
            Self::Oversize { bytes } => write!(f, "the other end sent a message of {bytes} bytes, above the limit"),
            Self::Violation => f.write_str("the other end did not keep to one channel of binary messages"),
        }
    }
}

/// What went wrong with a link, in words of this program: no type of the WebRTC library leaves the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The text of the other end cannot be used: not a description, the wrong kind, no fingerprint, too many candidates.
    #[error("unusable description: {0}")]
    Description(String),
    /// This machine has no address that a socket could be bound to.
    #[error("no local address to bind")]
    NoLocalAddress,
    /// Links go through TURN only, and no TURN server has given an address.
    #[error("no TURN server has given this machine an address, and links go through TURN only")]
    NoTurnAddress,
    /// The channel was not open in time.
    #[error("the link did not open in time")]
    Deadline,
    /// A message to send is longer than [`super::MAX_MESSAGE_BYTES`]; the link stays open.
    #[error("a message of {bytes} bytes is above the limit")]
    TooLarge { bytes: usize },
    #[error("the link is closed: {0}")]
    Closed(CloseReason),
    /// The library or the operating system refused, with its words.
    #[error("the transport failed: {0}")]
    Transport(String),
}
