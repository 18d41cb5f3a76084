//! etcd with users and passwords.

use super::faults::{change_of, everything, follow_until, insist, key, put, raw};
use super::process::{Etcd, PATIENCE};
use etcd_client::{Permission, PermissionType};
use piculet_meta::{MetaError, MetaOptions, connect};
use piculet_quorum::meta::{Range, Txn, Write};
use std::time::Duration;

/// How long etcd remembers a token that is not used.
const TOKEN_TTL: Duration = Duration::from_secs(1);

fn user(username: &str, password: &str) -> MetaOptions {
    MetaOptions {
        username: Some(username.to_owned()),
        password: Some(password.to_owned()),
        ..MetaOptions::default()
    }
}

/// An etcd where `ann` may do everything under the prefix, and `bob` nothing.
async fn guarded() -> Etcd {
    let seconds = TOKEN_TTL.as_secs().to_string();
    let etcd = Etcd::start_with(false, &["--auth-token-ttl", &seconds, "--bcrypt-cost", "4"]);
    // It serves before it has a leader.
    etcd.connect().await;
    let mut client = raw(&etcd).await.auth_client();
    client.role_add("writer").await.expect("etcd makes users and roles");
    let all = Permission::new(PermissionType::Readwrite, "/tests/meta/").with_prefix();
    client.role_grant_permission("writer", all).await.expect("etcd makes users and roles");
    for (name, role) in [("root", Some("root")), ("ann", Some("writer")), ("bob", None)] {
        client.user_add(name, format!("{name}'s"), None).await.expect("etcd makes users and roles");
        if let Some(role) = role {
            if role == "root" {
                client.role_add(role).await.expect("etcd makes users and roles");
            }
            client.user_grant_role(name, role).await.expect("etcd makes users and roles");
        }
    }
    client.auth_enable().await.expect("etcd makes users and roles");
    etcd
}

async fn denial(etcd: &Etcd, options: &MetaOptions) -> String {
    let store = connect(&etcd.url(), options).await.expect("url and options are fine");
    let read = store.read(&[key("a")], &[]).await.expect_err("etcd refuses");
    let commit = store.commit(&put("a", 1)).await.expect_err("etcd refuses");
    for error in [&read, &commit] {
        assert!(matches!(error, MetaError::Denied(_)), "{error}");
    }
    read.to_string()
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let etcd = guarded().await;
    for (options, advice) in [
        (user("ann", "wrong"), "check the user name and the password"),
        (user("nobody", "ann's"), "check the user name and the password"),
        (user("bob", "bob's"), "needs a role"),
        (MetaOptions::default(), "wants a user name"),
    ] {
        let refused = denial(&etcd, &options).await;
        assert!(refused.contains(advice), "{refused}");
        assert!(!refused.contains("ann's") && !refused.contains("wrong"), "no password is shown: {refused}");
    }
    let grant = connect(&etcd.url(), &user("ann", "wrong")).await.unwrap().grant(TOKEN_TTL).await;
    assert!(matches!(grant, Err(MetaError::Denied(_))), "{grant:?}");
    let refused = denial(&Etcd::start(), &user("ann", "ann's")).await;
    assert!(refused.contains("leave the user name and the password out"), "{refused}");
}

/// Nothing is noticed of a token that has expired, or that a restarted etcd has forgotten.
#[tokio::test]
async fn everything_goes_on_when_a_token_has_expired() {
    let mut etcd = guarded().await;
    let store = etcd.connect_with(&user("ann", "ann's")).await;
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    let leased = Write::PutLeased(key("leased"), record(1), lease.id());
    insist(&*store, &Txn { compares: vec![], writes: vec![leased] }).await;
    let mut watch = store.watch(Range::Incarnations).await.unwrap();
    let at = insist(&*store, &put("a", 1)).await;
    assert_eq!(change_of(&mut watch, "a").await, at.0);

    // etcd looks for old tokens once a second, and nothing tells when it has dropped one. The lease
    // outlives it only if it is renewed without one, or with a new one.
    let lost = tokio::time::timeout(4 * TOKEN_TTL, lease.lost()).await;
    assert!(lost.is_err(), "the lease is renewed all the time");
    let at = store.commit(&put("a", 2)).await.expect("the library gets a new token");
    assert!(matches!(at, piculet_quorum::meta::TxnOutcome::Applied(_)), "{at:?}");
    assert!(everything(&*store).await.records.contains_key(&key("leased")));
    follow_until(&mut watch, "a", 2).await;

    etcd.kill();
    etcd.restart();
    insist(&*store, &put("a", 3)).await;
    follow_until(&mut watch, "a", 3).await;
    assert_eq!(lease.revoke().await, Ok(()));
}

/// The first call logs in: a store can be opened while etcd is away.
#[tokio::test]
async fn a_store_can_be_opened_before_etcd_is_there() {
    let mut etcd = guarded().await;
    etcd.kill();
    let store = connect(&etcd.url(), &user("ann", "ann's")).await.expect("url and options are fine");
    let commit = store.commit(&put("a", 1)).await;
    assert!(matches!(commit, Err(MetaError::Unavailable(_))), "{commit:?}");
    etcd.restart();
    insist(&*store, &put("a", 1)).await;
    let mut watch = tokio::time::timeout(PATIENCE, store.watch(Range::All)).await.unwrap().unwrap();
    follow_until(&mut watch, "a", 1).await;
}

fn record(incarnation: u64) -> piculet_quorum::meta::Record {
    let Some(Write::Put(_, record)) = put("leased", incarnation).writes.pop() else { panic!("it is a put") };
    record
}
