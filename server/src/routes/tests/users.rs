//! Accounts and roles.

use protocol::ErrorCode::{EmailTaken, Forbidden, InvalidRequest, NotFound, Unauthenticated};
use protocol::rest::{Page, Role, User};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{PASSWORD, Service, answer, pointers, refused};
use crate::admin;

#[tokio::test(flavor = "multi_thread")]
async fn an_address_registers_once_whatever_its_case() {
    let service = Service::start().await;
    let register = |email: &str| service.request(Method::POST, "/v1/users").json(&json!({"email": email, "password": PASSWORD}));
    let user: User = answer(register("Anna@Example.org"), StatusCode::CREATED).await;
    assert_eq!((user.email.as_str(), user.role), ("anna@example.org", Role::User));
    for again in ["anna@example.org", " ANNA@EXAMPLE.ORG "] {
        refused(register(again), EmailTaken).await;
    }
    assert_eq!(pointers(&refused(register("anna"), InvalidRequest).await), ["/email"]);
    let short = service.request(Method::POST, "/v1/users").json(&json!({"email": "b@example.org", "password": "short"}));
    assert_eq!(pointers(&refused(short, InvalidRequest).await), ["/password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_see_users_and_give_roles() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let publisher = service.account("paul", Role::Publisher).await;
    let user = service.account("anna", Role::User).await;
    let role_path = format!("/v1/users/{}/role", user.user.id);
    for account in [&publisher, &user] {
        refused(service.get(account, "/v1/users"), Forbidden).await;
        refused(service.put(account, &role_path, &json!({"role": "operator"})), Forbidden).await;
    }
    let all: Page<User> = answer(service.get(&operator, "/v1/users"), StatusCode::OK).await;
    assert_eq!(
        all.items.iter().map(|user| user.email.as_str()).collect::<Vec<_>>(),
        ["olga@example.org", "paul@example.org", "anna@example.org"]
    );
    let one: Page<User> = answer(service.get(&operator, "/v1/users?email=ANNA%40example.org"), StatusCode::OK).await;
    assert_eq!(one.items, [user.user]);
    let none: Page<User> = answer(service.get(&operator, "/v1/users?email=%00"), StatusCode::OK).await;
    assert!(none.items.is_empty());
    let nobody = format!("/v1/users/{}/role", uuid::Uuid::nil());
    refused(service.put(&operator, &nobody, &json!({"role": "user"})), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_counts_at_once_when_given_and_when_taken() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let user = service.account("anna", Role::User).await;
    let give = |role: &str| service.put(&operator, &format!("/v1/users/{}/role", user.user.id), &json!({"role": role}));
    let make = || service.post(&user, "/v1/contents", &json!({"title": "A film"}));
    refused(make(), Forbidden).await;
    let changed: User = answer(give("publisher"), StatusCode::OK).await;
    assert_eq!(changed.role, Role::Publisher);
    assert_eq!(make().send().await.unwrap().status(), StatusCode::CREATED);
    let _: User = answer(give("user"), StatusCode::OK).await;
    refused(make(), Forbidden).await;
    assert_eq!(pointers(&refused(give("god"), InvalidRequest).await), ["/role"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_page_by_page_without_a_gap_or_a_repeat() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    for name in ["a", "b", "c", "d"] {
        service.account(name, Role::User).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: Page<User> = answer(service.get(&operator, &format!("/v1/users?limit=2{cursor}")), StatusCode::OK).await;
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|user| user.email));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["olga", "a", "b", "c", "d"].map(|name| format!("{name}@example.org")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_user_who_is_gone_opens_nothing_that_needs_a_role() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    service.state.store.tamper("DELETE FROM users").await;
    refused(service.get(&operator, "/v1/users"), Unauthenticated).await;
    refused(service.get(&operator, "/v1/users/me"), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_operator_is_made_on_the_database() {
    use protocol::Currency;
    use protocol::rest::Password;
    let service = Service::start().await;
    let url = service.state.config.database_url.clone();
    let make = |email: &'static str, password: Option<&str>| {
        let (url, password) = (url.clone(), password.map(|password| Password(password.to_owned())));
        async move { admin::create_operator(&url, Currency::EUR, email, password).await }
    };
    let operator = make("Olga@example.org", Some(PASSWORD)).await.unwrap();
    assert_eq!((operator.email.as_str(), operator.role), ("olga@example.org", Role::Operator));
    assert_eq!(service.log_in("olga@example.org", PASSWORD).await.status(), StatusCode::CREATED);

    let anna = service.account("anna", Role::User).await.user;
    let promoted = make("anna@example.org", Some("not taken over")).await.unwrap();
    assert_eq!((promoted.id, promoted.role), (anna.id, Role::Operator));
    assert_eq!(service.log_in("anna@example.org", PASSWORD).await.status(), StatusCode::CREATED, "the password stays");

    assert!(matches!(make("new@example.org", None).await, Err(admin::AdminError::PasswordNeeded)));
    assert!(matches!(make("new@example.org", Some("short")).await, Err(admin::AdminError::Refused(_))));
    assert!(matches!(make("no address", Some(PASSWORD)).await, Err(admin::AdminError::Refused(_))));
}
