//! What a shard holds, how text is analysed, and what a commit says about itself.
//!
//! No content is stored: a document is the record's key and what ranking and filters need.

use serde::{Deserialize, Serialize};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{Index, TantivyDocument};

use super::analysis::Analysis;
use super::{Document, IndexError, Shard};

/// Name of the fast field with the creation time, in milliseconds.
pub const CREATED: &str = "created";
/// Name of the fast field with the record's key.
pub const KEY: &str = "key";
/// Name of the fast field with the importance, in [`IMPORTANCE_STEPS`].
pub const IMPORTANCE: &str = "importance";
/// Steps of importance from 0 to 1: few enough to take little room.
pub const IMPORTANCE_STEPS: f64 = 10_000.0;

/// The tokenizer of words, as a shard's files name it.
const WORDS: &str = "words";
/// The tokenizer of names.
const NAMES: &str = "names";

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
    /// The namespace, as it is.
    pub namespace: Field,
    /// The user, as it is.
    pub user: Field,
    /// The content's words, with positions for phrases.
    pub content: Field,
    /// The names in the content that are more than one word.
    pub name: Field,
}

/// What all shards have in common: their fields, and the analysis that they were made with.
pub struct Layout {
    schema: Schema,
    /// The fields.
    pub fields: Fields,
    fingerprint: String,
    words: TextAnalyzer,
    names: TextAnalyzer,
}

impl Layout {
    /// Of shards made with `analysis`.
    #[must_use]
    pub fn new(analysis: &Analysis) -> Self {
        let mut builder = Schema::builder();
        let exact = |tokenizer: &str, option: IndexRecordOption| {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(tokenizer)
                .set_fieldnorms(false)
                .set_index_option(option);
            TextOptions::default().set_indexing_options(indexing)
        };
        let words = TextFieldIndexing::default()
            .set_tokenizer(WORDS)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions);
        let fields = Fields {
            key: builder.add_u64_field(KEY, NumericOptions::from(FAST | INDEXED)),
            created: builder.add_i64_field(CREATED, FAST),
            importance: builder.add_u64_field(IMPORTANCE, FAST),
            tag: builder.add_text_field("tag", exact("raw", IndexRecordOption::Basic)),
            entity: builder.add_text_field("entity", exact("raw", IndexRecordOption::Basic)),
            namespace: builder.add_text_field("namespace", exact("raw", IndexRecordOption::Basic)),
            user: builder.add_text_field("user", exact("raw", IndexRecordOption::Basic)),
            content: builder.add_text_field("content", TextOptions::default().set_indexing_options(words)),
            name: builder.add_text_field("name", exact(NAMES, IndexRecordOption::WithFreqs)),
        };
        let schema = builder.build();
        // It has a form in JSON: tantivy writes it as such.
        let described = serde_json::to_string(&schema).unwrap_or_default() + &analysis.name();
        let fingerprint = crate::memory::model::checksum(&described)[..16].to_owned();
        Self { schema, fields, fingerprint, words: analysis.words(), names: analysis.names() }
    }

    /// The schema of every shard.
    #[must_use]
    pub fn schema(&self) -> Schema {
        self.schema.clone()
    }

    /// Text to words.
    #[must_use]
    pub fn words(&self) -> TextAnalyzer {
        self.words.clone()
    }

    /// Text to the names in it.
    #[must_use]
    pub fn names(&self) -> TextAnalyzer {
        self.names.clone()
    }

    /// Makes the analysis known to `index`.
    pub fn register(&self, index: &Index) {
        index.tokenizers().register(WORDS, self.words());
        index.tokenizers().register(NAMES, self.names());
    }

    /// The record as tantivy takes it.
    #[must_use]
    pub fn document(&self, doc: &Document) -> TantivyDocument {
        let fields = &self.fields;
        let mut out = TantivyDocument::new();
        out.add_u64(fields.key, doc.key);
        out.add_i64(fields.created, doc.created.millis());
        // Clamped to what the steps can say: the conversion is exact enough.
        out.add_u64(fields.importance, (doc.importance.clamp(0.0, 1.0) * IMPORTANCE_STEPS).round() as u64);
        for tag in &doc.tags {
            out.add_text(fields.tag, tag);
        }
        if let Some(entity) = &doc.entity {
            out.add_text(fields.entity, entity);
        }
        out.add_text(fields.namespace, &doc.namespace);
        if let Some(user) = &doc.user {
            out.add_text(fields.user, user);
        }
        out.add_text(fields.content, &doc.content);
        out.add_text(fields.name, &doc.content);
        out
    }

    /// The mark of a shard without any commit.
    #[must_use]
    pub fn empty_mark(&self, shard: Shard) -> Mark {
        Mark {
            shard: shard.to_string(),
            schema: self.fingerprint.clone(),
            sequence: 0,
            top_key: 0,
            exact: false,
            check: String::new(),
        }
    }

    /// Reads a commit's payload. A shard without any commit has none.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when it is not ours, of another shard, or of another schema or analysis.
    pub fn read_mark(&self, payload: Option<&str>, shard: Shard) -> Result<Mark, IndexError> {
        let empty = self.empty_mark(shard);
        let Some(payload) = payload else { return Ok(empty) };
        let mark: Mark = serde_json::from_str(payload)
            .map_err(|_| IndexError::Damaged("its commit has no mark of ours"))?;
        if mark.check != mark.checksum() {
            return Err(IndexError::Damaged("its mark is broken"));
        }
        if mark.shard != empty.shard {
            return Err(IndexError::Damaged("it is another shard"));
        }
        if mark.schema != empty.schema {
            return Err(IndexError::Damaged("it was made with another analysis"));
        }
        Ok(mark)
    }
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
