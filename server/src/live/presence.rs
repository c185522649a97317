//! Which terminals are connected, and by which WebSocket.

use std::time::Duration;

use protocol::TerminalId;
use protocol::ws::PushPosition;
use time::OffsetDateTime;

use super::{Arguments, Listener, Live, LiveError};

/// How long a terminal counts as connected after its instance last said so: what it takes to notice an instance that died.
pub const PRESENCE_FOR: Duration = Duration::from_secs(10);
/// How often an instance says so: three times within [`PRESENCE_FOR`], so that one lost try is no loss.
pub const REFRESH_EVERY: Duration = Duration::from_secs(3);
/// How long a report that a terminal does not answer counts: its neighbours must agree within this time.
const SUSPICION_FOR: Duration = Duration::from_secs(5);

/// A WebSocket that now stands for its terminal.
#[derive(Debug)]
pub struct Attachment {
    /// Where the terminal's pushes end.
    pub end: PushPosition,
    pub listener: Listener,
}

/// What a session learns when it says that it is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// It still stands for its terminal, whose pushes end here.
    Owner(PushPosition),
    /// A newer WebSocket of the same terminal has taken its place.
    Replaced,
}

impl Live {
    /// The WebSocket named `token` stands for the terminal from now on; an older one learns that it was replaced.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn attach(&self, terminal: TerminalId, token: &str, now: OffsetDateTime) -> Result<Attachment, LiveError> {
        let listener = self.inner.wake.listen(terminal);
        let arguments = Arguments::default().add(terminal).add(token).add(PRESENCE_FOR.as_millis());
        let (epoch, offset) = self.run(&self.inner.scripts.attach, now, &arguments).await?;
        Ok(Attachment { end: PushPosition { epoch, offset }, listener })
    }

    /// The WebSocket is still there. After a loss of Redis this makes the terminal present again.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn refresh(&self, terminal: TerminalId, token: &str, now: OffsetDateTime) -> Result<Refreshed, LiveError> {
        let arguments = Arguments::default().add(terminal).add(token).add(PRESENCE_FOR.as_millis());
        let (owner, epoch, offset): (u8, u64, u64) = self.run(&self.inner.scripts.refresh, now, &arguments).await?;
        Ok(if owner == 1 { Refreshed::Owner(PushPosition { epoch, offset }) } else { Refreshed::Replaced })
    }

    /// The WebSocket has ended. `true` if the terminal is gone with it, `false` if a newer WebSocket stands for it.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn detach(&self, terminal: TerminalId, token: &str, now: OffsetDateTime) -> Result<bool, LiveError> {
        let gone: u8 = self.run(&self.inner.scripts.detach, now, &Arguments::default().add(terminal).add(token)).await?;
        Ok(gone == 1)
    }

    /// Which of the terminals are connected.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn connected(&self, terminals: &[TerminalId]) -> Result<Vec<TerminalId>, LiveError> {
        if terminals.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("MGET");
        for terminal in terminals {
            command.arg(self.key("presence", terminal));
        }
        let owners: Vec<Option<String>> = self.command(command).await?;
        Ok(terminals.iter().zip(owners).filter_map(|(&terminal, owner)| owner.map(|_| terminal)).collect())
    }

    /// Records that `reporter` finds `suspect` silent, and says whether that is enough to act on: `needed` different reporters within
    /// [`SUSPICION_FOR`], or a WebSocket that is gone.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn suspect(
        &self,
        swarm: protocol::SwarmId,
        suspect: TerminalId,
        reporter: TerminalId,
        needed: usize,
        now: OffsetDateTime,
    ) -> Result<bool, LiveError> {
        let arguments = Arguments::default().add(swarm).add(suspect).add(reporter).add(SUSPICION_FOR.as_millis());
        let (reporters, connected): (usize, u8) = self.run(&self.inner.scripts.suspect, now, &arguments).await?;
        Ok(reporters >= needed || connected == 0)
    }
}
