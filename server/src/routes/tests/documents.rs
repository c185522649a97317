//! What the service says about itself: the OpenAPI document, health, metrics.

use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::error::Problem;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Service, answer};
use crate::routes::openapi;

#[test]
fn the_committed_document_is_the_generated_one() {
    let committed = include_str!("../../../../openapi/openapi.json");
    let generated = openapi::document_text().unwrap();
    assert!(committed == generated, "openapi/openapi.json is not what the code says; write it anew with `spillway-server openapi`");
}

#[test]
fn every_reference_resolves_and_every_operation_has_a_name_of_its_own() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(target)) => drop(found.insert(target.clone())),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document: Value = serde_json::to_value(openapi::document()).unwrap();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
    }
    let operations = operations(&document);
    let names: BTreeSet<&str> = operations.iter().map(|(_, _, operation)| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.len(), operations.len());
}

fn operations(document: &Value) -> Vec<(Method, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let listed =
        paths.iter().flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation)));
    listed.map(|(path, method, operation)| (method.to_uppercase().parse().unwrap(), path.clone(), operation)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_opens_the_address_is_told_where_to_read_on() {
    let service = Service::start().await;
    let home: Value = answer(service.request(Method::GET, "/"), StatusCode::OK).await;
    for place in ["documentation", "openapi"] {
        let response = service.request(Method::GET, home[place].as_str().unwrap()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_operation_is_routed_and_answers_as_documented_to_a_stranger() {
    let service = Service::start().await;
    let document: Value = answer(service.request(Method::GET, "/openapi.json"), StatusCode::OK).await;
    assert_eq!(document, serde_json::to_value(openapi::document()).unwrap());
    for (method, path, operation) in operations(&document) {
        let nobody = uuid::Uuid::nil().to_string();
        let place = path.replace("{id}", &nobody).replace("{delivery_id}", &nobody);
        let response = service.request(method.clone(), &place).send().await.unwrap();
        let status = response.status();
        let documented = operation["responses"].as_object().unwrap();
        assert!(documented.contains_key(status.as_str()), "{method} {path} answers {status}, which is not documented");
        let open = operation["security"] == serde_json::json!([{}]);
        if !open {
            let problem: Problem = response.json().await.unwrap();
            assert_eq!(problem.code, ErrorCode::Unauthenticated, "{method} {path} is open to strangers");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_can_be_looked_at() {
    let service = Service::start().await;
    let page = service.request(Method::GET, "/docs").send().await.unwrap();
    assert_eq!((page.status(), page.url().path()), (StatusCode::OK, "/docs/"));
    assert!(page.text().await.unwrap().contains("swagger-ui"));
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        let file = service.request(Method::GET, &format!("/docs/{file}")).send().await.unwrap();
        assert_eq!(file.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_ready_while_it_is_not_told_to_stop() {
    let service = Service::start().await;
    for path in ["/health/live", "/health/ready"] {
        let health: Value = answer(service.request(Method::GET, path), StatusCode::OK).await;
        assert_eq!(health["status"], "ok");
    }
    service.stop.send_replace(true);
    super::refused(service.request(Method::GET, "/health/ready"), ErrorCode::Unavailable).await;
    let _: Value = answer(service.request(Method::GET, "/health/live"), StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_an_instance_is_not_ready() {
    let service = Service::start().await;
    service.state.store.close().await;
    let response = service.request(Method::GET, "/health/ready").send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    super::problem(response, ErrorCode::Unavailable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_route_and_never_by_what_a_client_makes_up() {
    let service = Service::start().await;
    let marker = uuid::Uuid::new_v4().to_string();
    service.request(Method::GET, &format!("/v1/terminals/{marker}")).send().await.unwrap();
    service.request(Method::GET, &format!("/nowhere/{marker}")).send().await.unwrap();
    let made_up = format!("M{}", marker.replace('-', ""));
    service.request(Method::from_bytes(made_up.as_bytes()).unwrap(), "/v1/users").send().await.unwrap();
    let text = service.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"spillway_http_requests_total{method="GET",route="/v1/terminals/{id}",status="401"}"#), "{text}");
    assert!(text.contains(r#"route="unmatched",status="404""#));
    assert!(text.contains("spillway_http_request_seconds_bucket{"));
    assert!(!text.contains(&marker) && !text.contains(&made_up));
}
