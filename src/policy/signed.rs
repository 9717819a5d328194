//! Signatures of bundles, as `opa sign` writes them: `.signatures.json` in the bundle, one JWT whose `files` are the names and
//! hashes of what the bundle holds.
//!
//! Whose signature counts is for the caller to say ([`Signer`]); here what was signed is held against what is there. A file
//! that is not in the list, one of the list that is not there, and one that is not as it was signed: each refuses the bundle. So
//! nobody can take a policy out of it either.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use ring::digest::{self, Algorithm};
use serde::Deserialize;
use serde_json::Value;

use super::PolicyError;
use super::load::{Bundle, DATA_FILE, is_read};
use crate::small_file;

/// The file of signatures.
pub(super) const SIGNATURES: &str = ".signatures.json";

/// Most bytes of it.
const MAX_BYTES: u64 = 256 << 10;

/// Who must have signed.
pub trait Signer: Send + Sync {
    /// What `jwt` says, if they signed it.
    fn read(&self, jwt: &str) -> Option<Value>;
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<String>,
}

#[derive(Deserialize)]
struct Payload {
    files: Vec<SignedFile>,
}

#[derive(Deserialize)]
struct SignedFile {
    name: String,
    hash: String,
    #[serde(default)]
    algorithm: Option<String>,
}

/// Checks that `signer` signed exactly what `bundle`, read from `folder`, holds.
pub(super) fn check(folder: &Path, bundle: &Bundle, signer: &dyn Signer) -> Result<(), PolicyError> {
    let wrong = |reason: &str| PolicyError::Signature(reason.to_owned());
    let path = folder.join(SIGNATURES);
    let mut text = String::new();
    let file = small_file::open(&path).map_err(|_| wrong("there is no .signatures.json that can be read"))?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if !read.is_ok_and(|bytes| bytes as u64 <= MAX_BYTES) {
        return Err(wrong(".signatures.json cannot be read, or is too large"));
    }
    let signatures: Signatures = serde_json::from_str(&text)
        .map_err(|_| wrong(".signatures.json is no object with a list of `signatures`"))?;
    let [jwt] = signatures.signatures.as_slice() else {
        return Err(wrong(".signatures.json must have one signature"));
    };
    let said = signer.read(jwt).ok_or_else(|| wrong("it is not that of policy.signature_key_file"))?;
    let signed: Payload = serde_json::from_value(said).map_err(|_| wrong("it has no list of `files`"))?;
    let mut left: BTreeSet<&str> = signed.files.iter().map(|file| file.name.as_str()).collect();
    if left.len() != signed.files.len() {
        return Err(wrong("it lists a file twice"));
    }
    for (name, text) in bundle.files() {
        let Some(file) = signed.files.iter().find(|file| file.name == name) else {
            return Err(PolicyError::Signature(format!("{name} is not signed")));
        };
        if !file.is_of(text) {
            return Err(PolicyError::Signature(format!("{name} is not as it was signed")));
        }
        left.remove(name);
    }
    // OPA lists the data of a bundle that has none, too.
    if signed.files.iter().any(|file| file.name == DATA_FILE && file.is_of("{}")) {
        left.remove(DATA_FILE);
    }
    // Policies in folders of their own would be signed, and not asked.
    match left.into_iter().find(|name| name.rsplit('/').next().is_some_and(is_read)) {
        Some(name) => Err(PolicyError::Signature(format!("{name} is signed, and not in the bundle"))),
        None => Ok(()),
    }
}

impl SignedFile {
    fn is_of(&self, text: &str) -> bool {
        let Some(algorithm) = algorithm(self.algorithm.as_deref()) else { return false };
        let hash = if self.name == DATA_FILE {
            // Of data OPA hashes the meaning, with sorted names and without blanks.
            let Ok(value) = serde_json::from_str::<Value>(text) else { return false };
            digest::digest(algorithm, canonical(&value).as_bytes())
        } else {
            digest::digest(algorithm, text.as_bytes())
        };
        let hex = hex::encode(hash.as_ref());
        self.hash.eq_ignore_ascii_case(&hex)
    }
}

fn algorithm(name: Option<&str>) -> Option<&'static Algorithm> {
    match name.unwrap_or("SHA-256") {
        "SHA-256" => Some(&digest::SHA256),
        "SHA-384" => Some(&digest::SHA384),
        "SHA-512" => Some(&digest::SHA512),
        _ => None,
    }
}

/// `value` without blanks, its names sorted. Numbers with an exponent come out otherwise than OPA writes them: such data is not
/// as it was signed.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes are those of OPA's own tests (v1/bundle/bundle_test.go).
    #[test]
    fn data_is_hashed_by_its_meaning_as_opa_does() {
        for (text, hash) in [
            (
                "{ \"revision\":\n\"quickbrownfaux\" }",
                "507a2c38a1441db58d2cb87982c42aa91a4342ef422a6b542eddebeef6f0412f",
            ),
            ("[1, 2, 3]", "a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4"),
        ] {
            let file = SignedFile {
                name: DATA_FILE.to_owned(),
                hash: hash.to_owned(),
                algorithm: Some("SHA-256".to_owned()),
            };
            assert!(file.is_of(text), "{text}");
            let raw = SignedFile { name: "a.rego".to_owned(), ..file };
            assert!(!raw.is_of(text), "what is no data is hashed as it stands");
        }
    }
}
