//! `orchd run` as a child process, with a configuration and a state folder of its own.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::within;

/// How long the program may take to stop when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The pause between two attempts to see what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Where the node finds its broker.
#[derive(Clone, Debug)]
pub enum Via {
    /// Plain TCP on this machine: a broker's plain listener, or a [`super::Link`].
    Plain(SocketAddr),
    /// TLS, with the certificate to trust.
    Tls(SocketAddr, PathBuf),
}

/// How it is to be set up.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The node's name.
    pub name: String,
    /// The broker.
    pub via: Via,
    /// `--set` flags: `limits.max_payload_bytes=1024`.
    pub set: Vec<String>,
    /// Further sections of its configuration; `node`, `broker` and `observe` are taken.
    pub extra: String,
    /// A program and its arguments that starts the daemon in its own place: the command line follows them.
    pub through: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// A whole configuration, in place of what the above would make.
    pub toml: Option<String>,
}

impl DaemonOptions {
    /// A node of this name with all defaults, but quick to connect again.
    pub fn new(name: &str, via: Via) -> Self {
        Self {
            name: name.to_owned(),
            via,
            set: Vec::new(),
            extra: String::new(),
            through: Vec::new(),
            environment: Vec::new(),
            toml: None,
        }
    }

    /// With one more `--set` flag.
    pub fn set(mut self, assignment: &str) -> Self {
        self.set.push(assignment.to_owned());
        self
    }
}

/// A running `orchd run`; killed when dropped.
pub struct Daemon {
    child: Option<Child>,
    options: DaemonOptions,
    observe: u16,
    dir: TempDir,
}

impl Daemon {
    /// Starts one and waits until it serves.
    pub async fn start(options: DaemonOptions) -> Self {
        let mut daemon = Self::spawn(options).await;
        daemon.ready().await;
        daemon
    }

    /// Starts one and waits until it answers on its metrics address, with or without a broker.
    pub async fn spawn(options: DaemonOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Self { child: None, options, observe: 0, dir };
        // Another process may take the port between our finding it free and the daemon's binding it.
        for _ in 0..5 {
            daemon.observe = free_port();
            if daemon.try_start().await {
                return daemon;
            }
            assert!(daemon.log().contains("observe.listen"), "orchd does not start: {}", daemon.log());
        }
        panic!("orchd does not start: {}", daemon.log());
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The topic of a command for this node.
    pub fn topic(&self, command: &str) -> String {
        format!("orch/{}/{command}", self.options.name)
    }

    /// Where it serves metrics and health.
    pub fn observe(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.observe).into()
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.state_dir().join("control.sock")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("orchd.toml")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it does not run").id()
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until it serves: connected, subscribed, its birth published.
    pub async fn ready(&mut self) {
        self.until("it is ready", |daemon| {
            daemon.http("/health/ready").is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Waits until `condition` holds; it must not end meanwhile.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                if let Some(status) = self.ended() {
                    panic!("orchd ended ({status}) before {what}: {}", self.log());
                }
                sleep(PAUSE).await;
            }
        };
        if timeout(super::LIMIT, waiting).await.is_err() {
            panic!("waited in vain until {what}: {}", self.log());
        }
    }

    /// Waits until the figure `series` has a value that `condition` accepts, and returns it.
    pub async fn until_metric(&mut self, series: &str, condition: impl Fn(f64) -> bool) -> f64 {
        self.until(&format!("{series} is as expected"), |daemon| condition(daemon.metric(series))).await;
        self.metric(series)
    }

    /// The figure `series`, such as `orchd_messages_refused_total{code="invalid"}`; 0 where there is none yet.
    pub fn metric(&self, series: &str) -> f64 {
        self.metrics()
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
            .unwrap_or_default()
    }

    /// All figures, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.http("/metrics").map(|(_, body)| body).unwrap_or_default()
    }

