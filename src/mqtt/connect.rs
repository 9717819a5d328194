//! How to reach the broker and log in: from settings to the client library's options. Files are read for every
//! connection, so that renewed certificates and passwords are picked up without a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rumqttc::{
    LastWill, MqttOptions, PersistedAckMode, PersistedSession, SessionStore, SessionStoreError,
    SessionStoreKey, TlsConfiguration, Transport,
};

use super::RECEIVE_MAXIMUM;
use super::gathered::Gathered;
use crate::clock::Timestamp;
use crate::gate::token::{self, Claims, KeyError, Role, SigningKey};
use crate::small_file;
use crate::tls::{self, Identity, TlsError};

/// How to log in.
#[derive(Clone, Debug)]
pub enum Login {
    /// Without credentials; a client certificate may stand in for them.
    None,
    /// User name and password.
    Password {
        /// The user name.
        username: String,
        /// A file with the password; a line end at its end is not part of it.
        password_file: PathBuf,
    },
    /// A JWT as the password, minted here for each connection.
    Jwt {
        /// An Ed25519 private key, PKCS 8 in PEM.
        key_file: PathBuf,
        /// `iss`.
        issuer: String,
        /// `aud`.
        audience: String,
        /// `sub`, and the user name.
        subject: String,
        /// What it stands for.
        role: Role,
        /// How long it is valid.
        ttl: Duration,
    },
    /// A JWT that someone else minted, read from a file.
    Token {
        /// The user name.
        username: String,
        /// The file.
        token_file: PathBuf,
    },
}

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether to speak TLS 1.3. Without it only for loopback, which the configuration checks.
    pub tls: bool,
    /// The CA that signed the broker's certificate; without it, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// MQTT client identifier.
    pub client_id: String,
    /// Keep Alive.
    pub keep_alive: Duration,
    /// Session Expiry Interval; zero for a clean start without a session.
    pub session_expiry: Duration,
    /// Limit for TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// Largest packet in either direction, in bytes.
    pub max_packet_bytes: u32,
    /// Credentials.
    pub login: Login,
}

/// Why a connection could not even be tried. Names files and what to do about them.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key that signs the token.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A password or token file.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn read_secret(path: &Path) -> Result<String, SetupError> {
    let text = small_file::read(path).map_err(|source| SetupError::Read { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl ConnectOptions {
    /// The library's options. Reads files: call it where blocking is allowed.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub(super) fn build(&self, will: Option<LastWill>, now: Timestamp) -> Result<MqttOptions, SetupError> {
        let mut options = MqttOptions::new(self.client_id.clone(), (self.host.clone(), self.port));
        if self.tls {
            let ca = self.ca_file.as_deref().unwrap_or(Path::new(tls::SYSTEM_AUTHORITIES));
            let identity = self.identity.as_ref().map(|(certificate, key)| Identity { certificate, key });
            let config = tls::client_config(ca, identity)?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
        }
        // As long as a broker waits for a client, by MQTT 5, 3.1.2.10.
        let patience = self.keep_alive.mul_f64(1.5);
        options.set_socket_connector(move |broker, _| Gathered::connect(broker, patience));
        options.set_connect_timeout(self.connect_timeout);
        options.set_keep_alive(u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX));
        options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
        options.set_outgoing_inflight_upper_limit(RECEIVE_MAXIMUM);
        options.set_max_packet_size(Some(self.max_packet_bytes));
        options.set_topic_alias_max(Some(0));
        options.set_max_request_batch(16);
        options.set_read_batch_size(16);
        let expiry = u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX);
        options.set_clean_start(expiry == 0);
        options.set_session_expiry_interval((expiry > 0).then_some(expiry));
        if expiry > 0 {
            options.set_ack_mode(rumqttc::AckMode::Manual);
            options.set_session_store(NothingInFlight { expiry });
        }
        if let Some(will) = will {
            options.set_last_will(will);
        }
        match &self.login {
            Login::None => {}
            Login::Password { username, password_file } => {
                options.set_credentials(username.clone(), read_secret(password_file)?);
            }
            Login::Token { username, token_file } => {
                options.set_credentials(username.clone(), read_secret(token_file)?);
            }
            Login::Jwt { key_file, issuer, audience, subject, role, ttl } => {
                let key = SigningKey::from_pem_file(key_file)?;
                let iat = now.millis() / 1_000;
                let claims = Claims {
                    iss: issuer.clone(),
                    aud: audience.clone(),
                    sub: subject.clone(),
                    role: *role,
                    permissions: Vec::new(),
                    iat,
                    exp: iat + ttl.as_secs() as i64,
                };
                options.set_credentials(subject.clone(), token::mint(&key, &claims)?);
            }
        }
        Ok(options)
    }

    /// The same for a connection beside the one that stands: under a name of its own, so that it does not take its place,
    /// and without a session.
    pub(super) fn for_trial(&self) -> Self {
        Self {
            client_id: format!("{}-trial", self.client_id),
            session_expiry: Duration::ZERO,
            ..self.clone()
        }
    }

    /// How long a connection may last before its credentials end; renewed 30 s earlier.
    pub(super) fn renew_after(&self) -> Option<Duration> {
        match &self.login {
            Login::Jwt { ttl, .. } => Some(ttl.saturating_sub(Duration::from_secs(30)).max(*ttl / 2)),
            _ => None,
        }
    }
}

type StoreFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// A session store that always finds a session with nothing in flight: this is a new client each time, and the outbox
/// knows what has to be sent. Without one the library refuses a session that the broker kept.
#[derive(Debug)]
struct NothingInFlight {
    expiry: u32,
}

impl SessionStore for NothingInFlight {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> StoreFuture<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(self.expiry),
            outgoing_inflight_upper_limit: Some(RECEIVE_MAXIMUM),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async move { Ok(Some(session)) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
