//! Finds the programs that a local Piculet is made of.

use super::LocalError;
use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Finds `etcd`: `PICULET_ETCD`, else what `make setup` has unpacked, else the `PATH`.
///
/// # Errors
/// When it is in none of them.
pub fn etcd() -> Result<PathBuf, LocalError> {
    find("etcd", "PICULET_ETCD", ".tools/usr/bin/etcd")
}

/// Finds SeaweedFS' `weed`: `PICULET_WEED`, else what `make setup` has unpacked, else the `PATH`.
///
/// # Errors
/// When it is in none of them.
pub fn weed() -> Result<PathBuf, LocalError> {
    find("weed", "PICULET_WEED", ".tools/bin/weed")
}

/// Finds `piculet`: `PICULET_BIN`, else this very program, else where a build puts it, one
/// directory above a test's.
///
/// # Errors
/// When it is in none of them.
pub fn piculet() -> Result<PathBuf, LocalError> {
    let (name, variable) = ("piculet", "PICULET_BIN");
    if let Some(named) = named_in(variable)? {
        return Ok(named);
    }
    let this = env::current_exe().map_err(LocalError::io("find", "this program"))?;
    if this.file_name().is_some_and(|file| file == name) {
        return Ok(this);
    }
    let built = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    built.into_iter().find(|path| is_program(path)).ok_or(LocalError::NoTool { name, variable })
}

fn find(name: &'static str, variable: &'static str, unpacked: &str) -> Result<PathBuf, LocalError> {
    if let Some(named) = named_in(variable)? {
        return Ok(named);
    }
    let roots = [env::current_dir(), env::current_exe()].into_iter().flatten();
    let beside = roots.flat_map(|root| root.ancestors().map(Path::to_path_buf).collect::<Vec<_>>());
    let beside = beside.map(|dir| dir.join(unpacked));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join(name));
    let found = beside.chain(on_path).find(|path| is_program(path));
    let found = found.ok_or(LocalError::NoTool { name, variable })?;
    std::path::absolute(&found).map_err(LocalError::io("find", found.display()))
}

fn named_in(variable: &'static str) -> Result<Option<PathBuf>, LocalError> {
    let Some(named) = env::var_os(variable) else { return Ok(None) };
    let path = PathBuf::from(named);
    if !is_program(&path) {
        return Err(LocalError::BadTool { variable, path });
    }
    std::path::absolute(&path).map(Some).map_err(LocalError::io("find", path.display()))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_remedy() {
        let error = find("no-such-program", "PICULET_NONE", ".tools/none").expect_err("there is none");
        let error = error.to_string();
        for part in ["no-such-program", "PICULET_NONE", "make setup"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn programs_are_found_on_the_path_and_are_executable() {
        let shell = find("sh", "PICULET_NONE", ".tools/none").expect("every machine has a shell");
        assert!(shell.is_absolute() && shell.ends_with("sh"), "{}", shell.display());
        assert!(!is_program(Path::new("/etc/passwd")) && !is_program(Path::new("/")));
    }
}