    /// Status and body of a GET on its metrics address; `None` while it cannot be reached.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.observe(), super::LIMIT).ok()?;
        stream.set_read_timeout(Some(super::LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Resident memory of the process, in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().expect("it does not run")), signal).unwrap();
    }

    /// Has it read its configuration again, and waits until its log says `outcome`.
    pub async fn reload(&mut self, outcome: &str) {
        let said = |daemon: &Self| daemon.log().matches(outcome).count();
        let before = said(self);
        self.signal(Signal::HUP);
        self.until("it has reloaded", |daemon| said(daemon) > before).await;
    }

    /// Ends it as an operator would (SIGTERM); it has to stop in time and with exit code 0.
    pub async fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = timeout(STOP_LIMIT, self.exit()).await;
        let status = status.unwrap_or_else(|_| panic!("orchd did not stop in time: {}", self.log()));
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Waits until it ends by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return status;
            }
            sleep(PAUSE).await;
        }
    }

    /// Ends it as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the same state after [`Daemon::kill`] or [`Daemon::terminate`], and waits until it serves.
    pub async fn start_again(&mut self) {
        self.spawn_again().await;
        self.ready().await;
    }

    /// Starts it again and returns whether it came up, or ended by then.
    pub async fn comes_up_again(&mut self) -> bool {
        assert!(self.child.is_none(), "end it first");
        self.try_start().await
    }

    /// As [`Daemon::start_again`], but does not wait for the broker.
    pub async fn spawn_again(&mut self) {
        assert!(self.child.is_none(), "end it first");
        assert!(self.try_start().await, "orchd does not start again: {}", self.log());
    }

    /// Stops it cleanly and starts it again.
    pub async fn restart(&mut self) {
        self.terminate().await;
        self.start_again().await;
    }

    /// Its options, for what is to change at the next start.
    pub fn options(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// The ledger's database; to be opened when the daemon has stopped.
    pub fn ledger(&self) -> rusqlite::Connection {
        let path = self.state_dir().join("current").join("ledger.db");
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("it does not run").try_wait().unwrap()
    }

    /// Whether it came up: it answers on its metrics address.
    async fn try_start(&mut self) -> bool {
        let toml = self.options.toml.clone().unwrap_or_else(|| self.toml());
        std::fs::write(self.config(), toml).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.unwrap();
        let mut words = self.options.through.clone();
        words.push(env!("CARGO_BIN_EXE_orchd").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("run").arg("--config").arg(self.config());
        for assignment in &self.options.set {
            command.arg("--set").arg(assignment);
        }
        // What the machine has set for a node of its own is not for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ORCHD_") {
                command.env_remove(name);
            }
        }
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "JOURNAL_STREAM"] {
            command.env_remove(name);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.child = Some(child.unwrap());
        within(async {
            loop {
                if self.ended().is_some() {
                    self.child = None;
                    return false;
                }
                if self.http("/health/live").is_some() {
                    return true;
                }
                sleep(PAUSE).await;
            }
        })
        .await
    }

    fn toml(&self) -> String {
        let mut text = String::new();
        let state = self.state_dir();
        writeln!(text, "[node]\nname = {:?}\nstate_dir = {:?}", self.options.name, state).unwrap();
        match &self.options.via {
            Via::Plain(addr) => writeln!(text, "[broker]\nurl = \"mqtt://{addr}\"").unwrap(),
            Via::Tls(addr, ca) => {
                writeln!(text, "[broker]\nurl = \"mqtts://{addr}\"\nca_file = {ca:?}").unwrap();
            }
        }
        text.push_str("reconnect_min_ms = 20\nreconnect_max_s = 1\n");
        writeln!(text, "[observe]\nlisten = \"127.0.0.1:{}\"", self.observe).unwrap();
        // Most tests are not about the gate.
        if !self.options.extra.contains("[auth]") {
            text.push_str("[auth]\nmode = \"open\"\n");
        }
        text.push_str(&self.options.extra);
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
