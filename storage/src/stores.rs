//! Opens a store by its URL.

use crate::limits::{
    OBJECT_CONNECT_TIMEOUT, OBJECT_REQUEST_TIMEOUT, OBJECT_RETRIES_MAX, OBJECT_RETRY_TIMEOUT,
};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig, StaticCredentialProvider};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

const FORMS: &str = "expected file:///directory or s3://bucket/prefix";

/// Settings of an S3 server. What is absent comes from the usual environment (`AWS_ENDPOINT`,
/// `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ALLOW_HTTP` and the rest, or the
/// machine's role).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// URL of the server, when it is not Amazon's own.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Name of the key to sign with.
    pub access_key_id: Option<String>,
    /// The key to sign with.
    pub secret_access_key: Option<String>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, access_key_id, secret_access_key, allow_http } = self;
        f.debug_struct("S3Options")
            .field("endpoint", endpoint)
            .field("region", region)
            .field("access_key_id", access_key_id)
            .field("secret_access_key", &secret_access_key.as_ref().map(|_| "(not shown)"))
            .field("allow_http", allow_http)
            .finish()
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is none of a store.
    #[error("object store {url:?} cannot be used: {problem}; {FORMS}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The directory cannot be made.
    #[error("object store {url}: cannot create {}: {source}; check the path and its permissions", .path.display())]
    Directory {
        /// The URL.
        url: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server's address is plain HTTP, which was not allowed.
    #[error("object store {url}: endpoint {endpoint} is not encrypted: use https, or set allow_http")]
    Plaintext {
        /// The URL.
        url: String,
        /// The server's address.
        endpoint: String,
    },
    /// The settings do not make a client.
    #[error("object store {url} cannot be opened: {source}; check its endpoint, region and credentials")]
    Settings {
        /// The URL.
        url: String,
        /// Why.
        source: Box<object_store::Error>,
    },
}

/// Opens the store at `url`, and says below which path its objects lie. Does not speak to it.
pub(crate) fn open(url: &str, s3: &S3Options) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let parsed = Url::parse(url).map_err(|e| unusable(url, &e.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let shown = format!("{}://…", parsed.scheme());
        return Err(unusable(
            &shown,
            "it holds credentials, which belong into the environment or the settings",
        ));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(unusable(url, "it has a query or a fragment"));
    }
    match parsed.scheme() {
        "memory" if matches!(parsed.path(), "" | "/") && parsed.host_str().is_none() => {
            Ok((Arc::new(InMemory::new()), Path::default()))
        }
        "memory" => Err(unusable(url, "a store in memory has no path")),
        "file" => open_directory(url, &parsed),
        "s3" => open_bucket(url, &parsed, s3, AmazonS3Builder::from_env()),
        other => Err(unusable(url, &format!("there is no store of kind {other:?}"))),
    }
}

fn open_directory(url: &str, parsed: &Url) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let path = parsed.to_file_path().map_err(|()| unusable(url, "it names no directory of this machine"))?;
    if path.parent().is_none() {
        return Err(unusable(url, "the root directory is no place for objects"));
    }
    std::fs::create_dir_all(&path).map_err(|source| StoreError::Directory {
        url: url.to_owned(),
        path: path.clone(),
        source,
    })?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| settings(url, e))?.with_fsync(true);
    Ok((Arc::new(store), Path::default()))
}

