//! Access tokens: JWTs that let their bearer give commands.
//!
//! The keys that are trusted decide on the algorithm, each on its own one; the token only names one of theirs. A `kid`
//! narrows the choice among those keys and fetches nothing. `iss`, `aud`, `sub` and `exp` have to be there; `nbf` and
//! `iat` are held against the clock where they stand. `permissions` is a list of topic filters; without it the token is
//! good, and allows nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation, decode_header};
use serde::Deserialize;

use super::jwks;
use super::permissions::Permissions;
use super::provider::install_provider;
use super::token::{KeyError, MAX_TOKEN_BYTES, TokenError, refusal};
use crate::clock::Timestamp;

/// Shortest secret for HS256, in bytes: as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Shortest RSA modulus, in bytes.
const MIN_RSA_BYTES: usize = 256;

/// An uncompressed point on P-256.
const P256_POINT_BYTES: usize = 65;

/// An Ed25519 public key.
const ED25519_BYTES: usize = 32;

/// Longest subject, in bytes.
const MAX_SUBJECT_BYTES: usize = 256;

/// What a token that was believed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who bears it, as its issuer calls them.
    pub subject: String,
    /// What they may do.
    pub permissions: Permissions,
    /// Not good before, in milliseconds; leeway included.
    pub from: i64,
    /// Not good from here on, in milliseconds; leeway included.
    pub until: i64,
}

/// Where the trusted keys are.
#[derive(Clone, Debug, Default)]
pub struct KeyFiles {
    /// Public keys, PEM.
    pub public: Vec<PathBuf>,
    /// A secret for HS256.
    pub hs256_secret: Option<PathBuf>,
    /// A JWKS.
    pub jwks: Option<PathBuf>,
    /// Where a JWKS that was fetched before is kept, and the address that it must be from; it may be missing.
    pub fetched: Option<(PathBuf, String)>,
}

/// A public key (or secret), and the one algorithm that it is for.
pub(super) struct TrustedKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
    id: Option<String>,
}

impl TrustedKey {
    /// Reads a public key in PEM, of whichever kind it is; blocks for as long as the disk needs.
    pub(super) fn from_pem_file(path: &Path) -> Result<Self, KeyError> {
        install_provider();
        from_file(path, public_key)
    }
}

/// Keys that were fetched, and the text that they come from.
#[derive(Default)]
struct Fetched {
    json: String,
    keys: Vec<TrustedKey>,
}

impl Fetched {
    fn read(json: &str) -> Result<Self, KeyError> {
        Ok(Self { json: json.to_owned(), keys: key_set(json)? })
    }
}

/// Believes tokens of one issuer for one audience.
pub struct AccessVerifier {
    keys: Vec<TrustedKey>,
    fetched: RwLock<Arc<Fetched>>,
    issuer: String,
    audience: String,
    leeway_seconds: i64,
}

impl AccessVerifier {
    /// Reads the keys; blocks for as long as the disk needs. Without any key no token is believed.
    ///
    /// # Errors
    /// When a file cannot be read, or holds what is no key for one of the four algorithms.
    pub fn load(
        files: &KeyFiles,
        issuer: &str,
        audience: &str,
        leeway_seconds: i64,
    ) -> Result<Self, KeyError> {
        install_provider();
        let mut keys = Vec::new();
        for path in &files.public {
            keys.push(from_file(path, public_key)?);
        }
        if let Some(path) = &files.hs256_secret {
            keys.push(from_file(path, secret)?);
        }
        if let Some(path) = &files.jwks {
            keys.extend(from_file(path, key_set)?);
        }
        // What cannot be used is fetched anew.
        let kept = files.fetched.as_ref().and_then(|(path, url)| jwks::kept(path, url));
        let fetched = kept.and_then(|json| Fetched::read(&json).ok()).unwrap_or_default();
        let fetched = RwLock::new(Arc::new(fetched));
        Ok(Self { keys, fetched, issuer: issuer.to_owned(), audience: audience.to_owned(), leeway_seconds })
    }

    /// Believes the keys of this JWKS in the place of those that were fetched before; whether they are other ones.
    ///
    /// # Errors
    /// When it is no JWKS with a key of a kind that is trusted.
    pub fn fetched(&self, json: &str) -> Result<bool, KeyError> {
        let fetched = Fetched::read(json)?;
        let mut present = self.fetched.write().unwrap_or_else(PoisonError::into_inner);
        let changed = present.json != fetched.json;
        *present = Arc::new(fetched);
        Ok(changed)
    }

