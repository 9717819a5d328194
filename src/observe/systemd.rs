//! What the node tells systemd: ready, reloading, stopping, and that it is still alive.
//!
//! The protocol is sd_notify(3): a datagram of `NAME=value` lines to the socket in `NOTIFY_SOCKET`. The environment is
//! passed in, never read here, so a test can stand in for systemd. Without a socket every call does nothing. A
//! datagram that cannot be sent is logged and otherwise ignored: a node does not fail because its supervisor is deaf.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt::Write, io};

use tokio_util::sync::CancellationToken;

use super::health::Health;

/// The way to the service manager.
#[derive(Debug)]
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    told: Mutex<Told>,
}

/// What it has been told.
#[derive(Debug, Default)]
struct Told {
    is_ready: bool,
    status: String,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` through `env`, as `std::env::var_os` answers them.
    pub fn from_env(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let socket = env("NOTIFY_SOCKET").and_then(|path| {
            open(path.as_bytes())
                .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used"))
                .ok()
        });
        let number = |name| env(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| ours && usec > 0).map(Duration::from_micros);
        Self { socket, watchdog, told: Mutex::default() }
    }

    /// The node serves; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        *self.told() = Told { is_ready: true, status: status.to_owned() };
        self.send(&format!("READY=1\n{}", status_line(status)));
    }

    /// The node reads its configuration anew; [`Systemd::reloaded`] must follow. Carries the time that
    /// `Type=notify-reload` asks for. A node that is not ready yet says nothing: to systemd it is still starting.
    pub fn reloading(&self) {
        if !self.told().is_ready {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\n"));
    }

    /// The configuration has been read: all is as it was before.
    pub fn reloaded(&self) {
        let told = self.told();
        if told.is_ready {
            self.send(&format!("READY=1\n{}", status_line(&told.status)));
        }
    }

    /// The node stops.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\n");
    }

    /// What `systemctl status` shows from now on.
    pub fn status(&self, status: &str) {
        status.clone_into(&mut self.told().status);
        self.send(&status_line(status));
    }

    /// How often [`Systemd::run_watchdog`] looks: half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) recommends. `None`
    /// when the unit has no watchdog.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|limit| limit / 2)
    }

    /// Pings the watchdog while `health` is alive, until `stop`. Once a core task is stalled the pings cease, and systemd
    /// ends and restarts the process.
    pub async fn run_watchdog(&self, health: &Health, stop: &CancellationToken) {
        let Some(interval) = self.watchdog_interval() else { return };
        let mut ticks = tokio::time::interval(interval);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match health.live() {
                Ok(()) => self.send("WATCHDOG=1\n"),
                Err(stalled) => tracing::error!(?stalled, "no watchdog ping: a core task is stalled"),
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.socket else { return };
        // The socket does not block: a full queue of systemd's costs one message, not the runtime's time.
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!(%error, "systemd could not be told");
        }
    }
}

fn open(path: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "expected a path or @name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// A status is one line: a line break in it would be taken for the next variable.
fn status_line(status: &str) -> String {
    let mut line = String::with_capacity(status.len() + 8);
    // Writing to a String does not fail.
    let _ = writeln!(line, "STATUS={}", status.replace(['\n', '\r'], " "));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    struct Manager {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, folder }
        }

        fn connect(&self, watchdog_usec: Option<&'static str>) -> Systemd {
            let path: OsString = self.folder.path().join("notify").into();
            Systemd::from_env(move |name| match name {
                "NOTIFY_SOCKET" => Some(path.clone()),
                "WATCHDOG_USEC" => watchdog_usec.map(Into::into),
                _ => None,
            })
        }

        fn received(&self) -> Option<String> {
            let mut buffer = [0; 512];
            let length = self.socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        }
    }

    #[test]
    fn each_state_reaches_the_manager_as_documented() {
        let manager = Manager::new();
        let systemd = manager.connect(None);
        systemd.ready("serving\nREADY=0");
        assert_eq!(manager.received().unwrap(), "READY=1\nSTATUS=serving READY=0\n");
        systemd.reloading();
        let reloading = manager.received().unwrap();
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(usec.parse::<u64>().unwrap() > 0);
        systemd.status("offline");
        assert_eq!(manager.received().unwrap(), "STATUS=offline\n");
        systemd.stopping();
        assert_eq!(manager.received().unwrap(), "STOPPING=1\nSTATUS=stopping\n");
    }

    #[test]
    fn a_reload_does_not_make_a_node_ready_and_changes_nothing_of_what_was_said() {
        let manager = Manager::new();
        let systemd = manager.connect(None);
        systemd.reloading();
        systemd.reloaded();
        assert_eq!(manager.received(), None);
        systemd.ready("serving");
        systemd.status("serving; not connected to the broker");
        systemd.reloading();
        systemd.reloaded();
        let told: Vec<_> = std::iter::from_fn(|| manager.received()).collect();
        assert!(told.len() == 4 && told[2].starts_with("RELOADING=1\n"), "{told:?}");
        assert_eq!(told[3], "READY=1\nSTATUS=serving; not connected to the broker\n");
    }

    #[test]
    fn without_a_socket_nothing_happens() {
        let systemd = Systemd::from_env(|_| None);
        systemd.ready("serving");
        assert_eq!(systemd.watchdog_interval(), None);
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_not_ours() {
        let path: OsString = Manager::new().folder.path().join("notify").into();
        let systemd = Systemd::from_env(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone()),
            "WATCHDOG_USEC" => Some("2000000".into()),
            _ => Some("1".into()),
        });
        assert_eq!(systemd.watchdog_interval(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_at_half_its_time_and_only_while_alive() {
        let manager = Manager::new();
        let systemd = manager.connect(Some("30000000"));
        assert_eq!(systemd.watchdog_interval(), Some(Duration::from_secs(15)));
        let (health, stop) = (Health::default(), CancellationToken::new());
        let pings_in = async |seconds| {
            let ends = stop.child_token();
            tokio::select! {
                () = systemd.run_watchdog(&health, &ends) => {}
                () = tokio::time::sleep(Duration::from_secs(seconds)) => ends.cancel(),
            }
            std::iter::from_fn(|| manager.received()).filter(|m| m == "WATCHDOG=1\n").count()
        };
        assert_eq!(pings_in(46).await, 4);
        drop(health.pulse("writer"));
        assert_eq!(pings_in(46).await, 0);
    }
}
