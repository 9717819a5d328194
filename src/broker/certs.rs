//! Certificates for trials: a private authority in a directory, and what it issues.
//!
//! For the demo, the tests and a first look at one's own machine. The authority's key lies unencrypted beside the
//! certificates, and nothing is ever revoked: a real site has its own authority.
//!
//! Directories are made with mode 0700 and private keys with 0600. A file is complete under its name or absent.
//! Calls block for as long as the disk needs.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use thiserror::Error;
use time::Duration;

use crate::clock::Timestamp;
use crate::tls::Identity;
use crate::wire::topic::is_name;

/// How long the authority is valid, in days.
const AUTHORITY_DAYS: i64 = 3_650;

/// How long what it issues is valid, in days.
const ISSUED_DAYS: i64 = 365;

/// Names that a server certificate always holds.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why certificates could not be made.
#[derive(Debug, Error)]
pub enum CertError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: `read`, `write` or `create`.
        action: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The authority's certificate is there, but its key is not one.
    #[error("{} does not hold the authority's private key: remove the directory to start afresh", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
    },
    /// A name that cannot stand in a certificate or file name.
    #[error("{name:?} is not a host name, an IP address or a plain name")]
    Name {
        /// The name.
        name: String,
    },
    /// Making or signing a certificate failed.
    #[error("the certificate could not be made: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A certificate and its private key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The certificate in PEM.
    pub certificate: PathBuf,
    /// The private key in PEM, mode 0600.
    pub key: PathBuf,
}

impl CertFiles {
    /// As [`crate::tls`] takes it.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        Identity { certificate: &self.certificate, key: &self.key }
    }
}

/// A private certificate authority in a directory, for trials.
pub struct TrialAuthority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    now: Timestamp,
}

impl TrialAuthority {
    /// Opens the authority in `dir`, or makes a new one there, directory included. What it makes is valid from a day
    /// before `now`.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is not what it should be.
    pub fn open_or_create(dir: &Path, now: Timestamp) -> Result<Self, CertError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| CertError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let params = authority_params(now);
        let key_path = dir.join("ca-key.pem");
        // The key is written first: with a certificate there is always its key.
        let key = if dir.join("ca.pem").exists() {
            let pem = fs::read_to_string(&key_path).map_err(|source| CertError::File {
                action: "read",
                path: key_path.clone(),
                source,
            })?;
            KeyPair::from_pem(&pem).map_err(|_| CertError::Key { path: key_path })?
        } else {
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            write(&key_path, 0o600, &key.serialize_pem())?;
            write(&dir.join("ca.pem"), 0o644, &certificate.pem())?;
            key
        };
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), now })
    }

    /// The authority's certificate, which others have to trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Issues `server.pem` for `names` (host names or IP addresses) and for this machine's own, replacing the one
    /// before.
    ///
    /// # Errors
    /// When a name is not one, or a file cannot be written.
    pub fn issue_server(&self, names: &[&str]) -> Result<CertFiles, CertError> {
        let mut all: Vec<String> = LOCAL_NAMES.iter().chain(names).map(|&name| name.to_owned()).collect();
        all.sort();
        all.dedup();
        if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains(char::is_whitespace)) {
            return Err(CertError::Name { name: (*name).to_owned() });
        }
        self.issue("server", "server", all, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues `client-{name}.pem` for a client whose common name is `name`, which brokers take as its user name, replacing the one before.
    ///
    /// # Errors
    /// When the name is not a plain one, or a file cannot be written.
    pub fn issue_client(&self, name: &str) -> Result<CertFiles, CertError> {
        if !is_name(name) {
            return Err(CertError::Name { name: name.to_owned() });
        }
        self.issue(&format!("client-{name}"), name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        file: &str,
        name: &str,
        alternatives: Vec<String>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<CertFiles, CertError> {
        let mut params = CertificateParams::new(alternatives)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, self.now, ISSUED_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = CertFiles {
            certificate: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}-key.pem")),
        };
        write(&files.key, 0o600, &key.serialize_pem())?;
        write(&files.certificate, 0o644, &certificate.pem())?;
        Ok(files)
    }
}

/// The same for every call with the same key but for the dates, so that an authority that is opened again signs under
/// the name that its certificate has.
fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "orchd trial authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, now, AUTHORITY_DAYS);
    params
}

fn valid_for(params: &mut CertificateParams, now: Timestamp, days: i64) {
    // A day back, for machines whose clock is behind.
    params.not_before = now.to_datetime() - Duration::DAY;
    params.not_after = now.to_datetime() + Duration::days(days);
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), CertError> {
    let unfinished = path.with_extension("tmp");
    let attempt = || {
        // A file left by a crash may have another mode.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    attempt().map_err(|source| CertError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::Clock;
    use crate::tls;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn private_keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deep/certs");
        let authority = TrialAuthority::open_or_create(&dir, Clock::system().now()).unwrap();
        let server = authority.issue_server(&["broker.example", "10.0.0.7"]).unwrap();
        let client = authority.issue_client("n1").unwrap();
        assert_eq!(mode(&dir), 0o700);
        for key in [dir.join("ca-key.pem"), server.key.clone(), client.key.clone()] {
            assert_eq!(mode(&key), 0o600, "{}", key.display());
        }
        assert!(tls::server_config(server.identity(), Some(&authority.certificate())).is_ok());
        assert!(tls::client_config(&authority.certificate(), Some(client.identity())).is_ok());
        for bad in ["../n1", "a b", ""] {
            assert!(authority.issue_client(bad).is_err(), "{bad}");
        }
        assert!(authority.issue_server(&["not a host"]).is_err());
    }

    #[test]
    fn an_authority_that_is_opened_again_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let now = Clock::system().now();
        let first = TrialAuthority::open_or_create(dir.path(), now).unwrap();
        let certificate = fs::read(first.certificate()).unwrap();
        let again = TrialAuthority::open_or_create(dir.path(), now.plus_millis(86_400_000)).unwrap();
        assert_eq!(fs::read(again.certificate()).unwrap(), certificate);
        fs::remove_file(dir.path().join("ca-key.pem")).unwrap();
        assert!(TrialAuthority::open_or_create(dir.path(), now).is_err());
    }
}
