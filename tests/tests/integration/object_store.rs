//! The S3 server passes the suite that every object store must pass.

use piculet_quorum::ids::Nonce;
use piculet_storage::{Objects, S3Options, conformance};
use piculet_tests::Services;

#[tokio::test]
async fn the_s3_server_is_what_the_product_needs() {
    let services = Services::shared().await;
    let store = services.s3().store("conformance");
    let access = store.s3.expect("it is on S3");
    let options = S3Options {
        endpoint: Some(access.endpoint),
        region: Some(access.region),
        access_key_id: Some(access.access_key),
        secret_access_key: Some(access.secret_key),
        allow_http: true,
    };
    let objects = Objects::open(&store.url, Nonce(7), &options).expect("it can be opened");
    conformance::check(&objects, true).await;
}
