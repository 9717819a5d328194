//! A real Mosquitto as a child process, on ports and in a directory of its own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orchd::broker::certs::TrialAuthority;
use orchd::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{tool, within};

/// How it is to be set up.
#[derive(Clone, Debug, Default)]
pub struct MosquittoOptions {
    /// Keeps sessions, queues and retained messages across a restart.
    pub persistence: bool,
    /// Writes them after every change, so that they survive [`Mosquitto::kill`] too. Implies `persistence`. Mosquitto
    /// acknowledges first and writes then, before it reads again: one more round trip on any connection is a proof.
    pub autosave_on_changes: bool,
    /// Largest packet in bytes; what is larger ends the connection.
    pub max_packet_size: Option<u32>,
    /// The content of an ACL file.
    pub acl: Option<String>,
    /// The TLS listener asks for a certificate of our authority.
    pub require_client_certificate: bool,
    /// Logs no packets, for where time is measured.
    pub quiet: bool,
    /// Further lines for its configuration.
    pub extra: String,
    /// Further lines for its TLS listener.
    pub tls_extra: String,
    /// The TLS listener speaks 1.2 and nothing newer.
    pub tls_1_2_alone: bool,
}

/// A running Mosquitto; killed when dropped.
pub struct Mosquitto {
    program: PathBuf,
    child: Option<Child>,
    plain: u16,
    tls: u16,
    options: MosquittoOptions,
    /// Who issued its certificate.
    pub authority: TrialAuthority,
    dir: TempDir,
}

/// Starts one; `None` when it is not installed (see [`tool`]).
pub async fn mosquitto(options: MosquittoOptions) -> Option<Mosquitto> {
    let program = tool("mosquitto")?;
    let dir = tempfile::tempdir().unwrap();
    let authority = TrialAuthority::open_or_create(&dir.path().join("certs"), Clock::system().now()).unwrap();
    authority.issue_server(&[]).unwrap();
    let mut broker = Mosquitto { program, child: None, plain: 0, tls: 0, options, authority, dir };
    // Another process may take a port between our finding it free and Mosquitto's binding it.
    for _ in 0..5 {
        (broker.plain, broker.tls) = free_ports();
        if broker.try_start().await {
            return Some(broker);
        }
    }
    panic!("mosquitto does not start: {}", broker.log());
}

impl Mosquitto {
    /// The plain listener.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.plain).into()
    }

    /// The TLS 1.3 listener.
    pub fn tls_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.tls).into()
    }

    /// The certificate that its clients have to trust.
    pub fn ca(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// Ends it as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it as an operator would (SIGTERM), and waits for that.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        within(tokio::task::spawn_blocking(move || child.wait())).await.unwrap().unwrap();
    }

    /// Starts it again on the same ports with the same state, after [`Mosquitto::kill`] or [`Mosquitto::stop`].
    pub async fn start(&mut self) {
        assert!(self.child.is_none(), "end it first");
        assert!(self.try_start().await, "mosquitto does not start again: {}", self.log());
    }

    /// Its process; `None` while it is stopped.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether it came up: both ports accept connections.
    async fn try_start(&mut self) -> bool {
        let config = self.dir.path().join("mosquitto.conf");
        std::fs::write(&config, self.config()).unwrap();
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut child = Command::new(&self.program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .env("OPENSSL_CONF", self.openssl_conf())
            .spawn()
            .unwrap();
        let (plain, tls) = (self.addr(), self.tls_addr());
        let up = within(async {
            loop {
                if child.try_wait().unwrap().is_some() {
                    return false;
                }
                if TcpStream::connect(plain).await.is_ok() && TcpStream::connect(tls).await.is_ok() {
                    return true;
                }
                // The pause between two attempts, not what is waited for.
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if up {
            self.child = Some(child);
        }
        up
    }

    /// OpenSSL's own configuration, the only place where a newest version can be set.
    fn openssl_conf(&self) -> PathBuf {
        if !self.options.tls_1_2_alone {
            return "/dev/null".into();
        }
        let path = self.dir.path().join("openssl.cnf");
        let text = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nMaxProtocol = TLSv1.2\n";
        std::fs::write(&path, text).unwrap();
        path
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let options = &self.options;
        // It gives up root by default, and could then not read its files.
        let mut text =
            String::from("user root\nlog_dest stderr\nallow_anonymous true\nset_tcp_nodelay true\n");
        text.push_str(if options.quiet { "log_type error\nlog_type warning\n" } else { "log_type all\n" });
        if options.persistence || options.autosave_on_changes {
            writeln!(text, "persistence true\npersistence_location {dir}/").unwrap();
        }
        if options.autosave_on_changes {
            text.push_str("autosave_on_changes true\nautosave_interval 1\n");
        }
        if let Some(bytes) = options.max_packet_size {
            writeln!(text, "max_packet_size {bytes}").unwrap();
        }
        if let Some(acl) = &options.acl {
            let path = self.dir.path().join("acl");
            std::fs::write(&path, acl).unwrap();
            writeln!(text, "acl_file {}", path.display()).unwrap();
        }
        text.push_str(&options.extra);
        writeln!(
            text,
            "\nlistener {} 127.0.0.1\nlistener {} 127.0.0.1\ncafile {dir}/certs/ca.pem\ncertfile {dir}/certs/server.pem\n\
             keyfile {dir}/certs/server-key.pem\ntls_version {}\nrequire_certificate {}\n{}",
            self.plain,
            self.tls,
            if options.tls_1_2_alone { "tlsv1.2" } else { "tlsv1.3" },
            options.require_client_certificate,
            options.tls_extra
        )
        .unwrap();
        text
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_ports() -> (u16, u16) {
    let bind = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (first, second) = (bind(), bind());
    (first.local_addr().unwrap().port(), second.local_addr().unwrap().port())
}
