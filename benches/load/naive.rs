//! A store the naive way: for each record one SQLite transaction, and one index writer that is opened, commits and is
//! closed.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tantivy::schema::{Field, Schema, TEXT};
use tantivy::{Index, IndexWriter, doc};

use super::Failure;

/// The database and the index.
pub struct Naive {
    connection: Connection,
    index: Index,
    content: Field,
}

impl Naive {
    /// Makes both in `folder`.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let index_folder: PathBuf = folder.join("index");
        std::fs::create_dir_all(&index_folder)?;
        let connection = Connection::open(folder.join("naive.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection
            .execute_batch("CREATE TABLE memory (id INTEGER PRIMARY KEY, content TEXT NOT NULL) STRICT")?;
        let mut schema = Schema::builder();
        let content = schema.add_text_field("content", TEXT);
        let index = Index::create_in_dir(&index_folder, schema.build())?;
        Ok(Self { connection, index, content })
    }

    /// Keeps one record.
    pub fn store(&self, text: &str) -> Result<(), Failure> {
        self.connection.prepare_cached("INSERT INTO memory (content) VALUES (?1)")?.execute([text])?;
        let mut writer: IndexWriter = self.index.writer_with_num_threads(1, 15_000_000)?;
        writer.add_document(doc!(self.content => text))?;
        writer.commit()?;
        writer.wait_merging_threads()?;
        Ok(())
    }
}
