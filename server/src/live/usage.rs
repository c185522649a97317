//! How often something was used in a window of time, over all instances: what rate limits are decided on.

use std::time::Duration;

use protocol::Blake3;

use super::{Live, LiveError};

/// The window begins with the first use and its counter ends with it.
const COUNT: &str = "
local count = redis.call('INCR', KEYS[1])
local rest = redis.call('PTTL', KEYS[1])
if rest < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    rest = tonumber(ARGV[1])
end
return {count, rest}";

/// The uses in the present window, this one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub count: u64,
    /// When the window ends and counting begins anew.
    pub resets_in: Duration,
}

impl Live {
    /// Counts a use of `what` by `who`, of whom Redis keeps a hash only.
    ///
    /// # Errors
    /// Redis is away. A use whose answer got lost may be counted twice.
    pub async fn count_use(&self, what: &str, who: &str, window: Duration) -> Result<Usage, LiveError> {
        let key = self.key("usage", format_args!("{what}:{}", Blake3::of(who.as_bytes())));
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("EVAL");
        command.arg(COUNT).arg(1).arg(key).arg(window_ms);
        let (count, rest): (u64, u64) = self.command(command).await?;
        Ok(Usage { count, resets_in: Duration::from_millis(rest) })
    }
}
