//! Looks into the files that a configuration names, with the parsers that the node itself uses: a wrong file is a mistake in
//! the configuration, to be told before the node starts, and not tried again and again.

use std::path::{Path, PathBuf};

use crate::config::{self, Mistake, Provenance, Role, Severity, Value};
use crate::conscience;
use crate::gate::access::{AccessVerifier, KeyFiles};
use crate::gate::authorize::Policies;
use crate::gate::bundle;
use crate::gate::node_key::NodeKey;
use crate::gate::token::{PublicKey, SigningKey};
use crate::small_file;
use crate::tls::{self, Identity};

/// What is wrong with the files that the configuration names: as [`config::check_files`] says it, and what is in them. Blocks
/// for as long as the disk, and the tests of the policies, need.
#[must_use]
pub fn check_files(provenance: &Provenance, role: Role) -> Vec<Mistake> {
    let mut mistakes = config::check_files(provenance, role);
    let named = Named { provenance, role };
    // Of what is not there, and of what is no file, the look at the files has told.
    let readable = config::paths(provenance, role)
        .map(|(key, setting, path)| (key, setting, Path::new(path)))
        .filter(|(_, _, path)| path.is_dir() || small_file::open(path).is_ok());
    mistakes.extend(readable.filter_map(|(key, setting, path)| {
        let wrong = named.look_into(key.path, path).err()?;
        let right = format!("put there what belongs there, or name another in {}", key.path);
        Some(Mistake::error(setting.origin.clone(), key.path, wrong, right))
    }));
    mistakes
}

/// As [`check_files`], without what is only a warning, and what a start in `role` does not use: the broker alone reads the files
/// of `listener`.
#[must_use]
pub fn wrong_files(provenance: &Provenance, role: Role) -> Vec<Mistake> {
    let mut mistakes = check_files(provenance, role);
    mistakes.retain(|mistake| {
        let used = role == Role::Node || mistake.key.starts_with("listener.");
        mistake.severity == Severity::Error && used
    });
    mistakes
}

struct Named<'a> {
    provenance: &'a Provenance,
    role: Role,
}

impl Named<'_> {
    /// What is wrong with the content of the file or folder that `key` names.
    fn look_into(&self, key: &str, path: &Path) -> Result<(), String> {
        match key {
            "broker.ca_file"
            | "auth.jwks_ca_file"
            | "policy.opa_ca_file"
            | "llm.ca_file"
            | "embeddings.ca_file"
            | "phoenix.s3_ca_file"
            | "memory.s3_ca_file"
            | "listener.client_ca_file" => tls::check_authorities(path).map_err(said),
            "broker.client_cert_file" => self.pair(path, "broker.client_key_file"),
            "listener.cert_file" => self.pair(path, "listener.key_file"),
            "broker.jwt_key_file" => SigningKey::from_pem_file(path).map(drop).map_err(said),
            "broker.password_file"
            | "phoenix.password_file"
            | "phoenix.s3_credentials_file"
            | "memory.s3_credentials_file"
            | "policy.opa_token_file"
            | "llm.remote_key_file" => {
                let text =
                    small_file::read(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
                if text.trim_end_matches(['\r', '\n']).is_empty() {
                    return Err(format!("`{}` is empty", path.display()));
                }
                Ok(())
            }
            "auth.trusted_key_files" => {
                trusted(KeyFiles { public: vec![path.to_owned()], ..KeyFiles::default() })
            }
            "auth.hs256_secret_file" => {
                trusted(KeyFiles { hs256_secret: Some(path.to_owned()), ..KeyFiles::default() })
            }
            "auth.jwks_file" => trusted(KeyFiles { jwks: Some(path.to_owned()), ..KeyFiles::default() }),
            "listener.trusted_key_files" => PublicKey::from_pem_file(path).map(drop).map_err(said),
            "listener.node_key_files" => PublicKey::of_node_file(path).map(drop).map_err(said),
            "node.key_file" if self.role == Role::Node => NodeKey::check(path).map_err(said),
            "conscience.rules_file" => {
                let wrong = |reason: String| format!("`{}`: {reason}", path.display());
                let toml = small_file::read(path).map_err(|error| wrong(error.to_string()))?;
                let rules = conscience::read_rules(&toml).and_then(conscience::check_rules);
                rules.map(drop).map_err(|fault| wrong(fault.message))
            }
            "policy.signature_key_file" => {
                bundle::source(Some(PathBuf::new()), Some(path)).map(drop).map_err(said)
            }
            "policy.folder" => {
                // One that cannot be read is told of by itself.
                let signer = self.path("policy.signature_key_file");
                let Ok(source) = bundle::source(Some(path.to_owned()), signer) else { return Ok(()) };
                Policies::load("", source.as_ref(), None).map(drop).map_err(said)
            }
            _ => Ok(()),
        }
    }

    fn path(&self, key: &str) -> Option<&Path> {
        match &self.provenance.get(key)?.value {
            Some(Value::Text(path)) => Some(Path::new(path)),
            _ => None,
        }
    }

    /// A certificate and the private key that another key names, where it can be read.
    fn pair(&self, certificate: &Path, key: &str) -> Result<(), String> {
        let key = self.path(key).filter(|path| small_file::open(path).is_ok());
        match key {
            Some(key) => tls::check_identity(Identity { certificate, key }).map_err(said),
            None => tls::check_certificates(certificate).map_err(said),
        }
    }
}

fn trusted(files: KeyFiles) -> Result<(), String> {
    AccessVerifier::load(&files, "", "", 0).map(drop).map_err(said)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
