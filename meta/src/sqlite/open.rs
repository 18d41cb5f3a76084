//! The database file: what is asked of it, its schema, and its connections.

use super::CALL_TIMEOUT;
use super::fault::Failed;
use super::worker::insist;
use crate::error::MetaError;
use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Marks a file as ours ("Picu"), in sqlite's header.
const APPLICATION: i32 = 0x5069_6375;
/// Version of the schema below.
const SCHEMA_VERSION: i32 = 1;
/// Compiled statements that a connection keeps.
const STATEMENTS_MAX: usize = 32;

/// Keys are spelt as in etcd. `store` has one row. A change without a value is a deletion; there is
/// at least one for every revision that `changes` still goes back to. Times are milliseconds of the
/// wall clock since 1970.
const SCHEMA: &str = "
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL,
        leases_granted INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE records (
        key BLOB PRIMARY KEY,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL,
        lease INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX records_by_lease ON records (lease) WHERE lease IS NOT NULL;
    CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, expires INTEGER NOT NULL) STRICT;
    CREATE INDEX leases_by_expiry ON leases (expires);
    CREATE TABLE changes (
        revision INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB,
        PRIMARY KEY (revision, key)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO store VALUES (1, 1, 0);
";

/// The file that is open. It must stay the one that its path names, or processes would go apart.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    identity: (u64, u64),
}

impl File {
    fn at(path: PathBuf) -> std::io::Result<Self> {
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }

    /// Fails when the file was deleted or replaced.
    pub(super) fn still_there(&self) -> Result<(), Failed> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(Failed::Before(
                "it was replaced while in use; restart every process that has it open".to_owned(),
            )),
            Err(error) => Err(Failed::Before(format!(
                "it was taken away while in use ({error}); put it back, with the files beside it"
            ))),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// By metadata alone: to open and close the file would end the locks that sqlite has on it.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    path.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Opens the database, or makes it.
pub(super) fn open(url: &str, path: &Path) -> Result<(File, [Connection; 3]), MetaError> {
    let bad = |why: String| MetaError::BadUrl { url: url.to_owned(), why };
    let deadline = Instant::now() + CALL_TIMEOUT;
    let path = std::path::absolute(path).map_err(|error| bad(error.to_string()))?;
    let directory = path.parent().unwrap_or(&path);
    if !directory.is_dir() {
        return Err(bad(format!("there is no directory {}; make it first", directory.display())));
    }
    if path.is_dir() {
        return Err(bad(format!("{} is a directory; name a file in it", path.display())));
    }
    let failed = |failed| match failed {
        Failed::Busy(why) => MetaError::Unavailable(format!("sqlite database {}: {why}", path.display())),
        Failed::Before(why) | Failed::Unknown(why) => bad(format!("{}: {why}", path.display())),
        Failed::For(error) => error,
    };
    let mut first = connect(&path).map_err(failed)?;
    insist(&mut first, deadline, prepare).map_err(failed)?;
    let mut others = [connect(&path).map_err(failed)?, connect(&path).map_err(failed)?];
    for other in &mut others {
        insist(other, deadline, settings).map_err(failed)?;
    }
    let file = File::at(path.clone()).map_err(|error| bad(error.to_string()))?;
    let [second, third] = others;
    Ok((file, [first, second, third]))
}

fn connect(path: &Path) -> Result<Connection, Failed> {
    // Without URI, so that every path means the file of that name.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Waiting is done by `insist`, which is fairer than sqlite's growing pauses.
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Otherwise sqlite has fallen back to reading.
    if connection.is_readonly(MAIN_DB)? {
        return Err(Failed::Before(
            "it is read-only; the file and its directory must be writable for the user that runs this"
                .to_owned(),
        ));
    }
    Ok(connection)
}

/// Makes sure that the database is one of ours, or an empty one that becomes one.
fn prepare(connection: &mut Connection) -> Result<(), Failed> {
    // Before anything is changed in it: it may be somebody else's.
    let fresh = is_fresh(connection)?;
    settings(connection)?;
    if fresh {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        if is_fresh(&transaction)? {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Whether there is nothing in the database; fails when there is something that is not ours.
fn is_fresh(connection: &Connection) -> Result<bool, Failed> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION, SCHEMA_VERSION) => Ok(false),
        (APPLICATION, version) => Err(Failed::Before(format!(
            "its schema has version {version}, and this program knows version {SCHEMA_VERSION} alone; \
             use the version of the program that made it"
        ))),
        _ => Err(Failed::Before("it is a database of another program; name another file".to_owned())),
    }
}

fn settings(connection: &mut Connection) -> Result<(), Failed> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failed::Before(format!(
            "its journal mode stays {mode:?}; it must lie on a local file system that can share memory"
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        let error = open("sqlite:x", path).expect_err("it is refused");
        assert!(matches!(error, MetaError::BadUrl { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn files_that_are_no_store_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        assert!(refusal(dir.path()).contains("is a directory"));
        assert!(refusal(&dir.path().join("no/x.db")).contains("there is no directory"));

        let text = "these are the accounts of the last year\n".repeat(200);
        std::fs::write(&path, &text).unwrap();
        assert!(refusal(&path).contains("not a database"), "{}", refusal(&path));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE accounts (n)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(refusal(&path).contains("another program"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn another_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(open("sqlite:x", &path).expect("a new file"));
        drop(open("sqlite:x", &path).expect("an old file"));
        Connection::open(&path).unwrap().pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        let refused = refusal(&path);
        assert!(refused.contains(&format!("version {}", SCHEMA_VERSION + 1)), "{refused}");
    }

    /// With the rights of another user for this thread alone, for root may write to everything.
    #[test]
    fn what_cannot_be_written_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        const NOBODY: u32 = 65_534;
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(open("sqlite:x", &path).expect("a new file"));
        mode(&path, 0o444);
        mode(dir.path(), 0o555);
        // SAFETY: it changes the thread's rights on files and nothing else.
        unsafe { libc::setfsuid(NOBODY) };
        let refusals = [refusal(&path), refusal(&dir.path().join("new.db"))];
        // SAFETY: as above; it fails for who was not root before, and then nothing was changed.
        unsafe { libc::setfsuid(libc::geteuid()) };
        mode(dir.path(), 0o755);
        for refused in refusals {
            assert!(refused.contains("writable"), "{refused}");
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let (file, connections) = open("sqlite:x", &path).expect("a new file");
        assert_eq!(file.still_there(), Ok(()));
        let aside = dir.path().join("aside.db");
        std::fs::rename(&path, &aside).unwrap();
        let gone = file.still_there().expect_err("it is not there");
        assert!(matches!(&gone, Failed::Before(why) if why.contains("taken away")), "{gone:?}");
        std::fs::write(&path, "").unwrap();
        let other = file.still_there().expect_err("it is another file");
        assert!(matches!(&other, Failed::Before(why) if why.contains("replaced")), "{other:?}");
        drop(connections);
    }
}
