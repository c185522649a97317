//! Redis is away for some seconds.

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::ws::{ClientMessage, PushMessage, ServerMessage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::app::swarm::tests::Stage;
use crate::app::swarm::tests::stage::Script;
use crate::routes::tests::Service;

/// Stands between the service and Redis, and cuts every connection while it is closed.
pub(crate) struct Gate {
    address: std::net::SocketAddr,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    async fn to(redis: std::net::SocketAddr) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Arc::new(Self { address: listener.local_addr().unwrap(), open: watch::Sender::new(true) });
        let open = gate.open.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut open = open.clone();
                tokio::spawn(async move {
                    if *open.borrow() {
                        let (mut near, mut far) = (near, TcpStream::connect(redis).await.unwrap());
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                            _ = open.wait_for(|open| !*open) => {}
                        }
                    }
                });
            }
        });
        gate
    }
}

/// A gate before the Redis of the tests, and its address.
pub(crate) async fn gated_redis() -> (Arc<Gate>, String) {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL names the Redis that the tests use");
    let host = url.split("://").nth(1).unwrap().split('/').next().unwrap().rsplit('@').next().unwrap().to_owned();
    let host_and_port = if host.contains(':') { host.clone() } else { format!("{host}:6379") };
    let address = tokio::net::lookup_host(&host_and_port).await.unwrap().next().expect("REDIS_URL names no host");
    let gate = Gate::to(address).await;
    let url = url.replacen(&host, &gate.address.to_string(), 1);
    (gate, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_an_outage_and_go_on_where_they_were() {
    let (gate, url) = gated_redis().await;
    let service = Service::start_with(move |config| config.redis_url = url).await;
    let mut stage = Stage::set_on(service, Script { ranks: &[2], spare_budget: 0, ..Script::default() }).await;
    stage.close().await;
    stage.start().await;
    stage.connect(0..2).await;
    assert_eq!(stage.ask(0, 1).await, [0]);
    let swarm_id = stage.swarm_id;

    gate.close();
    // What needs Redis is refused as unavailable after some tries; what does not is answered.
    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
    let answers = stage.machines[0].settle_down().await;
    assert!(matches!(answers[..], [ServerMessage::Error { code: ErrorCode::Unavailable, .. }]), "{answers:?}");
    gate.open();

    // Neither had to connect again, and pushes of either reach the other.
    assert_eq!(stage.ask(0, 2).await, [1, 2]);
    let to = stage.machines[0].id();
    let signal = protocol::ws::Signal::Decline { session: 1 };
    stage.machines[1].send(&ClientMessage::Signal { to, signal }).await;
    stage.machines[0].push(|message| matches!(message, PushMessage::Signal { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shorter_than_the_patience_of_a_command_is_not_even_noticed() {
    let (gate, url) = gated_redis().await;
    let service = Service::start_with(move |config| config.redis_url = url).await;
    let mut stage = Stage::set_on(service, Script { ranks: &[1], ..Script::default() }).await;
    stage.close().await;
    stage.start().await;
    stage.connect(0..1).await;
    gate.close();
    let reopen = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        gate.open();
    };
    let (given, ()) = tokio::join!(stage.ask(0, 2), reopen);
    assert_eq!(given, [0, 1]);
}
