//! What an instance is told at its start: by arguments, or by the environment variable named beside each.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::BitsPerSecond;
use protocol::units::Currency;
use protocol::ws::IceServer;

use crate::prefix::Prefix;
use crate::regions::Regions;
use crate::secrets::KEY_FILE;

/// Settings of one instance. All instances of a service share everything but `listen` and `public_url`.
#[derive(Clone, clap::Args)]
pub struct Config {
    /// Address and port to serve HTTP on; port 0 takes a free one.
    #[arg(long, env = "SPILLWAY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// The Postgres database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// The Redis instance.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: String,

    /// What the names of all keys in Redis begin with: services that share one Redis need different ones.
    #[arg(long, env = "SPILLWAY_REDIS_NAMESPACE", default_value = "spillway")]
    pub redis_namespace: String,

    /// Folder for chunks and manifests; shared by all instances.
    #[arg(long, env = "SPILLWAY_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Whether an upload's chunks reach the disk before it is acknowledged. Without it a power failure can lose acknowledged chunks.
    #[arg(long, env = "SPILLWAY_SYNC_CHUNKS", default_value_t = true, action = clap::ArgAction::Set)]
    pub sync_chunks: bool,

    /// The address that terminals and browsers use; by default the one listened on.
    #[arg(long, env = "SPILLWAY_PUBLIC_URL")]
    pub public_url: Option<String>,

    /// The one currency of the service.
    #[arg(long, env = "SPILLWAY_CURRENCY", default_value = "EUR")]
    pub currency: Currency,

    /// `iss` of access tokens.
    #[arg(long, env = "SPILLWAY_JWT_ISSUER", default_value = "spillway")]
    pub jwt_issuer: String,

    /// `aud` of access tokens.
    #[arg(long, env = "SPILLWAY_JWT_AUDIENCE", default_value = "spillway-api")]
    pub jwt_audience: String,

    /// Days after which a new key signs access tokens; the one before it stays valid.
    #[arg(long, env = "SPILLWAY_KEY_ROTATION_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=365))]
    pub key_rotation_days: u16,

    /// The uplink of this instance for chunks in Mbit/s; 0 is unlimited. Instances that share one uplink are each given a part of it.
    #[arg(long = "origin-up-mbit", value_name = "MBIT", env = "SPILLWAY_ORIGIN_UP_MBIT", default_value = "0", value_parser = mbit)]
    pub origin_up: BitsPerSecond,

    /// Origins that browsers may open the WebSocket from; the public address is always one.
    #[arg(long = "allowed-origin", env = "SPILLWAY_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// STUN and TURN servers for the terminals: a JSON list of `{"urls": […], "username": …, "credential": …}`.
    #[arg(long, env = "SPILLWAY_ICE_SERVERS", hide_env_values = true, default_value = "[]", value_parser = parse_ice_servers)]
    pub ice_servers: IceServers,

    /// Seconds between two audits of a connected terminal, in the mean: it is asked for the hash of a chunk that it has signed for; 0 is never.
    #[arg(long, value_name = "SECONDS", env = "SPILLWAY_AUDIT_EVERY", default_value_t = 600)]
    pub audit_every: u32,

    /// Logins, and registrations, that one client address may try in a minute; 0 is unlimited.
    #[arg(long, env = "SPILLWAY_LOGIN_LIMIT", default_value_t = 120)]
    pub login_limit: u32,

    /// Whether a proxy stands before this instance: a client's address is then what the proxy put last into `X-Forwarded-For`.
    #[arg(long, env = "SPILLWAY_BEHIND_PROXY", default_value_t = false, action = clap::ArgAction::Set)]
    pub behind_proxy: bool,

    /// Where network addresses stand: a JSON list of `{"prefix": "192.0.2.0/24", "region": 1}`. Terminals of one region are put together.
    #[arg(long, env = "SPILLWAY_REGIONS", default_value = "[]")]
    pub regions: Regions,

    /// Hosts that webhooks may be called at by plain HTTP, on any port; all others by HTTPS only.
    #[arg(long = "webhook-http-host", value_name = "HOST", env = "SPILLWAY_WEBHOOK_HTTP_HOSTS", value_delimiter = ',')]
    pub webhook_http_hosts: Vec<String>,

