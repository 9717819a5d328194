//! JSON Web Tokens: who logs in to the broker, or asks a command, and in which role.
//!
//! EdDSA over Ed25519 is the only algorithm. It is fixed by the verifier and never chosen by the token. The
//! cryptography is ring's, plugged into `jsonwebtoken` (see docs/decisions/0006-jwt-over-ring.md). A token is
//! accepted only when its signature holds and `iss`, `aud`, `sub`, `role`, `iat` and `exp` are all there and right
//! for the time that the caller passes in: nothing here reads a clock.
//!
//! No error and no `Debug` output of this module holds a key, a token, or a claim of a token that was refused.

use std::fmt;
use std::path::{Path, PathBuf};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::provider::install_provider;
use crate::clock::Timestamp;
use crate::wire::topic::is_name;

/// Longest token that is looked at, in bytes. Ours have about 400.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// Clock difference that is tolerated unless told otherwise, in seconds.
pub const DEFAULT_LEEWAY_SECONDS: u8 = 10;

/// Largest clock difference that can be tolerated, in seconds.
pub const MAX_LEEWAY_SECONDS: u8 = 30;

/// Length of an Ed25519 public key in bytes.
const PUBLIC_KEY_BYTES: usize = 32;

/// What a principal is to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes commands and answers them.
    Node,
    /// Sends commands.
    Client,
}

impl Role {
    /// As written in the claim.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Client => "client",
        }
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience; one, as a plain string.
    pub aud: String,
    /// Subject: the name of the node or client.
    pub sub: String,
    /// What the subject is.
    pub role: Role,
    /// What the subject may do at nodes that ask everyone for credentials, as topic filters; a broker does not look at them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends, in seconds since the Unix epoch.
    pub exp: i64,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a token, or one that is too long, or with claims of the wrong kind.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm that no trusted key is for, or none.
    #[error("the token's algorithm is not that of a trusted key")]
    Algorithm,
    /// Altered, or signed by a key that is not trusted here.
    #[error("the token's signature does not match a trusted key")]
    Signature,
    /// A claim that must be there is not.
    #[error("the token has no claim \"{0}\"")]
    Missing(&'static str),
    /// From another issuer.
    #[error("the token's issuer is not the expected one")]
    Issuer,
    /// For another audience.
    #[error("the token is for another audience")]
    Audience,
    /// In the name of another than the one whose key has signed it.
    #[error("the token's key may not speak for its subject in its role")]
    Speaker,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet: check the clocks of issuer and verifier")]
    NotYet,
}

/// Why a key could not be loaded, made or used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file was read, but does not hold the key.
    #[error("the key file {} is unusable: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What was expected in it.
        source: Box<KeyError>,
    },
    /// Not a PEM block PRIVATE KEY (PKCS#8) of an Ed25519 key.
    #[error("expected an Ed25519 private key in a PEM block PRIVATE KEY (PKCS#8, without a passphrase)")]
    NotPrivate,
    /// Not a PEM block PUBLIC KEY of an Ed25519 key.
    #[error("expected an Ed25519 public key in a PEM block PUBLIC KEY")]
    NotPublic,
    /// Not a public key for one of the algorithms.
    #[error(
        "expected a public key in a PEM block PUBLIC KEY: Ed25519, EC on P-256, or RSA of 2048 bits or more"
    )]
    NotTrusted,
    /// Too short for HS256.
    #[error("expected a secret of 32 bytes or more")]
    ShortSecret,
    /// Not a JWKS with a key of use.
    #[error("expected a JWKS with public keys for EdDSA (Ed25519), ES256 or RS256, and no secrets")]
    NotKeySet,
    /// The file's name does not say whose key it is.
    #[error("the file {} is not called after a node: expected NAME.pub.pem or NAME.pem", .0.display())]
    Unnamed(PathBuf),
    /// The system gave no randomness.
    #[error("the system's random number generator failed")]
    Random,
    /// Signing failed.
    #[error("the token could not be signed")]
    Signing,
}

