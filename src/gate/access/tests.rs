use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::gate::token::SigningKey;

const NOW: i64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Base64url without padding.
fn b64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().enumerate().fold(0u32, |n, (at, byte)| n | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            out.push(char::from(DIGITS[(n >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}

fn claims() -> Value {
    json!({
        "iss": "issuer", "aud": "orch", "sub": "alice", "iat": NOW - 10, "exp": NOW + 60,
        "permissions": ["orch/+/memory/#"],
    })
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()))
}

fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let input = unsigned(header, claims);
    let signature = b64(&sign(input.as_bytes()));
    format!("{input}.{signature}")
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    move |input| ring::hmac::sign(&key, input).as_ref().to_vec()
}

struct Keys {
    dir: tempfile::TempDir,
    ed: SigningKey,
    ec: rcgen::KeyPair,
}

impl Keys {
    fn new() -> Self {
        let keys = Self {
            dir: tempfile::tempdir().unwrap(),
            ed: SigningKey::generate().unwrap(),
            ec: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        };
        keys.write("ed.pem", &keys.ed.public_pem());
        keys.write("ec.pem", &keys.ec.public_key_pem());
        keys.write("secret", &format!("{SECRET}\n"));
        keys
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ed_sign(&self, input: &[u8]) -> Vec<u8> {
        let der = rcgen::KeyPair::from_pem(&self.ed.to_pem()).unwrap().serialize_der();
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).unwrap().sign(input).as_ref().to_vec()
    }

    fn ec_sign(&self, input: &[u8]) -> Vec<u8> {
        let random = ring::rand::SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.ec.serialize_der(), &random)
                .unwrap();
        pair.sign(&random, input).unwrap().as_ref().to_vec()
    }

    fn load(&self, files: &KeyFiles) -> Result<AccessVerifier, KeyError> {
        AccessVerifier::load(files, "issuer", "orch", 10)
    }

    fn all(&self) -> AccessVerifier {
        let public = vec![self.path("ed.pem"), self.path("ec.pem")];
        self.load(&KeyFiles { public, hs256_secret: Some(self.path("secret")), ..KeyFiles::default() })
            .unwrap()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

#[test]
fn each_algorithm_is_believed_with_its_own_kind_of_key() {
    let keys = Keys::new();
    let verifier = keys.all();
    let header = |alg: &str| json!({ "alg": alg, "typ": "JWT" });
    for good in [
        token(&header("EdDSA"), &claims(), |input| keys.ed_sign(input)),
        token(&header("ES256"), &claims(), |input| keys.ec_sign(input)),
        token(&header("HS256"), &claims(), hs256(SECRET.as_bytes())),
    ] {
        let access = verifier.verify(&good, at(NOW)).unwrap();
        assert_eq!(access.subject, "alice");
        assert!(
            access.permissions.allow("orch/n1/memory/get") && !access.permissions.allow("orch/n1/node/ping")
        );
    }
    // The public key as an HMAC secret, which a verifier that lets the token choose would accept.
    for name in ["ed.pem", "ec.pem"] {
        let pem = std::fs::read(keys.path(name)).unwrap();
        let confused = token(&header("HS256"), &claims(), hs256(&pem));
        assert_eq!(verifier.verify(&confused, at(NOW)), Err(TokenError::Signature), "{name}");
        let only = keys.load(&KeyFiles { public: vec![keys.path(name)], ..KeyFiles::default() }).unwrap();
        assert_eq!(only.verify(&confused, at(NOW)), Err(TokenError::Algorithm), "{name}");
    }
    for (alg, sign) in [("ES256", keys.ed_sign(b"")), ("EdDSA", keys.ec_sign(b""))] {
        assert_eq!(
            verifier.verify(&token(&header(alg), &claims(), |_| sign.clone()), at(NOW)),
            Err(TokenError::Signature)
        );
    }
    for alg in ["none", "None", "NONE", "HS384", "HS512", "RS512", "ES384", "PS256", ""] {
        let forged = token(&header(alg), &claims(), hs256(SECRET.as_bytes()));
        assert!(verifier.verify(&forged, at(NOW)).is_err(), "{alg}");
        assert!(
            verifier.verify(&format!("{}.", unsigned(&header(alg), &claims())), at(NOW)).is_err(),
            "{alg}"
        );
    }
    let nothing = keys.load(&KeyFiles::default()).unwrap();
    let good = token(&header("HS256"), &claims(), hs256(SECRET.as_bytes()));
    assert_eq!(nothing.verify(&good, at(NOW)), Err(TokenError::Algorithm), "no key believes nothing");
}

#[test]
fn rs256_is_believed_from_pem_and_from_a_jwks() {
    let openssl = |arguments: &[&str], input: &[u8]| {
        use std::io::Write;
        let mut child = std::process::Command::new("openssl")
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let keys = Keys::new();
    let private = openssl(&["genrsa", "2048"], b"");
    let file = keys.write("rsa.key", std::str::from_utf8(&private).unwrap());
    let public = String::from_utf8(openssl(&["pkey", "-pubout"], &private)).unwrap();
    let path = keys.write("rsa.pem", &public);
    let sign = |input: &[u8]| openssl(&["dgst", "-sha256", "-sign", file.to_str().unwrap()], input);
    let header = json!({ "alg": "RS256", "kid": "r1" });
    let good = token(&header, &claims(), sign);
    let from_pem = keys.load(&KeyFiles { public: vec![path], ..KeyFiles::default() }).unwrap();
    from_pem.verify(&good, at(NOW)).unwrap();
    let confused = token(&json!({ "alg": "HS256" }), &claims(), hs256(public.as_bytes()));
    assert_eq!(from_pem.verify(&confused, at(NOW)), Err(TokenError::Algorithm));

    let modulus = String::from_utf8(openssl(&["rsa", "-noout", "-modulus"], &private)).unwrap();
    let modulus = hex::decode(modulus.trim().trim_start_matches("Modulus=")).unwrap();
    let jwk =
        |kid: &str| json!({ "kty": "RSA", "kid": kid, "n": b64(&modulus), "e": "AQAB", "alg": "RS256" });
    let set = |keys_in_set: Value| keys.write("jwks.json", &json!({ "keys": keys_in_set }).to_string());
    let load = |path| keys.load(&KeyFiles { jwks: Some(path), ..KeyFiles::default() });
    load(set(json!([jwk("r1"), jwk("r2")]))).unwrap().verify(&good, at(NOW)).unwrap();
    let other = load(set(json!([jwk("r2")]))).unwrap();
    assert_eq!(other.verify(&good, at(NOW)), Err(TokenError::Signature), "the kid names no key of ours");
    // What a key says of itself counts; what it does not say hinders nothing.
    let with = |name: &str, value: Value| {
        let mut jwk = jwk("r1");
        jwk[name] = value;
        load(set(json!([jwk])))
    };
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!("tls")),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("PS256")),
        ("alg", json!("RS512")),
        ("alg", json!("XYZ")),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!([])),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name}: {value}");
    }
    for (name, value) in [("use", json!("sig")), ("alg", json!(null)), ("key_ops", json!(["verify"]))] {
        with(name, value).unwrap().verify(&good, at(NOW)).unwrap();
    }
    assert!(load(set(json!([]))).is_err());
    assert!(load(set(json!([{ "kty": "oct", "k": b64(SECRET.as_bytes()), "alg": "HS256" }]))).is_err());
    let short = openssl(&["genrsa", "1024"], b"");
    let short = String::from_utf8(openssl(&["pkey", "-pubout"], &short)).unwrap();
    let short = keys.write("short.pem", &short);
    assert!(matches!(
        keys.load(&KeyFiles { public: vec![short], ..KeyFiles::default() }),
        Err(KeyError::Content { .. })
    ));
}

