//! Tantivy alone: one mapped index, the ten best texts and their identifiers.

use std::path::Path;

use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Occur, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TEXT, Term};
use tantivy::{Index, Searcher, doc};

/// An index that is open for searching.
pub struct Alone {
    searcher: Searcher,
    content: Field,
}

impl Alone {
    /// Makes one of `contents`, in one commit.
    pub fn build(folder: &Path, contents: impl Iterator<Item = String>) -> tantivy::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut schema = Schema::builder();
        let key = schema.add_u64_field("key", FAST);
        let content = schema.add_text_field("content", TEXT);
        let index = Index::create_in_dir(folder, schema.build())?;
        let mut writer = index.writer_with_num_threads(1, 50_000_000)?;
        for (number, text) in contents.enumerate() {
            writer.add_document(doc!(key => number as u64, content => text))?;
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        Ok(Self { searcher: index.reader()?.searcher(), content })
    }

    /// The keys of the ten best.
    pub fn ask(&self, words: &str) -> tantivy::Result<Vec<u64>> {
        let terms = words.split(' ').map(|word| -> (Occur, Box<dyn Query>) {
            let term = Term::from_field_text(self.content, word);
            (Occur::Should, Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)))
        });
        let query = BooleanQuery::new(terms.collect());
        let hits = self.searcher.search(&query, &TopDocs::with_limit(10).order_by_score())?;
        let key = |address: tantivy::DocAddress| {
            let column = self.searcher.segment_reader(address.segment_ord).fast_fields().u64("key")?;
            Ok(column.first(address.doc_id).unwrap_or_default())
        };
        hits.into_iter().map(|(_, address)| key(address)).collect()
    }
}
