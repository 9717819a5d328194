//! The cryptography of JSON Web Tokens: ring's, plugged into `jsonwebtoken` (see
//! docs/decisions/0006-jwt-over-ring.md). Signs with EdDSA; verifies EdDSA, ES256, RS256 and HS256, each with keys of its
//! own kind alone.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result as JwtResult, new_error};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, Ed25519KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

/// `jsonwebtoken` asks one provider per process. Nothing else in this program sets one.
pub(super) fn install_provider() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when one is installed already: then tokens are signed and verified by that one.
        let _ = PROVIDER.install_default();
    });
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    if (*algorithm, key.family()) != (Algorithm::EdDSA, AlgorithmFamily::Ed) {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    // Keys that OpenSSL wrote come without the public half, which the checked constructor insists on.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.as_bytes())
        .map_err(|_| new_error(ErrorKind::InvalidEddsaKey))?;
    Ok(Box::new(RingSigner(pair)))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    let public = match (algorithm, key.family(), key.kind()) {
        (Algorithm::EdDSA, AlgorithmFamily::Ed, _) => {
            Public::Plain(UnparsedPublicKey::new(&ED25519, key.try_get_as_bytes()?.to_vec()))
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, _) => {
            Public::Plain(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.try_get_as_bytes()?.to_vec()))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => {
            Public::Plain(UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der.clone()))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Public::Rsa(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::HS256, AlgorithmFamily::Hmac, _) => {
            Public::Secret(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))
        }
        _ => return Err(new_error(ErrorKind::InvalidAlgorithm)),
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, public }))
}

struct RingSigner(Ed25519KeyPair);

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

enum Public {
    Plain(UnparsedPublicKey<Vec<u8>>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Secret(hmac::Key),
}

struct RingVerifier {
    algorithm: Algorithm,
    public: Public,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        match &self.public {
            Public::Plain(key) => key.verify(message, signature),
            Public::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Public::Secret(key) => hmac::verify(key, message, signature),
        }
        .map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
