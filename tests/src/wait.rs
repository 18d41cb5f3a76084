//! Waiting, always with a bound.

use piculet_node::local::await_stop;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// As long as anything that must happen may take. Machines that run tests are slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = bounded(what, probe()).await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        sleep(POLL).await;
    }
}

/// Awaits a future that must complete.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// Sends a signal to a child of this process that has not been reaped. After SIGSTOP it returns
/// when all of the child's threads stand still.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: u32, number: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a process id is a pid_t");
    // SAFETY: no memory is involved. The caller's child has not been reaped, so the number is its.
    let sent = unsafe { libc::kill(pid, number) };
    assert_eq!(sent, 0, "cannot signal process {pid}: {}", std::io::Error::last_os_error());
    if number == libc::SIGSTOP {
        await_stop(pid).expect("it stops, for it is a child");
    }
}
