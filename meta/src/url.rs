//! URLs of metadata stores.

use crate::error::MetaError;
use crate::options::Takes;
use std::path::PathBuf;

/// Under which etcd keeps everything, unless the URL says otherwise.
const DEFAULT_PREFIX: &str = "piculet";
/// Longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 128;

/// What a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A store in this process.
    Memory,
    /// A database file.
    Sqlite { path: PathBuf },
    /// An etcd cluster.
    Etcd { endpoints: Vec<String>, prefix: String, tls: bool },
}

impl Target {
    /// Which options there is a use for.
    pub(crate) fn takes(&self) -> Takes {
        match self {
            Self::Memory => Takes { scheme: "memory:", tls: false, user: false },
            Self::Sqlite { .. } => Takes { scheme: "sqlite:", tls: false, user: false },
            Self::Etcd { tls: false, .. } => Takes { scheme: "etcd://", tls: false, user: true },
            Self::Etcd { tls: true, .. } => Takes { scheme: "etcds://", tls: true, user: true },
        }
    }
}

/// Takes a URL apart.
pub(crate) fn parse(url: &str) -> Result<Target, MetaError> {
    let bad = |why: String| MetaError::BadUrl { url: url.to_owned(), why };
    if url == "memory:" {
        return Ok(Target::Memory);
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        return file(path).map(|path| Target::Sqlite { path }).map_err(bad);
    }
    let (tls, rest) = if let Some(rest) = url.strip_prefix("etcd://") {
        (false, rest)
    } else if let Some(rest) = url.strip_prefix("etcds://") {
        (true, rest)
    } else {
        return Err(bad("expected sqlite:PATH, etcd://host:port[,host:port...][/prefix], etcds://... for \
                        the same with TLS, or memory:"
            .to_owned()));
    };
    let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoints =
        hosts.split(',').map(|host| endpoint(host, tls).map_err(&bad)).collect::<Result<Vec<_>, _>>()?;
    let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix };
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if prefix.len() > PREFIX_BYTES_MAX
        || !prefix.chars().all(fine)
        || prefix.split('/').any(|component| component.is_empty())
    {
        return Err(bad(format!(
            "prefix {prefix:?} is not 1 to {PREFIX_BYTES_MAX} characters from A-Z a-z 0-9 . _ / - \
             without an empty component"
        )));
    }
    Ok(Target::Etcd { endpoints, prefix: prefix.to_owned(), tls })
}

/// The database file that follows `sqlite:`.
fn file(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("it names no file; expected sqlite:PATH, for example sqlite:piculet.db".to_owned());
    }
    if path == ":memory:" {
        return Err("several processes share the database, which memory cannot; name a file, or use \
                    memory: for a store of one process alone"
            .to_owned());
    }
    // What other programs mean by two slashes differs: the path would not be where one looks for it.
    if path.starts_with("//") && !path.starts_with("///") {
        return Err(format!("{path:?} could be relative or absolute; write sqlite:PATH or sqlite:/PATH"));
    }
    if path.contains('\0') {
        return Err("a path holds no zero byte".to_owned());
    }
    Ok(PathBuf::from(path))
}

fn endpoint(host: &str, tls: bool) -> Result<String, String> {
    let bad = || format!("{host:?} is not host:port");
    let (name, port) = host.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let fine = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !name.is_empty() && name.chars().all(fine)
        }
    };
    let scheme = if tls { "https" } else { "http" };
    if fine { Ok(format!("{scheme}://{name}:{port}")) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(endpoints: &[&str], prefix: &str) -> Target {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Target::Etcd { endpoints, prefix: prefix.to_owned(), tls: false }
    }

    fn sqlite(path: &str) -> Target {
        Target::Sqlite { path: PathBuf::from(path) }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, target) in [
            ("memory:", Target::Memory),
            ("etcd://a:2379", etcd(&["http://a:2379"], "piculet")),
            ("etcd://a:2379/", etcd(&["http://a:2379"], "piculet")),
            ("etcd://a.b:1,10.0.0.2:2379/x/y", etcd(&["http://a.b:1", "http://10.0.0.2:2379"], "x/y")),
            ("etcd://[::1]:2379/p", etcd(&["http://[::1]:2379"], "p")),
            (
                "etcds://a:2379/p",
                Target::Etcd { endpoints: vec!["https://a:2379".into()], prefix: "p".into(), tls: true },
            ),
            ("sqlite:meta.db", sqlite("meta.db")),
            ("sqlite:./a b/meta?.db", sqlite("./a b/meta?.db")),
            ("sqlite:/var/lib/piculet/meta.db", sqlite("/var/lib/piculet/meta.db")),
            ("sqlite:///var/lib/piculet/meta.db", sqlite("///var/lib/piculet/meta.db")),
        ] {
            assert_eq!(parse(url), Ok(target), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_by_name() {
        for url in [
            "",
            "memory",
            "http://a:2379",
            "sqlite:",
            "sqlite::memory:",
            "sqlite://meta.db",
            "sqlite:a\0b",
            "etcds:/a:2379",
            "etcd://",
            "etcd://a",
            "etcd://a:2379,",
            "etcd://a:70000",
            "etcd://user@a:2379",
            "etcd://[zz]:2379",
            "etcd://a:2379//x",
            "etcd://a:2379/x/",
            "etcd://a:2379/ü",
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains(&format!("{url:?}")), "the message names the url: {error}");
        }
    }
}
