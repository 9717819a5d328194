//! Hostile bytes against the decoder: nothing may panic, and what was decoded must survive being written again.
//!
//! The first byte chooses the encoding, the second whether the topic functions see the rest as text.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use orchd::wire::{Encoding, Names, Properties, Reply, decode, topic};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let [first, second, rest @ ..] = data else { return };
    let encoding = if first & 1 == 0 { Encoding::Json } else { Encoding::Cbor };
    let properties = Properties { content_type: Some(encoding.content_type().to_owned()), ..Properties::default() };
    let (_, request) = decode(&properties, &Bytes::copy_from_slice(rest));
    if let Ok(request) = request
        && let Ok(value) = request.payload.decode::<Value>()
    {
        let written = encoding.encode(&value).expect("what was read can be written");
        let again: Value = encoding.decode(&written).expect("what was written can be read");
        assert_eq!(value, again);
    }
    let _ = Reply::decode(encoding, rest);
    if second & 1 == 1
        && let Ok(text) = std::str::from_utf8(rest)
    {
        let names = Names::new("orch", "n1").expect("these are names");
        if let Some(parsed) = names.parse(text) {
            assert!(names.is_ours(text), "a command topic is ours");
            assert!(!matches!(parsed.service, "results" | "events"));
        }
        if topic::is_topic(text) {
            assert!(topic::matches(text, text));
        }
    }
});
