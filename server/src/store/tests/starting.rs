//! What a start says when the database is not the right one.

use protocol::Currency;

use crate::store::testing::TestDatabase;
use crate::store::{Store, StoreError};

#[tokio::test]
async fn a_database_of_another_history_is_refused_with_what_to_do() {
    let (database, store) = TestDatabase::migrated().await;
    store.close().await;
    for (tamper, version) in [
        ("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 3", 3),
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9001, 'of the future', true, '\\x00', 1)",
            9001,
        ),
    ] {
        let store = database.connect().await.unwrap();
        store.tamper(tamper).await;
        let error = store.migrate().await.unwrap_err();
        assert!(matches!(error, StoreError::OtherHistory(found) if found == version), "{error:?}");
        // Whoever was refused ends, and with it the lock that its connection holds on the migrations.
        store.close().await;
        assert!(error.to_string().contains("start that version, or name an empty database"), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_named_by_its_cause() {
    // Bound, so that no other process gets the port, and not listening.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = bound.local_addr().unwrap();
    let error = Store::connect(&format!("postgres://nobody@{address}/none"), Currency::EUR).await.unwrap_err();
    let StoreError::Db(sqlx::Error::Io(cause)) = &error else { panic!("{error:?}") };
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_wrong_database_name_is_said_at_once() {
    let url = std::env::var("DATABASE_URL").unwrap();
    let (address, _) = url.rsplit_once('/').unwrap();
    let began = std::time::Instant::now();
    let error = Store::connect(&format!("{address}/there_is_no_such_database"), Currency::EUR).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Db(sqlx::Error::Database(cause)) if cause.code().is_some_and(|code| code == "3D000")),
        "{error:?}"
    );
    assert!(began.elapsed().as_secs() < 9, "it was tried again and again");
}
