//! Applying in advance: what is held, changed, withdrawn, awarded.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::rest::{Application, ApplicationState, Page, ReleaseState};
use serde_json::json;
use tests::person::money;
use tests::{Plan, Stack, eventually, payload};

fn far() -> Plan {
    Plan { closes_in_ms: 600_000, starts_in_ms: 700_000, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_applications_of_a_wallet_that_can_pay_for_ten_hold_exactly_ten() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("x", payload("fifty", 100)).await;
    let release = publisher.schedule(&[&published], &far()).await;
    let user = stack.rich_user(&operator, 10_000).await;
    let mut terminals = Vec::new();
    for index in 0..50 {
        terminals.push(user.terminal(&format!("t{index}")).await.0);
    }
    let tasks: Vec<_> = terminals
        .into_iter()
        .map(|terminal| {
            let (user, release) = (user.clone(), release.clone());
            tokio::spawn(async move { user.apply(&release, terminal, 1, 1_000).await })
        })
        .collect();
    let (mut held, mut refused) = (0, 0);
    for task in tasks {
        let answer = task.await.unwrap();
        if answer.status == 201 {
            held += 1;
        } else {
            answer.expect_problem(ErrorCode::InsufficientFunds);
            refused += 1;
        }
    }
    assert_eq!((held, refused), (10, 40));
    assert_eq!(user.wallet().await, (0, 10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_applications_are_taken_in_advance_and_counted_per_edition() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let first = publisher.publish("en", payload("en", 1000)).await;
    let second = publisher.publish_into(&first.content, "fr", payload("fr", 1000)).await;
    let release = publisher.schedule(&[&first, &second], &far()).await;
    let user = stack.rich_user(&operator, 100_000).await;
    for (index, edition) in [&first, &first, &second].into_iter().enumerate() {
        let (terminal_id, _) = user.terminal(&format!("t{index}")).await;
        let body = json!({ "terminal_id": terminal_id, "edition_id": edition.edition.id, "maximum": money(500) });
        let application: Application = user.post(&format!("/v1/releases/{}/applications", release.id), &body).await.expect();
        assert_eq!(application.rank_wanted, 1, "rank 1 if silent");
    }
    let counted = publisher.release(release.id).await;
    let counts: Vec<u32> = counted.editions.iter().map(|edition| edition.applications).collect();
    assert_eq!(counts, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_changed_and_withdrawn_and_its_hold_follows() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("x", payload("change", 100)).await;
    let release = publisher.schedule(&[&published], &far()).await;
    let user = stack.rich_user(&operator, 1_000).await;
    let (terminal_id, _) = user.terminal("t").await;
    let application = user.applied(&release, terminal_id, 1, 600).await;
    assert_eq!(user.wallet().await, (400, 600));
    user.apply(&release, terminal_id, 1, 100).await.expect_problem(ErrorCode::AlreadyApplied);
    let path = format!("/v1/applications/{}", application.id);
    let body = json!({ "edition_id": published.edition.id, "rank": 1, "maximum": money(900) });
    user.put(&path, &body).await.expect_problem(ErrorCode::PreconditionRequired);
    user.put_if_match(&path, "\"99\"", &body).await.expect_problem(ErrorCode::PreconditionFailed);
    let changed: Application = user.put_if_match(&path, "\"1\"", &body).await.expect();
    assert_eq!((changed.maximum.amount.0, changed.version), (900, 2));
    assert_eq!(user.wallet().await, (100, 900));
    let too_much = json!({ "edition_id": published.edition.id, "rank": 1, "maximum": money(1_001) });
    user.put_if_match(&path, "\"2\"", &too_much).await.expect_problem(ErrorCode::InsufficientFunds);
    assert_eq!(user.wallet().await, (100, 900), "a refused change changes nothing");
    user.delete(&path).await.expect_ok();
    assert_eq!(user.wallet().await, (1_000, 0));
    let withdrawn: Application = user.get(&path).await.expect();
    assert_eq!(withdrawn.state, ApplicationState::Withdrawn);
    user.applied(&release, terminal_id, 1, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_closes_losers_get_their_money_back_and_winners_hold_the_price() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("x", payload("close", 100)).await;
    // The worked example of the auction: weights 100/60/25, one place each, maxima 500/400/300/200.
    let plan = Plan {
        ranks: vec![(100, 0, 1), (60, 5, 1), (25, 10, 1)],
        closes_in_ms: 3_000,
        starts_in_ms: 600_000,
        reserve: 0,
        ..Plan::default()
    };
    let mut bidders = Vec::new();
    for index in 0..4 {
        let user = stack.rich_user(&operator, 1_000).await;
        let (terminal_id, _) = user.terminal(&format!("t{index}")).await;
        bidders.push((user, terminal_id));
    }
    let release = publisher.schedule(&[&published], &plan).await;
    let mut applications = Vec::new();
    for ((user, terminal_id), maximum) in bidders.iter().zip([500, 400, 300, 200]) {
        applications.push(user.applied(&release, *terminal_id, 1, maximum).await);
    }
    let closed = eventually("the book closes", Duration::from_secs(20), || async {
        let release = publisher.release(release.id).await;
        (release.state == ReleaseState::Closed).then_some(release)
    })
    .await;
    assert!(closed.book_hash.is_some());
    for (index, price) in [(0, 315), (1, 155), (2, 50)] {
        let (user, _) = &bidders[index];
        let application: Application = user.get(&format!("/v1/applications/{}", applications[index].id)).await.expect();
        let award = application.award.expect("it won");
        assert_eq!((award.rank as usize, award.price.amount.0), (index + 1, price));
        assert_eq!(user.wallet().await, (1_000 - price, price), "the hold shrank to the price");
    }
    let lost: Application = bidders[3].0.get(&format!("/v1/applications/{}", applications[3].id)).await.expect();
    assert_eq!(lost.state, ApplicationState::Lost);
    assert_eq!(bidders[3].0.wallet().await, (1_000, 0));
    bidders[3].0.apply(&release, bidders[3].1, 1, 100).await.expect_problem(ErrorCode::ReleaseClosed);
    publisher.post(&format!("/v1/releases/{}/cancel", release.id), &json!({})).await.expect_ok();
    for (user, _) in &bidders {
        assert_eq!(user.wallet().await, (1_000, 0), "a cancelled release gives every hold back");
    }
    let page: Page<Application> = bidders[0].0.get(&format!("/v1/releases/{}/applications", release.id)).await.expect();
    assert_eq!(page.items.iter().map(|application| application.state).collect::<Vec<_>>(), [ApplicationState::Cancelled]);
}