/// What comes before the 32 bytes of an Ed25519 private key in PKCS#8: RFC 8410, section 7.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A private Ed25519 key that signs tokens.
pub struct SigningKey {
    // rcgen's key pair reads and writes PEM over ring, so that this project needs no PEM code of its own.
    pair: rcgen::KeyPair,
    encoding: EncodingKey,
}

impl SigningKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
        // In the first version of the format, as OpenSSL writes it: the second, which ring and rcgen write, OpenSSL 3.0 does
        // not read.
        let der = [&PKCS8_ED25519[..], &seed].concat();
        rcgen::KeyPair::try_from(der).map(Self::new).map_err(|_| KeyError::Random)
    }

    /// Reads a key as [`SigningKey::to_pem`] or `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// When `pem` holds anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = rcgen::KeyPair::from_pem(pem).map_err(|_| KeyError::NotPrivate)?;
        if pair.is_compatible(&rcgen::PKCS_ED25519) { Ok(Self::new(pair)) } else { Err(KeyError::NotPrivate) }
    }

    /// Reads a key from a file; blocks for as long as the disk needs.
    ///
    /// # Errors
    /// When the file cannot be read or holds anything else.
    pub fn from_pem_file(path: &Path) -> Result<Self, KeyError> {
        from_file(path, Self::from_pem)
    }

    /// The private key as a PEM block PRIVATE KEY (PKCS#8). A secret: for a file of mode 0600, nothing else.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The public key as a PEM block PUBLIC KEY.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The public key that verifies what this key signs.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { key: DecodingKey::from_ed_der(self.pair.public_key_raw()), node: None }
    }

    fn new(pair: rcgen::KeyPair) -> Self {
        install_provider();
        let encoding = EncodingKey::from_ed_der(pair.serialized_der());
        Self { pair, encoding }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(secret)")
    }
}

/// A public Ed25519 key that verifies tokens: those of everyone, or those of one node alone.
#[derive(Clone)]
pub struct PublicKey {
    key: DecodingKey,
    node: Option<String>,
}

impl PublicKey {
    /// Reads a key as [`SigningKey::public_pem`] or `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// When `pem` holds anything else.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        // A private key would be accepted by the parser: its file must not be spread as if it were public.
        if !pem.contains("BEGIN PUBLIC KEY") {
            return Err(KeyError::NotPublic);
        }
        let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| KeyError::NotPublic)?;
        match key.try_get_as_bytes() {
            Ok(bytes) if bytes.len() == PUBLIC_KEY_BYTES => Ok(Self { key, node: None }),
            _ => Err(KeyError::NotPublic),
        }
    }

    /// Reads a key from a file; blocks for as long as the disk needs.
    ///
    /// # Errors
    /// When the file cannot be read or holds anything else.
    pub fn from_pem_file(path: &Path) -> Result<Self, KeyError> {
        from_file(path, Self::from_pem)
    }

    /// Reads the key of a node from a file that is called after it: `NAME.pub.pem`, as `orchd token key --out NAME.key` writes
    /// it, or `NAME.pem`. Blocks for as long as the disk needs.
    ///
    /// # Errors
    /// As [`PublicKey::from_pem_file`], and when the file's name is not that of a node.
    pub fn of_node_file(path: &Path) -> Result<Self, KeyError> {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = file.strip_suffix(".pem").map(|name| name.strip_suffix(".pub").unwrap_or(name));
        let name = name.filter(|name| is_name(name)).ok_or_else(|| KeyError::Unnamed(path.to_owned()))?;
        Ok(Self::from_pem_file(path)?.of_node(name))
    }

    fn speaks_for(&self, claims: &Claims) -> bool {
        self.node.as_ref().is_none_or(|node| claims.role == Role::Node && claims.sub == *node)
    }

    /// The same, for the tokens of this node alone.
    #[must_use]
    pub fn of_node(self, name: &str) -> Self {
        Self { node: Some(name.to_owned()), ..self }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

/// Signs `claims`.
///
/// # Errors
/// When the key cannot sign, which a key that could be loaded always can.
pub fn mint(key: &SigningKey, claims: &Claims) -> Result<String, KeyError> {
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key.encoding).map_err(|_| KeyError::Signing)
}

