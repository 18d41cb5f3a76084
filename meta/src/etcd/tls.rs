//! How a client and an etcd prove to each other who they are by certificates.

use crate::error::MetaError;
use crate::options::MetaOptions;
use etcd_client::{Certificate, Identity, TlsOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;

/// What the options say, every file of it read and looked at.
pub(super) async fn options(options: &MetaOptions) -> Result<TlsOptions, MetaError> {
    let mut tls = TlsOptions::new();
    tls = match &options.ca {
        None => tls.with_native_roots(),
        Some(path) => tls.ca_certificate(Certificate::from_pem(certificates("ca", path).await?)),
    };
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        let (chain, secret) = (certificates("cert", cert).await?, read("key", key).await?);
        let private = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|_| bad("key", key, "it holds no private key in PEM form"))?;
        let certificates = CertificateDer::pem_slice_iter(&chain).flatten().collect();
        CertifiedKey::from_der(certificates, private, &rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| bad("key", key, &format!("it is not a key for {}: {error}", cert.display())))?;
        tls = tls.identity(Identity::from_pem(chain, secret));
    }
    Ok(tls)
}

async fn certificates(option: &'static str, path: &Path) -> Result<Vec<u8>, MetaError> {
    let pem = read(option, path).await?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| bad(option, path, &format!("it is not sound PEM: {error}")))?;
        // Nothing but a parse: whether to trust it is decided in the handshake.
        rustls::RootCertStore::empty()
            .add(certificate)
            .map_err(|error| bad(option, path, &format!("a certificate in it is malformed: {error}")))?;
        count += 1;
    }
    if count == 0 {
        return Err(bad(option, path, "it holds no certificate in PEM form"));
    }
    Ok(pem)
}

async fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, MetaError> {
    tokio::fs::read(path).await.map_err(|error| bad(option, path, &error.to_string()))
}

fn bad(option: &'static str, path: &Path, why: &str) -> MetaError {
    MetaError::BadOption { option, why: format!("{}: {why}", path.display()) }
}
