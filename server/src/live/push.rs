//! Pushes: a bounded stream per terminal, written by any instance and read by the one that holds its WebSocket.

use protocol::TerminalId;
use protocol::ws::{PushMessage, PushPosition};
use time::OffsetDateTime;

use super::{Arguments, Live, LiveError};

/// The most pushes read at once; the session reads on until it has them all.
const READ_MAX: usize = 64;

/// What a terminal's stream holds after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushes {
    /// The next ones in order, with their positions; none if the position is the end.
    Next(Vec<(PushPosition, PushMessage)>),
    /// Pushes after the position are gone: Redis was lost, or they were too many. The stream now ends here.
    Gap(PushPosition),
    /// A newer WebSocket stands for the terminal.
    Replaced,
}

impl Live {
    /// Pushes to one terminal, whether it is connected or not.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn push(&self, terminal: TerminalId, message: &PushMessage, now: OffsetDateTime) -> Result<(), LiveError> {
        self.push_if(terminal, message, false, now).await.map(|_| ())
    }

    /// Pushes to a terminal only if it is connected; says whether it was.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn push_to_connected(&self, terminal: TerminalId, message: &PushMessage, now: OffsetDateTime) -> Result<bool, LiveError> {
        self.push_if(terminal, message, true, now).await
    }

    async fn push_if(
        &self,
        terminal: TerminalId,
        message: &PushMessage,
        only_connected: bool,
        now: OffsetDateTime,
    ) -> Result<bool, LiveError> {
        let arguments = Arguments::default().add(terminal).add(serde_json::to_string(message)?).add(u8::from(only_connected));
        let pushed: u8 = self.run(&self.inner.scripts.push_one, now, &arguments).await?;
        Ok(pushed == 1)
    }

    /// Reads what was pushed after `after`, on behalf of the WebSocket named `token`.
    ///
    /// # Errors
    /// Redis is away, or holds what is no push.
    pub async fn pushes(&self, terminal: TerminalId, token: &str, after: PushPosition, now: OffsetDateTime) -> Result<Pushes, LiveError> {
        let arguments = Arguments::default().add(terminal).add(after.epoch).add(after.offset).add(READ_MAX);
        let (epoch, offset, whole, list, owner): (u64, u64, u8, Vec<String>, String) =
            self.run(&self.inner.scripts.read, now, &arguments).await?;
        if !owner.is_empty() && owner != token {
            return Ok(Pushes::Replaced);
        }
        if whole == 0 {
            return Ok(Pushes::Gap(PushPosition { epoch, offset }));
        }
        list.chunks_exact(2)
            .map(|entry| {
                let offset = entry[0].parse().map_err(|_| LiveError::Reply(format!("{:?} is no offset", entry[0])))?;
                Ok((PushPosition { epoch, offset }, serde_json::from_str(&entry[1])?))
            })
            .collect::<Result<_, LiveError>>()
            .map(Pushes::Next)
    }
}
