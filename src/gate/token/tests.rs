use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const NOW_SECONDS: i64 = 1_800_000_000;

fn claims() -> Claims {
    Claims {
        iss: "orchd".to_owned(),
        aud: "mqtt".to_owned(),
        sub: "n1".to_owned(),
        role: Role::Node,
        permissions: Vec::new(),
        iat: NOW_SECONDS,
        exp: NOW_SECONDS + 600,
    }
}

fn verifier_of(keys: &[&SigningKey]) -> Verifier {
    Verifier::new(keys.iter().map(|key| key.public()).collect(), "orchd", "mqtt")
}

/// A token with whatever claims, properly signed.
fn signed(key: &SigningKey, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key.encoding).unwrap()
}

fn base64url(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    text.as_bytes()
        .chunks(3)
        .flat_map(|chunk| {
            let bits =
                chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            (0..=chunk.len()).map(move |i| char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]))
        })
        .collect()
}

#[test]
fn what_was_minted_is_believed_also_after_a_round_trip_through_pem() {
    let key = SigningKey::generate().unwrap();
    let read_back = SigningKey::from_pem(&key.to_pem()).unwrap();
    let token = mint(&read_back, &claims()).unwrap();
    let public = PublicKey::from_pem(&key.public_pem()).unwrap();
    assert_eq!(Verifier::new(vec![public], "orchd", "mqtt").verify(&token, NOW), Ok(claims()));
}

#[test]
fn keys_that_openssl_wrote_are_read() {
    // From RFC 8410, section 10: version 1 of PKCS#8, without the public key.
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let token = mint(&SigningKey::from_pem(private).unwrap(), &claims()).unwrap();
    let verifier = Verifier::new(vec![PublicKey::from_pem(public).unwrap()], "orchd", "mqtt");
    assert_eq!(verifier.verify(&token, NOW), Ok(claims()));
    // Kinds do not mix.
    assert!(PublicKey::from_pem(private).is_err());
    assert!(SigningKey::from_pem(public).is_err());
    let ecdsa = rcgen::KeyPair::generate().unwrap();
    assert!(SigningKey::from_pem(&ecdsa.serialize_pem()).is_err());
    assert!(PublicKey::from_pem(&ecdsa.public_key_pem()).is_err());
}

#[test]
fn the_token_never_chooses_the_algorithm() {
    let key = SigningKey::generate().unwrap();
    let verifier = verifier_of(&[&key]);
    let body = base64url(&serde_json::to_string(&claims()).unwrap());
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, r#"{"typ":"JWT"}"#] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{body}.{signature}", base64url(header));
            assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Malformed), "{header}");
        }
    }
    // The classic confusion: the public key, which everyone has, used as an HMAC secret.
    for secret in [key.public_pem().into_bytes(), key.pair.public_key_raw().to_vec()] {
        for (name, algorithm) in [("HS256", ring::hmac::HMAC_SHA256), ("HS512", ring::hmac::HMAC_SHA512)] {
            let message = format!("{}.{body}", base64url(&format!(r#"{{"alg":"{name}"}}"#)));
            let tag = ring::hmac::sign(&ring::hmac::Key::new(algorithm, &secret), message.as_bytes());
            // Latin-1 to text is enough here: the algorithm is refused before the signature is read.
            let tag: String = tag.as_ref().iter().map(|byte| char::from(byte & 63 | 64)).collect();
            let token = format!("{message}.{}", base64url(&tag));
            assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Algorithm), "{name}");
        }
    }
}

#[test]
fn time_is_the_callers_and_the_leeway_is_bounded() {
    let key = SigningKey::generate().unwrap();
    let token = mint(&key, &claims()).unwrap();
    let verifier = verifier_of(&[&key]);
    let at = |seconds: i64| NOW.plus_millis(seconds * 1_000);
    assert!(verifier.verify(&token, at(609)).is_ok());
    assert_eq!(verifier.verify(&token, at(610)), Err(TokenError::Expired));
    assert!(verifier.verify(&token, at(-10)).is_ok());
    assert_eq!(verifier.verify(&token, at(-11)), Err(TokenError::NotYet));
    let strict = verifier.clone().with_leeway(0);
    assert_eq!(strict.verify(&token, at(600)), Err(TokenError::Expired));
    assert_eq!(strict.verify(&token, at(-1)), Err(TokenError::NotYet));
    let lax = verifier.with_leeway(255);
    assert_eq!(lax.verify(&token, at(630)), Err(TokenError::Expired));

    let mut later = serde_json::to_value(claims()).unwrap();
    later["nbf"] = json!(NOW_SECONDS + 60);
    assert_eq!(strict.verify(&signed(&key, &later), NOW), Err(TokenError::NotYet));
}

