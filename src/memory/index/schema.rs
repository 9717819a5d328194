//! What a shard holds, how text is analysed, and what a commit says about itself.
//!
//! No content is stored: a document is the record's key and what ranking and filters need.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
    TextAnalyzer,
};
use tantivy::{Index, TantivyDocument};

use super::{Document, IndexError, Shard};

/// Changes with the analysis chain, so that shards made by another one are built anew.
const ANALYSIS: &str = "english-1";
/// Tokens of this many bytes or more are left out; long enough for a SHA-512 in hexadecimal.
const TOKEN_BYTES: usize = 129;

/// Name of the fast field with the creation time, in milliseconds.
pub const CREATED: &str = "created";
/// Name of the fast field with the record's key.
pub const KEY: &str = "key";
/// Name of the fast field with the importance.
pub const IMPORTANCE: &str = "importance";

/// The fields of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// The record's key.
    pub key: Field,
    /// Creation, milliseconds since the epoch.
    pub created: Field,
    /// Importance.
    pub importance: Field,
    /// Tags, as they are.
    pub tag: Field,
    /// The entity, as it is.
    pub entity: Field,
    /// The content's terms, with positions for phrases.
    pub content: Field,
}

struct Layout {
    schema: Schema,
    fields: Fields,
    fingerprint: String,
}

static LAYOUT: LazyLock<Layout> = LazyLock::new(|| {
    let mut builder = Schema::builder();
    let raw = || {
        let indexing = TextFieldIndexing::default()
            .set_tokenizer("raw")
            .set_fieldnorms(false)
            .set_index_option(IndexRecordOption::Basic);
        TextOptions::default().set_indexing_options(indexing)
    };
    let analysed = TextFieldIndexing::default()
        .set_tokenizer(ANALYSIS)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let fields = Fields {
        key: builder.add_u64_field(KEY, NumericOptions::from(FAST | INDEXED)),
        created: builder.add_i64_field(CREATED, FAST),
        importance: builder.add_f64_field(IMPORTANCE, FAST),
        tag: builder.add_text_field("tag", raw()),
        entity: builder.add_text_field("entity", raw()),
        content: builder.add_text_field("content", TextOptions::default().set_indexing_options(analysed)),
    };
    let schema = builder.build();
    // The schema names the analysis, so one hash covers both. It has a form in JSON: tantivy writes it as such.
    let described = serde_json::to_string(&schema).unwrap_or_default();
    let fingerprint = crate::memory::model::checksum(&described)[..16].to_owned();
    Layout { schema, fields, fingerprint }
});

/// The schema of every shard.
pub fn schema() -> Schema {
    LAYOUT.schema.clone()
}

/// The fields of every shard.
pub fn fields() -> Fields {
    LAYOUT.fields
}

/// Text to terms: lower case, ASCII folding, English stop words and stems.
pub fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter_dynamic(RemoveLongFilter::limit(TOKEN_BYTES))
        .filter_dynamic(LowerCaser)
        .filter_dynamic(AsciiFoldingFilter)
        .filter_dynamic(StopWordFilter::new(Language::English).unwrap_or_else(|| StopWordFilter::remove([])))
        .filter_dynamic(Stemmer::new(Language::English))
        .build()
}

/// Makes the analyzer known to `index`.
pub fn register(index: &Index) {
    index.tokenizers().register(ANALYSIS, analyzer());
}

/// The record as tantivy takes it.
pub fn document(doc: &Document) -> TantivyDocument {
    let fields = fields();
    let mut out = TantivyDocument::new();
    out.add_u64(fields.key, doc.key);
    out.add_i64(fields.created, doc.created.millis());
    out.add_f64(fields.importance, doc.importance);
    for tag in &doc.tags {
        out.add_text(fields.tag, tag);
    }
    if let Some(entity) = &doc.entity {
        out.add_text(fields.entity, entity);
    }
    out.add_text(fields.content, &doc.content);
    out
}

/// What a commit says about itself, in its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Which shard this is, so that a folder in another's place is noticed.
    shard: String,
    /// Hash of schema and analysis.
    schema: String,
    /// Every change up to here is in this commit.
    pub sequence: u64,
    /// The highest key that was ever added: a higher one has no older version to delete.
    pub top_key: u64,
    /// Whether no record is in a later state than that of `sequence`, so that records can be counted against the ledger.
    pub exact: bool,
    /// Checksum of the others, so that a flipped bit is noticed.
    check: String,
}

impl Mark {
    /// Nothing yet.
    pub fn empty(shard: Shard) -> Self {
        Self {
            shard: shard.to_string(),
            schema: LAYOUT.fingerprint.clone(),
            sequence: 0,
            top_key: 0,
            exact: false,
            check: String::new(),
        }
    }

    /// Reads a commit's payload. A shard without any commit has none.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when it is not ours, of another shard, or of another schema.
    pub fn read(payload: Option<&str>, shard: Shard) -> Result<Self, IndexError> {
        let empty = Self::empty(shard);
        let Some(payload) = payload else { return Ok(empty) };
        let mark: Self = serde_json::from_str(payload)
            .map_err(|_| IndexError::Damaged("its commit has no mark of ours"))?;
        if mark.check != mark.checksum() {
            return Err(IndexError::Damaged("its mark is broken"));
        }
        if mark.shard != empty.shard {
            return Err(IndexError::Damaged("it is another shard"));
        }
        if mark.schema != empty.schema {
            return Err(IndexError::Damaged("it has another schema"));
        }
        Ok(mark)
    }

    /// As a payload.
    ///
    /// # Errors
    /// Never in practice: text and numbers have a form in JSON.
    pub fn write(&self) -> Result<String, IndexError> {
        let sealed = Self { check: self.checksum(), ..self.clone() };
        serde_json::to_string(&sealed).map_err(|_| IndexError::Damaged("its mark cannot be written"))
    }

    fn checksum(&self) -> String {
        let Self { shard, schema, sequence, top_key, exact, check: _ } = self;
        let described = format!("{shard} {schema} {sequence} {top_key} {exact}");
        crate::memory::model::checksum(&described)[..8].to_owned()
    }
}
