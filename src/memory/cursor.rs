//! Where an answer stopped, as text that only this node reads.
//!
//! A cursor carries the moment that recency counts from, so that the order of the pages is one order. Pure.

use super::index::Place;
use super::query::Query;
use crate::clock::Timestamp;
use crate::wire::Fault;

/// Where an answer stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cursor {
    /// The moment that recency counts from.
    pub now: Timestamp,
    /// The last hit.
    pub after: Place,
}

impl Cursor {
    /// As text, bound to `query`.
    #[must_use]
    pub fn write(&self, query: &Query) -> String {
        let Self { now, after } = self;
        format!("{}-{:x}-{:x}-{:x}", query.fingerprint(), now.millis(), after.score.to_bits(), after.key)
    }

    /// The cursor of `query`, where it has one.
    ///
    /// # Errors
    /// `invalid` when it is not one of ours, or of another query.
    pub fn read(query: &Query) -> Result<Option<Self>, Fault> {
        let Some(text) = &query.cursor else { return Ok(None) };
        let mut parts = text.split('-');
        let foreign = || Fault::invalid("cursor: expected one from an answer to the same query");
        if parts.next() != Some(query.fingerprint().as_str()) {
            return Err(foreign());
        }
        let mut number =
            || parts.next().and_then(|part| u64::from_str_radix(part, 16).ok()).ok_or_else(foreign);
        // Two's complement, as it was written.
        let now = Timestamp::from_millis(number()?.cast_signed());
        let after = Place { score: f64::from_bits(number()?), key: number()? };
        if parts.next().is_some() { Err(foreign()) } else { Ok(Some(Self { now, after })) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Code;

    fn query(json: serde_json::Value) -> Query {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_cursor_continues_its_own_query_and_no_other() {
        let fox = query(serde_json::json!({ "text": "fox", "limit": 5 }));
        for now in [1_800_000_000_000, -5] {
            let cursor =
                Cursor { now: Timestamp::from_millis(now), after: Place { score: 0.123_456, key: 99 } };
            let text = cursor.write(&fox);
            let next = query(serde_json::json!({ "text": "fox", "limit": 7, "cursor": text }));
            assert_eq!(Cursor::read(&next).unwrap(), Some(cursor));
            for other in [
                serde_json::json!({ "text": "hen", "cursor": text }),
                serde_json::json!({ "text": "fox", "tags": ["a"], "cursor": text }),
                serde_json::json!({ "text": "fox", "cursor": format!("{text}-0") }),
                serde_json::json!({ "text": "fox", "cursor": "" }),
                serde_json::json!({ "text": "fox", "cursor": text.replace('-', "") }),
            ] {
                assert_eq!(Cursor::read(&query(other)).unwrap_err().code, Code::Invalid);
            }
        }
        assert_eq!(Cursor::read(&fox).unwrap(), None);
    }
}