#[test]
fn another_issuer_or_audience_is_refused() {
    let key = SigningKey::generate().unwrap();
    let verifier = verifier_of(&[&key]);
    let other = mint(&key, &Claims { iss: "other".to_owned(), ..claims() }).unwrap();
    assert_eq!(verifier.verify(&other, NOW), Err(TokenError::Issuer));
    let other = mint(&key, &Claims { aud: "other".to_owned(), ..claims() }).unwrap();
    assert_eq!(verifier.verify(&other, NOW), Err(TokenError::Audience));
}

#[test]
fn only_trusted_keys_count_and_a_rotated_one_still_does() {
    let (old, new, foreign) =
        (SigningKey::generate().unwrap(), SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let verifier = verifier_of(&[&new, &old]);
    for (key, expected) in
        [(&old, Ok(claims())), (&new, Ok(claims())), (&foreign, Err(TokenError::Signature))]
    {
        assert_eq!(verifier.verify(&mint(key, &claims()).unwrap(), NOW), expected);
    }
    assert_eq!(verifier_of(&[]).verify(&mint(&old, &claims()).unwrap(), NOW), Err(TokenError::Signature));
}

#[test]
fn an_altered_token_is_refused_wherever_it_was_altered() {
    let key = SigningKey::generate().unwrap();
    let verifier = verifier_of(&[&key]);
    let token = mint(&key, &claims()).unwrap();
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert!(verifier.verify(&altered, NOW).is_err(), "at {at}");
    }
    for junk in ["", ".", "..", "a.b.c", "not a token", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert_eq!(verifier.verify(junk, NOW), Err(TokenError::Malformed));
    }
}

#[test]
fn every_claim_is_required() {
    let key = SigningKey::generate().unwrap();
    let verifier = verifier_of(&[&key]);
    for claim in ["iss", "aud", "sub", "role", "iat", "exp"] {
        let mut partial = serde_json::to_value(claims()).unwrap();
        partial.as_object_mut().unwrap().remove(claim);
        assert_eq!(verifier.verify(&signed(&key, &partial), NOW), Err(TokenError::Missing(claim)));
        let mut wrong = serde_json::to_value(claims()).unwrap();
        wrong[claim] = json!({ "not": "this" });
        assert!(verifier.verify(&signed(&key, &wrong), NOW).is_err(), "{claim}");
    }
    let mut other_role = serde_json::to_value(claims()).unwrap();
    other_role["role"] = json!("admin");
    assert_eq!(verifier.verify(&signed(&key, &other_role), NOW), Err(TokenError::Malformed));
}

#[test]
fn an_unusable_key_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.pem");
    let name = path.display().to_string();
    assert!(SigningKey::from_pem_file(&path).unwrap_err().to_string().contains(&name));
    let key = SigningKey::generate().unwrap();
    std::fs::write(&path, key.public_pem()).unwrap();
    let error = SigningKey::from_pem_file(&path).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("PRIVATE KEY"), "{error}");
    assert!(PublicKey::from_pem_file(&path).is_ok());
}

#[test]
fn secrets_do_not_show() {
    let key = SigningKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "SigningKey(secret)");
    let error =
        SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\nc2VzYW1l\n-----END PRIVATE KEY-----").unwrap_err();
    assert!(!error.to_string().contains("sesame") && !format!("{error:?}").contains("c2VzYW1l"));
}

#[test]
fn the_key_of_a_node_speaks_for_that_node_alone() {
    let (issuer, node) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let token = |key: &SigningKey, sub: &str, role| {
        mint(key, &Claims { sub: sub.to_owned(), role, ..claims() }).unwrap()
    };
    // Also where someone has put the node's key among those of issuers.
    let keys = vec![issuer.public(), node.public(), node.public().of_node("n1")];
    let verifier = Verifier::new(keys, "orchd", "mqtt");
    assert!(verifier.verify(&token(&node, "n1", Role::Node), NOW).is_ok());
    for (sub, role) in [("n2", Role::Node), ("n1", Role::Client), ("admin", Role::Client), ("N1", Role::Node)]
    {
        assert_eq!(
            verifier.verify(&token(&node, sub, role), NOW),
            Err(TokenError::Speaker),
            "{sub} {role:?}"
        );
        assert!(verifier.verify(&token(&issuer, sub, role), NOW).is_ok(), "{sub} {role:?}");
    }
}

#[test]
fn the_file_of_a_node_s_key_says_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    for (file, name) in [
        ("n1.pub.pem", Some("n1")),
        ("node-7.lab.pem", Some("node-7.lab")),
        (".pub.pem", None),
        ("n1.key", None),
        ("n 1.pem", None),
    ] {
        let path = dir.path().join(file);
        std::fs::write(&path, key.public_pem()).unwrap();
        let read = PublicKey::of_node_file(&path);
        assert_eq!(read.ok().and_then(|key| key.node).as_deref(), name, "{file}");
    }
}
