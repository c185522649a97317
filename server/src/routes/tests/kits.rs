//! Kits, and the chains of their statements.

use protocol::ErrorCode::{Conflict, InvalidRequest, KitForked, NotFound};
use protocol::rest::{Kit, Page, Role, SignedStatement, files_bytes};
use protocol::{AttemptId, Blake3};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Account, Service, answer, refused};

fn new_kit(number: u8) -> Value {
    json!({"id": uuid::Uuid::from_bytes([number; 16]), "files": Blake3([number; 32])})
}

async fn made(service: &Service, owner: &Account, number: u8) -> Kit {
    let terminal = service.terminal(owner, number).await.id;
    answer(service.put(owner, &format!("/v1/terminals/{terminal}/kit"), &new_kit(number)), StatusCode::OK).await
}

fn presents(statement: &SignedStatement, attempt: u8) -> Value {
    json!({"sequence": statement.statement.sequence, "hash": statement.statement.hash(), "attempt": AttemptId::from_bytes([attempt; 16])})
}

fn path(kit: &Kit) -> String {
    format!("/v1/kits/{}/statements", kit.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_a_terminal_becomes_one_kits_and_its_files_are_signed() {
    let service = Service::start().await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let kit = made(&service, &anna, 1).await;
    assert!(kit.public_key.verifies(&files_bytes(kit.id, &Blake3([1; 32])), &kit.files_signature));
    assert!(kit.statement.is_genuine(&kit.public_key));
    assert_eq!((kit.statement.statement.sequence, kit.statement.statement.previous), (1, Blake3([0; 32])));
    let own = format!("/v1/terminals/{}/kit", kit.terminal_id);
    let again: Kit = answer(service.put(&anna, &own, &new_kit(1)), StatusCode::OK).await;
    assert_eq!(again, kit, "who has not heard the answer asks again");
    let mut other_files = new_kit(1);
    other_files["files"] = json!(Blake3([9; 32]));
    for other in [new_kit(2), other_files] {
        refused(service.put(&anna, &own, &other), Conflict).await;
    }
    refused(service.put(&bert, &own, &new_kit(2)), NotFound).await;
    let berts = service.terminal(&bert, 3).await.id;
    refused(service.put(&bert, &format!("/v1/terminals/{berts}/kit"), &new_kit(1)), Conflict).await;
    refused(service.put(&anna, &own, &json!({"id": "x", "files": "y"})), InvalidRequest).await;
    let (annas, none): (Page<Kit>, Page<Kit>) =
        (answer(service.get(&anna, "/v1/kits"), StatusCode::OK).await, answer(service.get(&bert, "/v1/kits"), StatusCode::OK).await);
    assert_eq!((annas.items, none.items), (vec![kit], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_statements_follow_each_other_and_the_wallet_and_a_lost_answer_is_given_again() {
    let service = Service::start().await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let kit = made(&service, &anna, 1).await;
    let first = kit.statement.clone();
    let ask = |body: Value| service.post(&anna, &path(&kit), &body);
    let second: SignedStatement = answer(ask(presents(&first, 1)), StatusCode::OK).await;
    let repeated: SignedStatement = answer(ask(presents(&first, 1)), StatusCode::OK).await;
    assert_eq!(repeated, second);
    assert!(second.is_genuine(&kit.public_key));
    assert_eq!((second.statement.sequence, second.statement.previous), (2, first.statement.hash()));
    let third: SignedStatement = answer(ask(presents(&second, 2)), StatusCode::OK).await;
    assert_eq!(third.statement.previous, second.statement.hash());
    refused(service.post(&bert, &path(&kit), &presents(&third, 3)), NotFound).await;
    for bad in [json!({}), json!({"sequence": -1, "hash": Blake3([0; 32]), "attempt": uuid::Uuid::nil()})] {
        refused(ask(bad), InvalidRequest).await;
    }
    let listed: Page<Kit> = answer(service.get(&anna, "/v1/kits"), StatusCode::OK).await;
    assert_eq!((&listed.items[0].statement, listed.items[0].forked_at), (&third, None), "nothing of that was held against it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_a_copy_is_found_out_and_whoever_asks_then_is_refused() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    for (number, copy) in [(1, 0), (2, 1), (3, 2)] {
        let kit = made(&service, &anna, number).await;
        let other = made(&service, &anna, number + 100).await;
        let first = kit.statement.clone();
        let second: SignedStatement = answer(service.post(&anna, &path(&kit), &presents(&first, 1)), StatusCode::OK).await;
        let mut invented = second.clone();
        invented.statement.available.amount.0 += 1;
        // A copy that asks for itself, one that was put back behind the last attempt, and one that makes its own.
        let presented = [presents(&first, 2), presents(&other.statement, 1), presents(&invented, 2)];
        refused(service.post(&anna, &path(&kit), &presented[copy]), KitForked).await;
        refused(service.post(&anna, &path(&kit), &presents(&second, 3)), KitForked).await;
        answer::<SignedStatement>(service.post(&anna, &path(&other), &presents(&other.statement, 1)), StatusCode::OK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_of_two_that_ask_at_once_one_gets_the_next_statement() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let kit = made(&service, &anna, 1).await;
    let asked = (0..8u8).map(|attempt| service.post(&anna, &path(&kit), &presents(&kit.statement, attempt)).send());
    let statuses: Vec<u16> =
        futures_util::future::join_all(asked).await.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
}
