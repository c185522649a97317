//! Access tokens: what is taken and what is not, and the keys behind them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::ErrorCode::Unauthenticated;
use protocol::rest::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Service, answer, refused};
use crate::auth::keys::Jwks;
use crate::clock;

/// Signs tokens with the service's own newest key, as no outsider could.
struct Forge {
    kid: String,
    key: EncodingKey,
    claims: Value,
}

impl Forge {
    async fn new(service: &Service, sub: &str) -> Self {
        let stored = service.state.store.signing_keys().await.unwrap().remove(0);
        let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&stored.seed).unwrap();
        let now = clock::now().unix_timestamp();
        Self {
            kid: stored.kid,
            key: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()),
            claims: json!({"iss": "spillway", "aud": "spillway-api", "sub": sub, "role": "user", "iat": now, "exp": now + 60,
                "jti": uuid::Uuid::now_v7()}),
        }
    }

    fn header(&self) -> Header {
        Header { typ: Some("at+jwt".to_owned()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }

    /// The good token with one claim changed or taken out.
    fn with(&self, claim: &str, value: Option<Value>) -> String {
        let mut claims = self.claims.clone();
        match value {
            Some(value) => claims[claim] = value,
            None => drop(claims.as_object_mut().unwrap().remove(claim)),
        }
        self.sign(&self.header(), &claims)
    }
}

async fn refuse(service: &Service, what: &str, token: &str) {
    let response = service.request(Method::GET, "/v1/users/me").bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "a token with {what} was taken");
    super::problem(response, Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_complete_token_of_the_right_kind_is_taken() {
    let service = Service::start().await;
    let user = service.account("anna", Role::User).await.user;
    let forge = Forge::new(&service, &user.id.to_string()).await;
    let good = forge.sign(&forge.header(), &forge.claims);
    let me: protocol::rest::User = answer(service.request(Method::GET, "/v1/users/me").bearer_auth(&good), StatusCode::OK).await;
    assert_eq!(me, user);

    let now = clock::now().unix_timestamp();
    refuse(&service, "a past expiry", &forge.with("exp", Some(json!(now - 1)))).await;
    refuse(&service, "a begin in the future", &forge.with("nbf", Some(json!(now + 60)))).await;
    refuse(&service, "another audience", &forge.with("aud", Some(json!("another-api")))).await;
    refuse(&service, "another issuer", &forge.with("iss", Some(json!("https://evil.example")))).await;
    refuse(&service, "an unknown role", &forge.with("role", Some(json!("god")))).await;
    refuse(&service, "a subject that is no id", &forge.with("sub", Some(json!("anna")))).await;
    for claim in ["exp", "aud", "iss", "sub"] {
        refuse(&service, &format!("no {claim}"), &forge.with(claim, None)).await;
    }
    for typ in [None, Some("JWT"), Some("dpop+jwt")] {
        let header = Header { typ: typ.map(str::to_owned), ..forge.header() };
        refuse(&service, &format!("the type {typ:?}"), &forge.sign(&header, &forge.claims)).await;
    }
    for kid in [None, Some("another")] {
        let header = Header { kid: kid.map(str::to_owned), ..forge.header() };
        refuse(&service, &format!("the key {kid:?}"), &forge.sign(&header, &forge.claims)).await;
    }
    let critical = Header { crit: Some(vec!["exp".to_owned()]), ..forge.header() };
    refuse(&service, "a critical extension", &forge.sign(&critical, &forge.claims)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_by_nobody_by_another_key_or_another_algorithm_is_not_taken() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    let forge = Forge::new(&service, &account.user.id.to_string()).await;
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());

    for alg in ["none", "None", "NONE"] {
        let header = encode(&json!({"typ": "at+jwt", "alg": alg, "kid": forge.kid}));
        refuse(&service, alg, &format!("{header}.{}.", encode(&forge.claims))).await;
    }
    // The public key is known to all: it must not work as a shared secret.
    let jwks: Jwks = answer(service.request(Method::GET, "/.well-known/jwks.json"), StatusCode::OK).await;
    let public = BASE64_URL_SAFE_NO_PAD.decode(&jwks.keys[0].x).unwrap();
    let header = Header { alg: Algorithm::HS256, ..forge.header() };
    let confused = jsonwebtoken::encode(&header, &forge.claims, &EncodingKey::from_secret(&public)).unwrap();
    refuse(&service, "the public key as a secret", &confused).await;

    let other = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let other = EncodingKey::from_ed_der(other.to_pkcs8().unwrap().as_ref());
    refuse(&service, "another's signature", &jsonwebtoken::encode(&forge.header(), &forge.claims, &other).unwrap()).await;

    let good = forge.sign(&forge.header(), &forge.claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let mut promoted = forge.claims.clone();
    promoted["role"] = json!("operator");
    refuse(&service, "changed claims", &format!("{header}.{}.{signature}", encode(&promoted))).await;
    refuse(&service, "no signature", &format!("{signed}.")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_bearer_token_is_refused() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    refused(service.request(Method::GET, "/v1/users/me"), Unauthenticated).await;
    for header in ["", "Bearer", "Bearer ", "Bearer a.b.c", "Bearer ...", &format!("Token {}", account.tokens.access_token)] {
        refused(service.request(Method::GET, "/v1/users/me").header("Authorization", header), Unauthenticated).await;
    }
    let refresh = service.request(Method::GET, "/v1/users/me").bearer_auth(&account.tokens.refresh_token);
    refused(refresh, Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_the_newest_key_signs_and_both_are_taken() {
    let service = Service::start().await;
    let first = service.account("anna", Role::User).await;
    let jwks = || answer::<Jwks>(service.request(Method::GET, "/.well-known/jwks.json"), StatusCode::OK);
    let before = jwks().await;
    assert_eq!(before.keys.len(), 1);

    let in_a_month = clock::now() + time::Duration::days(31);
    service.state.keys.rotate(in_a_month).await.unwrap();
    let both = jwks().await;
    assert_eq!(both.keys.len(), 2);
    assert_eq!(both.keys[1], before.keys[0], "the older key comes second");
    let second = service.account("bert", Role::User).await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    assert_eq!(kid(&second.tokens.access_token), both.keys[0].kid);
    for account in [&first, &second] {
        let _: protocol::rest::User = answer(service.get(account, "/v1/users/me"), StatusCode::OK).await;
    }

    service.state.keys.rotate(in_a_month).await.unwrap();
    assert_eq!(jwks().await, both, "a key that is young enough stays");
    service.state.keys.rotate(in_a_month + time::Duration::days(31)).await.unwrap();
    assert_eq!(jwks().await.keys.len(), 2);
    refused(service.get(&first, "/v1/users/me"), Unauthenticated).await;
    let _: protocol::rest::User = answer(service.get(&second, "/v1/users/me"), StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_at_the_same_time_share_one_key() {
    let service = Service::start().await;
    let store = &service.state.store;
    store.tamper("DELETE FROM signing_keys").await;
    let opened = futures_util::future::join_all((0..8).map(|_| crate::auth::Keys::open(store.clone(), 30, clock::now()))).await;
    let sets: Vec<Jwks> = opened.into_iter().map(|keys| keys.unwrap().jwks()).collect();
    assert!(sets.iter().all(|set| *set == sets[0] && set.keys.len() == 1), "{sets:?}");
}