/// `builder` holds what the environment says.
fn open_bucket(
    url: &str,
    parsed: &Url,
    s3: &S3Options,
    mut builder: AmazonS3Builder,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let bucket = parsed.host_str().filter(|host| !host.is_empty());
    let bucket = bucket.ok_or_else(|| unusable(url, "it names no bucket"))?;
    if parsed.port().is_some() {
        return Err(unusable(url, "it has a port: the server's address is a setting, the endpoint"));
    }
    let prefix = Path::from_url_path(parsed.path()).map_err(|e| unusable(url, &e.to_string()))?;
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: OBJECT_RETRIES_MAX,
        retry_timeout: OBJECT_RETRY_TIMEOUT,
    };
    // Parts are deleted one by one, and not every server has the bulk form.
    builder = builder.with_bucket_name(bucket).with_retry(retry).with_disable_bulk_delete(true);
    for (key, span) in [
        (ClientConfigKey::Timeout, OBJECT_REQUEST_TIMEOUT),
        (ClientConfigKey::ConnectTimeout, OBJECT_CONNECT_TIMEOUT),
    ] {
        let seconds = format!("{} seconds", span.as_secs());
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), seconds);
    }
    builder = with_settings(builder, s3);
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let http_allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    if let Some(endpoint) = endpoint
        && endpoint.starts_with("http://")
        && http_allowed.as_deref() != Some("true")
    {
        return Err(StoreError::Plaintext { url: url.to_owned(), endpoint });
    }
    let store = builder.build().map_err(|e| settings(url, e))?;
    Ok((Arc::new(store), prefix))
}

/// Puts the settings over what the environment says.
fn with_settings(mut builder: AmazonS3Builder, s3: &S3Options) -> AmazonS3Builder {
    for (key, value) in [
        // The form of the environment's that has precedence over the other.
        (AmazonS3ConfigKey::S3Endpoint, &s3.endpoint),
        (AmazonS3ConfigKey::Region, &s3.region),
        (AmazonS3ConfigKey::AccessKeyId, &s3.access_key_id),
        (AmazonS3ConfigKey::SecretAccessKey, &s3.secret_access_key),
    ] {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    if let (Some(key_id), Some(secret_key)) = (&s3.access_key_id, &s3.secret_access_key) {
        let (key_id, secret_key) = (key_id.clone(), secret_key.clone());
        // A session token that the environment holds belongs to another key.
        let key = StaticCredentialProvider::new(AwsCredential { key_id, secret_key, token: None });
        builder = builder.with_credentials(Arc::new(key));
    }
    if s3.allow_http {
        builder = builder.with_allow_http(true);
    }
    builder
}

fn unusable(url: &str, problem: &str) -> StoreError {
    StoreError::Url { url: url.to_owned(), problem: problem.to_owned() }
}

fn settings(url: &str, source: object_store::Error) -> StoreError {
    StoreError::Settings { url: url.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_no_store_are_refused_with_a_reason() {
        for (url, reason) in [
            ("", "relative URL"),
            ("/tmp/objects", "relative URL"),
            ("ftp://host/objects", "no store of kind"),
            ("memory:objects", "no path"),
            ("file:///", "root directory"),
            ("file://elsewhere/objects", "no directory of this machine"),
            ("s3:///prefix", "no bucket"),
            ("s3://bucket:9000/prefix", "endpoint"),
            ("s3://bucket/prefix?region=x", "query"),
        ] {
            let error = open(url, &S3Options::default()).expect_err(url).to_string();
            assert!(error.contains(reason) && error.contains(url), "{url}: {error}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let error = open("s3://me:hush@bucket/", &S3Options::default()).expect_err("refused").to_string();
        assert!(error.contains("credentials") && !error.contains("hush"), "{error}");
        let options = S3Options { secret_access_key: Some("hush".to_owned()), ..S3Options::default() };
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn a_bucket_is_opened_with_its_prefix() {
        let mut s3 = S3Options {
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some("secret".to_owned()),
            allow_http: true,
        };
        let open = |s3: &S3Options| {
            let url = "s3://bucket/a/b%20c/";
            open_bucket(url, &Url::parse(url).unwrap(), s3, AmazonS3Builder::new())
        };
        assert_eq!(open(&s3).unwrap().1.as_ref(), "a/b c");
        s3.allow_http = false;
        let error = open(&s3).unwrap_err();
        assert!(matches!(error, StoreError::Plaintext { .. }), "{error}");
    }

    #[test]
    fn a_directory_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        open(&format!("file://{}", path.display()), &S3Options::default()).unwrap();
        assert!(path.is_dir());
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let url = format!("file://{}", file.display());
        let error = open(&url, &S3Options::default()).unwrap_err().to_string();
        assert!(error.contains(&url), "{error}");
    }
}