    /// Networks that webhooks may lead into although they are not the Internet, such as 10.1.0.0/16; for tests and private installations.
    #[arg(long = "webhook-allow-network", value_name = "CIDR", env = "SPILLWAY_WEBHOOK_ALLOW_NETWORKS", value_delimiter = ',')]
    pub webhook_allow_networks: Vec<Prefix>,

    /// Seconds that a webhook may take to answer.
    #[arg(long, value_name = "SECONDS", env = "SPILLWAY_WEBHOOK_TIMEOUT", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub webhook_timeout: u16,

    /// The key that wraps what must stay secret in the database; all instances need the same one. The first instance makes it [default: secrets.key in the data folder]
    #[arg(long, value_name = "FILE", env = "SPILLWAY_SECRETS_KEY_FILE")]
    pub secrets_key_file: Option<PathBuf>,

    /// Threads that serve HTTP; by default one per core.
    #[arg(long, env = "SPILLWAY_WORKERS")]
    pub workers: Option<std::num::NonZeroUsize>,
}

/// A list of its own type, so that the argument parser takes it as one value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IceServers(pub Vec<IceServer>);

fn parse_ice_servers(text: &str) -> Result<IceServers, String> {
    serde_json::from_str(text).map(IceServers).map_err(|error| format!("not a JSON list of ICE servers: {error}"))
}

impl Config {
    /// The address that terminals use, without a slash at the end.
    pub fn public_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }

    /// Where the key for secrets is.
    pub fn secrets_key_file(&self) -> PathBuf {
        self.secrets_key_file.clone().unwrap_or_else(|| self.data_dir.join(KEY_FILE))
    }
}

/// The database and Redis addresses carry passwords, so they are left out.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("listen", &self.listen).field("public_url", &self.public_url()).finish_non_exhaustive()
    }
}

/// A rate in Mbit/s, up to a petabit.
fn mbit(text: &str) -> Result<BitsPerSecond, String> {
    match text.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 10^15")]
        Ok(mbit) if (0.0..=1e9).contains(&mbit) => Ok(BitsPerSecond((mbit * 1e6).round() as u64)),
        Ok(_) | Err(_) => Err("expected a number of megabit per second, such as 100 or 2.5".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        config: Config,
    }

    const NEEDED: [&str; 7] =
        ["spillway-server", "--database-url", "postgres://u:secret@h/d", "--redis-url", "redis://h", "--data-dir", "/tmp/d"];

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = Arguments::try_parse_from(NEEDED).unwrap().config;
        assert_eq!(config.public_url(), "http://127.0.0.1:8080");
        assert_eq!((config.currency, config.origin_up), (Currency::EUR, BitsPerSecond(0)));
    }

    #[test]
    fn the_origins_uplink_is_a_decimal_number_of_megabit() {
        let rate = |text| Arguments::try_parse_from(NEEDED.into_iter().chain(["--origin-up-mbit", text])).map(|line| line.config.origin_up);
        assert_eq!(rate("19.4").unwrap(), BitsPerSecond(19_400_000));
        for bad in ["", "-1", "fast", "NaN", "inf", "1e10"] {
            assert!(rate(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_currency_or_a_list_of_servers_that_cannot_be_read_stops_the_start() {
        for bad in [
            ["--currency", "euro"],
            ["--ice-servers", "stun:host"],
            ["--key-rotation-days", "0"],
            ["--webhook-allow-network", "10.0.0.0"],
            ["--webhook-timeout", "0"],
        ] {
            assert!(Arguments::try_parse_from(NEEDED.into_iter().chain(bad)).is_err(), "{bad:?} was accepted");
        }
        let servers = r#"[{"urls":["stun:host:3478"]}]"#;
        let config = Arguments::try_parse_from(NEEDED.into_iter().chain(["--ice-servers", servers])).unwrap().config;
        assert_eq!(config.ice_servers.0[0].urls, ["stun:host:3478"]);
    }

    #[test]
    fn printing_the_settings_shows_no_password() {
        let config = Arguments::try_parse_from(NEEDED).unwrap().config;
        assert!(!format!("{config:?}").contains("secret"));
    }
}