#[test]
fn a_forged_kid_selects_nothing_else() {
    let keys = Keys::new();
    let verifier = keys.all();
    for kid in ["../../etc/passwd", "' OR 1=1", "http://evil/jwks", "ed.pem", ""] {
        let header = json!({ "alg": "HS256", "kid": kid, "jku": "http://evil", "jwk": { "kty": "oct", "k": b64(b"evil") } });
        assert!(verifier.verify(&token(&header, &claims(), hs256(b"evil")), at(NOW)).is_err(), "{kid}");
    }
    let header = json!({ "alg": "HS256", "crit": ["exp"] });
    assert!(verifier.verify(&token(&header, &claims(), hs256(SECRET.as_bytes())), at(NOW)).is_err());
}

#[test]
fn claims_are_held_against_issuer_audience_and_clock() {
    let keys = Keys::new();
    let verifier = keys.all();
    let verify = |name: &str, value: Value| {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        verifier.verify(&token(&json!({ "alg": "HS256" }), &claims, hs256(SECRET.as_bytes())), at(NOW))
    };
    for (name, value, error) in [
        ("iss", json!("other"), TokenError::Issuer),
        ("iss", Value::Null, TokenError::Missing("iss")),
        ("aud", json!("other"), TokenError::Audience),
        ("aud", json!([]), TokenError::Audience),
        ("aud", Value::Null, TokenError::Missing("aud")),
        ("sub", Value::Null, TokenError::Missing("sub")),
        ("sub", json!(""), TokenError::Missing("sub")),
        ("sub", json!("a\nb"), TokenError::Malformed),
        ("sub", json!("x".repeat(257)), TokenError::Malformed),
        ("exp", Value::Null, TokenError::Missing("exp")),
        ("exp", json!(NOW - 10), TokenError::Expired),
        ("exp", json!(0.5), TokenError::Expired),
        ("exp", json!("soon"), TokenError::Malformed),
        ("nbf", json!(NOW + 11), TokenError::NotYet),
        ("nbf", json!(1e300), TokenError::NotYet),
        ("iat", json!(NOW + 11), TokenError::NotYet),
        ("permissions", json!("#"), TokenError::Malformed),
        ("permissions", json!(["a#"]), TokenError::Malformed),
        ("permissions", json!(["$SYS/#"]), TokenError::Malformed),
        ("permissions", json!(vec!["a"; 65]), TokenError::Malformed),
    ] {
        let shown = format!("{name} {value}");
        assert_eq!(verify(name, value), Err(error), "{shown}");
    }
    // Within the leeway of 10 s, an audience among several, fractions of a second.
    for (name, value) in [
        ("exp", json!(NOW - 9)),
        ("nbf", json!(NOW + 10)),
        ("iat", json!(NOW + 10)),
        ("iat", Value::Null),
        ("aud", json!(["x", "orch"])),
        ("exp", json!(f64::from(u32::MAX) + 0.5)),
    ] {
        let shown = format!("{name} {value}");
        assert!(verify(name, value).is_ok(), "{shown}");
    }
    for empty in [Value::Null, json!([])] {
        assert!(
            verify("permissions", empty).unwrap().permissions.filters().is_empty(),
            "good, and allows nothing"
        );
    }
    let long = json!("x".repeat(MAX_TOKEN_BYTES));
    assert_eq!(verify("sub", long), Err(TokenError::Malformed));
}

#[test]
fn key_files_hold_what_they_should() {
    let keys = Keys::new();
    let refused = |files: KeyFiles| match keys.load(&files) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    let public = |path| KeyFiles { public: vec![path], ..KeyFiles::default() };
    for text in ["", "nonsense", &keys.ed.to_pem(), &keys.ec.serialize_pem()] {
        let message = refused(public(keys.write("bad.pem", text)));
        assert!(message.contains("bad.pem") && !message.contains("BEGIN"), "{message}");
    }
    assert!(refused(public(keys.path("missing.pem"))).contains("missing.pem"));
    let short = keys.write("short", &SECRET[1..]);
    assert!(refused(KeyFiles { hs256_secret: Some(short), ..KeyFiles::default() }).contains("32 bytes"));
}