    /// What `token` says, if it can be believed at `now`.
    ///
    /// # Errors
    /// When it cannot; see [`TokenError`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Access, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(token).map_err(|error| refusal(error.kind()))?;
        if header.crit.is_some() {
            // None of the extensions that a token may insist on is known here (RFC 7515, section 4.1.11).
            return Err(TokenError::Malformed);
        }
        let mut error = TokenError::Algorithm;
        let fetched = self.fetched.read().unwrap_or_else(PoisonError::into_inner).clone();
        let keys = self.keys.iter().chain(&fetched.keys);
        for trusted in keys.filter(|trusted| trusted.algorithm == header.alg) {
            // A key without an id serves for every token; a token without one is tried with every key.
            if trusted.id.is_some() && header.kid.is_some() && trusted.id != header.kid {
                error = TokenError::Signature;
                continue;
            }
            match jsonwebtoken::decode::<AsWritten>(token, &trusted.key, &self.validation(trusted.algorithm))
            {
                Ok(data) => return data.claims.judge(now, self.leeway_seconds),
                Err(other) => match refusal(other.kind()) {
                    // Another key may have signed it.
                    TokenError::Signature => error = TokenError::Signature,
                    refusal => return Err(refusal),
                },
            }
        }
        Err(error)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // Time is held against the caller's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }
}

/// The claims. Times may have fractions (RFC 7519, section 2). A claim given twice is malformed, by serde's rules.
#[derive(Deserialize)]
struct AsWritten {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(default)]
    permissions: Option<Vec<String>>,
}

impl AsWritten {
    fn judge(self, now: Timestamp, leeway_seconds: i64) -> Result<Access, TokenError> {
        let subject = self.sub.filter(|sub| !sub.is_empty()).ok_or(TokenError::Missing("sub"))?;
        if subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
            return Err(TokenError::Malformed);
        }
        // What is out of range saturates, and is then long over or far away.
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let millis = |seconds: f64| (seconds * 1_000.0) as i64;
        let leeway = leeway_seconds * 1_000;
        let until = millis(self.exp.ok_or(TokenError::Missing("exp"))?).saturating_add(leeway);
        let start = self.nbf.into_iter().chain(self.iat).map(millis).max();
        let from = start.map_or(i64::MIN, |start| start.saturating_sub(leeway));
        if now.millis() >= until {
            return Err(TokenError::Expired);
        }
        if now.millis() < from {
            return Err(TokenError::NotYet);
        }
        let permissions = self.permissions.unwrap_or_default();
        let permissions = Permissions::new(permissions).map_err(|_| TokenError::Malformed)?;
        Ok(Access { subject, permissions, from, until })
    }
}

fn from_file<K>(path: &Path, parse: impl Fn(&str) -> Result<K, KeyError>) -> Result<K, KeyError> {
    super::token::from_file(path, parse)
}

/// A public key in PEM, of whichever kind it is.
fn public_key(pem: &str) -> Result<TrustedKey, KeyError> {
    // A private key would be accepted by the parser: its file must not be spread as if it were public.
    if !pem.contains("BEGIN PUBLIC KEY") {
        return Err(KeyError::NotTrusted);
    }
    let bytes = pem.as_bytes();
    let key = DecodingKey::from_ed_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_rsa_pem(bytes))
        .map_err(|_| KeyError::NotTrusted)?;
    trusted(key, None).ok_or(KeyError::NotTrusted)
}

fn secret(text: &str) -> Result<TrustedKey, KeyError> {
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.len() < MIN_SECRET_BYTES {
        return Err(KeyError::ShortSecret);
    }
    Ok(TrustedKey { key: DecodingKey::from_secret(secret.as_bytes()), algorithm: Algorithm::HS256, id: None })
}

/// The keys of a JWKS that sign with one of ours, and say nothing else of themselves. Others are left out: providers publish
/// keys for other uses too. A secret is refused, because a JWKS is no place for one.
fn key_set(json: &str) -> Result<Vec<TrustedKey>, KeyError> {
    let set: JwkSet = serde_json::from_str(json).map_err(|_| KeyError::NotKeySet)?;
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
        if key.family() == AlgorithmFamily::Hmac {
            return Err(KeyError::NotKeySet);
        }
        keys.extend(trusted(key, jwk.common.key_id.clone()).filter(|key| signs(jwk, key.algorithm)));
    }
    if keys.is_empty() { Err(KeyError::NotKeySet) } else { Ok(keys) }
}

/// Whether `jwk` is for signatures, and for those of `algorithm`, as far as it says (RFC 7517, sections 4.2 to 4.4).
fn signs(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let said = match algorithm {
        Algorithm::EdDSA => KeyAlgorithm::EdDSA,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::RS256 => KeyAlgorithm::RS256,
        _ => return false,
    };
    let about = &jwk.common;
    about.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && about.key_algorithm.is_none_or(|other| other == said)
        && about.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify))
}

/// The key with the one algorithm that it is for; `None` when it is too short or on another curve.
fn trusted(key: DecodingKey, id: Option<String>) -> Option<TrustedKey> {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    let algorithm = match key.family() {
        AlgorithmFamily::Ed if length == ED25519_BYTES => Algorithm::EdDSA,
        AlgorithmFamily::Ec if length == P256_POINT_BYTES => Algorithm::ES256,
        AlgorithmFamily::Rsa if length >= MIN_RSA_BYTES => Algorithm::RS256,
        _ => return None,
    };
    Some(TrustedKey { key, algorithm, id })
}

#[cfg(test)]
mod tests;