/// Verifies tokens of one issuer for one audience.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<PublicKey>,
    validation: Validation,
    leeway_seconds: i64,
}

impl Verifier {
    /// Accepts tokens signed by any of `keys` (several while a key is being rotated; none accepts nothing), issued by
    /// `issuer` for `audience`. The key of a node is good for that node alone, even if it is among the others as well.
    #[must_use]
    pub fn new(mut keys: Vec<PublicKey>, issuer: &str, audience: &str) -> Self {
        install_provider();
        keys.sort_by_key(|key| key.node.is_none());
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // The library would ask the system's clock: time is checked below, against the caller's.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self { keys, validation, leeway_seconds: i64::from(DEFAULT_LEEWAY_SECONDS) }
    }

    /// Tolerates clocks that differ by up to `seconds`; more than [`MAX_LEEWAY_SECONDS`] is cut to that.
    #[must_use]
    pub fn with_leeway(mut self, seconds: u8) -> Self {
        self.leeway_seconds = i64::from(seconds.min(MAX_LEEWAY_SECONDS));
        self
    }

    /// What `token` says, if it can be believed at `now`.
    ///
    /// # Errors
    /// When it cannot; see [`TokenError`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let (claims, not_before) = self.decode(token)?;
        let now = now.millis().div_euclid(1_000);
        if claims.exp.saturating_add(self.leeway_seconds) <= now {
            return Err(TokenError::Expired);
        }
        let start = not_before.map_or(claims.iat, |nbf| nbf.max(claims.iat));
        if start.saturating_sub(self.leeway_seconds) > now {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }

    /// The claims and `nbf`, once signature, issuer and audience are right.
    fn decode(&self, token: &str) -> Result<(Claims, Option<i64>), TokenError> {
        for key in &self.keys {
            match jsonwebtoken::decode::<AsWritten>(token, &key.key, &self.validation) {
                Ok(data) => {
                    let said = data.claims.complete()?;
                    return if key.speaks_for(&said.0) { Ok(said) } else { Err(TokenError::Speaker) };
                }
                Err(error) => match refusal(error.kind()) {
                    // Another key may have signed it.
                    TokenError::Signature => {}
                    refusal => return Err(refusal),
                },
            }
        }
        Err(TokenError::Signature)
    }
}

/// The claims before it is known that all are there. A claim given twice is malformed, by serde's rules.
#[derive(Deserialize)]
struct AsWritten {
    iss: Option<String>,
    aud: Option<String>,
    sub: Option<String>,
    role: Option<Role>,
    iat: Option<i64>,
    exp: Option<i64>,
    nbf: Option<i64>,
}

impl AsWritten {
    fn complete(self) -> Result<(Claims, Option<i64>), TokenError> {
        let claims = Claims {
            iss: self.iss.ok_or(TokenError::Missing("iss"))?,
            aud: self.aud.ok_or(TokenError::Missing("aud"))?,
            sub: self.sub.filter(|sub| !sub.is_empty()).ok_or(TokenError::Missing("sub"))?,
            role: self.role.ok_or(TokenError::Missing("role"))?,
            permissions: Vec::new(),
            iat: self.iat.ok_or(TokenError::Missing("iat"))?,
            exp: self.exp.ok_or(TokenError::Missing("exp"))?,
        };
        Ok((claims, self.nbf))
    }
}

pub(super) fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            TokenError::Algorithm
        }
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => TokenError::Missing("iss"),
            "aud" => TokenError::Missing("aud"),
            "sub" => TokenError::Missing("sub"),
            "exp" => TokenError::Missing("exp"),
            _ => TokenError::Malformed,
        },
        _ => TokenError::Malformed,
    }
}

pub(super) fn from_file<K>(path: &Path, parse: impl Fn(&str) -> Result<K, KeyError>) -> Result<K, KeyError> {
    let pem = crate::small_file::read(path)
        .map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })?;
    parse(&pem).map_err(|source| KeyError::Content { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests;
