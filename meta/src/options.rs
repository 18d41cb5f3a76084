//! How a store is reached, besides its URL.

use crate::error::MetaError;
use std::fmt;
use std::path::PathBuf;

/// Whom to trust and who to be at a metadata store. All of it is for etcd: the other stores take
/// no option.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MetaOptions {
    /// `etcds://` only: a PEM file with the certificates of the authorities that etcd's own
    /// certificate may come from. Without it those of the system are trusted.
    pub ca: Option<PathBuf>,
    /// `etcds://` only: a PEM file with the client's certificate and the chain up to its authority.
    /// With a `key` alone.
    pub cert: Option<PathBuf>,
    /// `etcds://` only: a PEM file with the private key of `cert`.
    pub key: Option<PathBuf>,
    /// etcd's user. With a `password` alone.
    pub username: Option<String>,
    /// The user's password. Without TLS it goes over the network in the clear.
    pub password: Option<String>,
}

/// What the scheme of a URL can do with options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takes {
    /// The scheme, for messages.
    pub(crate) scheme: &'static str,
    /// Certificates and keys.
    pub(crate) tls: bool,
    /// User and password.
    pub(crate) user: bool,
}

impl MetaOptions {
    /// Refuses what the scheme has no use for, and halves of pairs.
    pub(crate) fn check(&self, takes: Takes) -> Result<(), MetaError> {
        let tls = [("ca", self.ca.is_some()), ("cert", self.cert.is_some()), ("key", self.key.is_some())];
        let user = [("username", self.username.is_some()), ("password", self.password.is_some())];
        let bad = |option, why| Err(MetaError::BadOption { option, why });
        for (options, taken, by) in
            [(&tls[..], takes.tls, "etcds://"), (&user, takes.user, "etcd:// and etcds://")]
        {
            if let Some((option, _)) = options.iter().find(|(_, given)| *given && !taken) {
                let scheme = takes.scheme;
                return bad(
                    *option,
                    format!("a {scheme} url has no use for it, only {by} has; leave it out"),
                );
            }
        }
        for [(option, given), (other, also)] in [[tls[1], tls[2]], [user[0], user[1]]] {
            let (there, missing) = if given { (option, other) } else { (other, option) };
            if given != also {
                return bad(there, format!("it needs {missing} beside it; give both or neither"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MetaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetaOptions")
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETCDS: Takes = Takes { scheme: "etcds://", tls: true, user: true };
    const ETCD: Takes = Takes { scheme: "etcd://", tls: false, user: true };
    const SQLITE: Takes = Takes { scheme: "sqlite:", tls: false, user: false };

    /// Options with the named ones set.
    fn with(names: &[&str]) -> MetaOptions {
        let path = |name: &str| names.contains(&name).then(|| PathBuf::from("x.pem"));
        let text = |name: &str| names.contains(&name).then(|| "hunter2".to_owned());
        MetaOptions {
            ca: path("ca"),
            cert: path("cert"),
            key: path("key"),
            username: text("username"),
            password: text("password"),
        }
    }

    #[test]
    fn what_belongs_together_is_taken() {
        for (takes, names) in [
            (SQLITE, &[][..]),
            (ETCD, &["username", "password"]),
            (ETCDS, &["ca"]),
            (ETCDS, &["ca", "cert", "key", "username", "password"]),
        ] {
            assert_eq!(with(names).check(takes), Ok(()), "{names:?} with {}", takes.scheme);
        }
    }

    #[test]
    fn useless_options_and_halves_are_refused_by_name() {
        for (takes, names, named) in [
            (ETCD, &["ca"][..], "ca"),
            (ETCD, &["cert", "key"], "cert"),
            (ETCD, &["key", "username", "password"], "key"),
            (SQLITE, &["ca"], "ca"),
            (SQLITE, &["username", "password"], "username"),
            (SQLITE, &["password"], "password"),
            (ETCDS, &["cert"], "cert"),
            (ETCDS, &["key"], "key"),
            (ETCD, &["username"], "username"),
            (ETCDS, &["ca", "password"], "password"),
        ] {
            let refused = with(names).check(takes);
            assert!(
                matches!(&refused, Err(MetaError::BadOption { option, .. }) if *option == named),
                "{names:?} with {}: {refused:?}",
                takes.scheme
            );
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let mut options = with(&["username", "password"]);
        options.username = Some("ann".to_owned());
        let shown = format!("{options:?}");
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
