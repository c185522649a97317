//! The same release played honestly and with a cheat in it: whatever the cheat says, everybody has the same money in the end.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::receipt::Receipt;
use protocol::rest::{ReleaseState, Wallet};
use protocol::ws::{ChunkNotice, ClientMessage, Progress};
use protocol::{BitsPerSecond, Bytes, TerminalId, TimestampMs};
use reqwest::StatusCode;

use super::Stage;
use super::stage::Script;
use crate::routes::tests::answer;

/// What is done beside the receipts that are true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cheat {
    Nobody,
    /// Machine 2, which relays nothing, tells of a huge uplink, of no overhead, and of bytes that it never sent.
    Boasts,
    /// Machine 0, which relays, adds chunks to what its receiver has signed, and signs more in its receiver's name.
    ClaimsMore,
    /// Machine 0 hands in receipts again and again, backwards, and as if they were for another delivery.
    Replays,
}

/// Chunks that machine 1 has from machine 0; it has the others from the origin.
const RELAYED: [u32; 6] = [0, 1, 2, 3, 4, 5];

fn turned(receipt: &str, change: impl Fn(&mut Receipt)) -> String {
    let mut receipt = Receipt::unpack(&BASE64_STANDARD.decode(receipt).unwrap()).unwrap();
    change(&mut receipt);
    BASE64_STANDARD.encode(receipt.pack())
}

impl Stage {
    async fn boast(&mut self, machine: usize) {
        let swarm_id = self.swarm_id;
        let huge = BitsPerSecond(1 << 40);
        let progress = Progress { relayed: Bytes(1 << 40), up: huge, down: huge, ..Progress::default() };
        let notice = |chunk| ChunkNotice { chunk, received_at: TimestampMs(1), copies_done_at: Some(TimestampMs(1)) };
        let machine = &mut self.machines[machine];
        machine.send(&ClientMessage::Progress { swarm_id, progress }).await;
        machine.send(&ClientMessage::Notices { swarm_id, notices: (0..8).map(notice).collect() }).await;
        machine.settle_down().await;
    }

    /// Hands in receipts as their source; what is refused counts for nothing.
    async fn hand_in(&mut self, machine: usize, receipts: Vec<String>) {
        self.machines[machine].send(&ClientMessage::Receipts { receipts }).await;
        self.machines[machine].settle_down().await;
    }

    /// The release with machine 0 as the relay of everything to 2 and of most to 1; answers the wallets in the end.
    async fn played(cheat: Cheat) -> Vec<(u64, u64)> {
        let mut stage = Self::started(Script { ranks: &[3], ..Script::default() }).await;
        stage.connect(0..3).await;
        let ids: Vec<TerminalId> = stage.machines.iter().map(super::machine::Machine::id).collect();
        let deliveries: Vec<_> = (0..3).map(|machine| stage.delivery(machine)).collect();
        let first = stage.machines[1].sign(deliveries[1], ids[0], &RELAYED[..3]);
        match cheat {
            Cheat::Nobody => {}
            Cheat::Boasts => stage.boast(2).await,
            Cheat::ClaimsMore => {
                let more = |receipt: &mut Receipt| receipt.body.bitmap[0] = 0xFF;
                let own_key = stage.machines[0].key.clone();
                let forged = |receipt: &mut Receipt| {
                    let mut body = receipt.body.clone();
                    body.bitmap[0] = 0xFF;
                    *receipt = body.sign(&own_key);
                };
                let claims = vec![turned(&first[0], more), turned(&first[0], forged)];
                stage.hand_in(0, claims).await;
            }
            Cheat::Replays => {
                let other = |receipt: &mut Receipt| {
                    (receipt.body.delivery_id, receipt.body.receiver) = (deliveries[2], ids[2]);
                };
                let claims = vec![first[0].clone(), turned(&first[0], other), first[0].clone(), first[0].clone()];
                stage.hand_in(0, claims).await;
            }
        }
        stage.machines[0].send_receipts(deliveries[0], TerminalId::ORIGIN, &(0..8).collect::<Vec<_>>()).await;
        let all = stage.machines[1].sign(deliveries[1], ids[0], &RELAYED);
        stage.hand_in(1, all.clone()).await;
        if cheat == Cheat::Replays {
            // The older one after the newer one, and both once more.
            stage.hand_in(0, vec![all[0].clone(), first[0].clone(), all[0].clone()]).await;
        }
        stage.machines[2].send_receipts(deliveries[2], ids[0], &(0..8).collect::<Vec<_>>()).await;
        stage.machines[1].send_receipts(deliveries[1], TerminalId::ORIGIN, &[6, 7]).await;
        for machine in 0..3 {
            stage.machines[machine].settle_down().await;
        }
        assert_eq!(stage.release().await.state, ReleaseState::Settled);
        stage.service.state.store.assert_books_balance().await;
        let mut wallets = Vec::new();
        for account in stage.machines.iter().map(|machine| &machine.account).chain([&stage.publisher]) {
            let wallet: Wallet = answer(stage.service.get(account, "/v1/wallet"), StatusCode::OK).await;
            let earned = wallet.publisher_balance.map_or(0, |balance| u64::try_from(balance.amount).unwrap());
            wallets.push((wallet.available.amount.0, earned));
        }
        wallets
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_boasting_of_uplink_overhead_and_relayed_bytes_claiming_more_than_was_signed_and_replays_bring_no_money() {
    let honest = Stage::played(Cheat::Nobody).await;
    let relay = honest[0].0;
    assert!(relay > honest[1].0 && relay > honest[2].0 && honest[3].1 > 0, "the relay has earned, and so has the publisher: {honest:?}");
    for cheat in [Cheat::Boasts, Cheat::ClaimsMore, Cheat::Replays] {
        assert_eq!(Stage::played(cheat).await, honest, "{cheat:?}");
    }
}
