//! Test collections in TREC format: documents, topics, judgements.

use std::collections::HashMap;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// A test collection.
pub struct Collection {
    /// Number and text of each document, in the order of the file.
    pub documents: Vec<(String, String)>,
    /// Number and text of each topic.
    pub topics: Vec<(String, String)>,
    /// For each topic the documents that were judged, and how relevant they are.
    pub judgements: HashMap<String, HashMap<String, i64>>,
}

impl Collection {
    /// Reads `doc-text.trec`, `query-text.trec` and `qrels` in `folder`.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let documents = parse(&read(folder, "doc-text.trec")?, "<DOC>", ("<DOCNO>", "</DOCNO>"), "</DOC>");
        let topics = parse(&read(folder, "query-text.trec")?, "<top>", ("<num>", "</num>"), "</top>");
        let mut judgements: HashMap<String, HashMap<String, i64>> = HashMap::new();
        for line in read(folder, "qrels")?.lines() {
            let wrong = || Error::new(ErrorKind::InvalidData, "qrels: expected `topic 0 document relevance`");
            let [topic, _, document, relevance] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return Err(wrong());
            };
            let relevance = relevance.parse().map_err(|_| wrong())?;
            judgements.entry(topic.into()).or_default().insert(document.into(), relevance);
        }
        Ok(Self { documents, topics, judgements })
    }
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    fs::read_to_string(&path)
        .map_err(|error| Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Number and text of each element; tags within the text are dropped.
fn parse(file: &str, begin: &str, number: (&str, &str), end: &str) -> Vec<(String, String)> {
    let elements = file.split(begin).skip(1).filter_map(|element| {
        let (element, _) = element.split_once(end)?;
        let (_, element) = element.split_once(number.0)?;
        let (number, text) = element.split_once(number.1)?;
        let text = text.replace("<title>", " ").replace("</title>", " ");
        Some((number.trim().to_owned(), text.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    elements.collect()
}
