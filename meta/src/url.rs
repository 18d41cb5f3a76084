//! URLs of metadata stores.

use crate::error::MetaError;

/// Under which etcd keeps everything, unless the URL says otherwise.
const DEFAULT_PREFIX: &str = "piculet";
/// Longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 128;

/// What a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A store in this process.
    Memory,
    /// An etcd cluster.
    Etcd { endpoints: Vec<String>, prefix: String },
}

/// Takes a URL apart.
pub(crate) fn parse(url: &str) -> Result<Target, MetaError> {
    let bad = |why: String| MetaError::BadUrl { url: url.to_owned(), why };
    if url == "memory:" {
        return Ok(Target::Memory);
    }
    let rest =
        url.strip_prefix("etcd://").ok_or_else(|| bad("neither an etcd:// nor a memory: url".to_owned()))?;
    let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoints =
        hosts.split(',').map(|host| endpoint(host).map_err(&bad)).collect::<Result<Vec<_>, _>>()?;
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
    Ok(Target::Etcd { endpoints, prefix: prefix.to_owned() })
}

fn endpoint(host: &str) -> Result<String, String> {
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
    if fine { Ok(format!("http://{name}:{port}")) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(endpoints: &[&str], prefix: &str) -> Target {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        Target::Etcd { endpoints, prefix: prefix.to_owned() }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, target) in [
            ("memory:", Target::Memory),
            ("etcd://a:2379", etcd(&["http://a:2379"], "piculet")),
            ("etcd://a:2379/", etcd(&["http://a:2379"], "piculet")),
            ("etcd://a.b:1,10.0.0.2:2379/x/y", etcd(&["http://a.b:1", "http://10.0.0.2:2379"], "x/y")),
            ("etcd://[::1]:2379/p", etcd(&["http://[::1]:2379"], "p")),
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
