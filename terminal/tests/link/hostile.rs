//! An other end that is not this program: it drives the library by itself and does not keep to the rules.

use std::sync::Arc;

use bytes::BytesMut;
use terminal::link::{CloseReason, Link, LinkError, MAX_MESSAGE_BYTES};
use tokio::sync::watch;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState, RTCSessionDescription, SettingEngineBuilder,
};

use crate::pair::{SOON, endpoint, soon, within};

struct Gathered(watch::Sender<bool>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.0.send_replace(state == RTCIceGatheringState::Complete);
    }
}

struct Stranger {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
}

impl Stranger {
    /// Waits until the channel has ended at the stranger's end.
    async fn is_told(&self) {
        while let Some(event) = self.channel.poll().await {
            if matches!(event, DataChannelEvent::OnClose) {
                break;
            }
        }
    }
}

/// A stranger that offers a channel of its choice, and our end's answer to it.
async fn meet(label: &str, options: RTCDataChannelInit) -> (Stranger, Result<Link, LinkError>) {
    let (gathered_sender, mut gathered) = watch::channel(false);
    let settings = SettingEngineBuilder::new()
        .with_include_loopback_candidate(true)
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        .with_sctp_max_message_size(rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize::Unbounded)
        .build();
    let connection = PeerConnectionBuilder::new()
        .with_setting_engine(settings)
        .with_handler(Arc::new(Gathered(gathered_sender)))
        .with_udp_addrs(vec!["127.0.0.1:0"])
        .with_dedicated_reactor_pool_size(1)
        .build()
        .await
        .expect("a connection");
    let channel = connection.create_data_channel(label, Some(options)).await.expect("a channel");
    let offer = connection.create_offer(None).await.expect("an offer");
    connection.set_local_description(offer).await.expect("set");
    gathered.wait_for(|done| *done).await.expect("gathered");
    let offer = connection.local_description().await.expect("a description").sdp;
    let (pending, answer) = endpoint().accept(&offer).await.expect("an answer");
    connection.set_remote_description(RTCSessionDescription::answer(answer).expect("an answer")).await.expect("set");
    let link = pending.complete(None, soon()).await;
    if link.is_ok() {
        let opened = within(SOON, "the channel", channel.poll()).await;
        assert!(matches!(opened, Some(DataChannelEvent::OnOpen)), "{opened:?}");
    }
    (Stranger { connection: Arc::new(connection), channel }, link)
}

async fn meet_politely() -> (Stranger, Link) {
    let (stranger, link) = meet("spillway", RTCDataChannelInit { ordered: true, ..RTCDataChannelInit::default() }).await;
    (stranger, link.expect("an open link"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_closes_the_link_after_those_before_it() {
    for bytes in [MAX_MESSAGE_BYTES + 1, 200 << 10] {
        let (stranger, mut link) = meet_politely().await;
        stranger.channel.send(BytesMut::from(&b"fine"[..])).await.expect("sent");
        stranger.channel.send(BytesMut::zeroed(bytes)).await.expect("sent");
        assert_eq!(&within(SOON, "a message", link.recv()).await.expect("received")[..], b"fine");
        let refused = within(SOON, "the end", link.recv()).await;
        assert_eq!(refused, Err(LinkError::Closed(CloseReason::Oversize { bytes })));
        assert_eq!(link.send(BytesMut::from(&b"more"[..])).await, Err(LinkError::Closed(CloseReason::Oversize { bytes })));
        within(SOON, "the stranger's end", stranger.is_told()).await;
        stranger.connection.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_closes_the_link() {
    let (stranger, mut link) = meet_politely().await;
    stranger.channel.send_text("hello").await.expect("sent");
    assert_eq!(within(SOON, "the end", link.recv()).await, Err(LinkError::Closed(CloseReason::Violation)));
    stranger.connection.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_channel_closes_the_link() {
    let (stranger, mut link) = meet_politely().await;
    let second = stranger.connection.create_data_channel("more", None).await.expect("a channel");
    assert_eq!(within(SOON, "the end", link.recv()).await, Err(LinkError::Closed(CloseReason::Violation)));
    drop(second);
    stranger.connection.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_of_another_name_or_without_order_is_not_a_link() {
    for (label, ordered) in [("other", true), ("spillway", false)] {
        let (stranger, link) = meet(label, RTCDataChannelInit { ordered, ..RTCDataChannelInit::default() }).await;
        assert_eq!(link.err(), Some(LinkError::Closed(CloseReason::Violation)), "{label}, ordered: {ordered}");
        stranger.connection.close().await.expect("closed");
    }
}
