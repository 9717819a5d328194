//! The keys of what the node remembers: how it is kept, found and ranked, and how long. Declared as in [`super::resolved`].

use std::path::PathBuf;
use std::time::Duration;

use super::keys::{Absent, section};
use super::kind::{Holds, Kind, Unit};
use super::rules::{self, Weights};
use crate::storage::{Bucket, Remote, S3Access};

use Absent::{Unset, Value as Is};
use Kind::{Choice, Float, Integer, Path, Text};
use Unit::{Count, Days, Megabytes, Milliseconds, Seconds};

/// Languages that memories can be in.
const LANGUAGES: &[&str] = &[
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "turkish",
    "none",
];

section! {
    /// What the node remembers.
    "memory" Memory {
        /// Longest content of a memory, in characters.
        content_max_chars: usize = "content_max_chars", Integer(1, 1_000_000, Count), Is("10_000"), "";
        /// How long changes are gathered before the search index is committed. Memories are safe before that: the
        /// index is made from the ledger.
        index_commit: Duration = "index_commit_ms", Integer(10, 60_000, Milliseconds), Is("500"), "";
        /// Language of the memories, for stop words and stems; `none` for neither. With another one than before, the search
        /// index is built anew.
        language: String = "language", Choice(LANGUAGES), Is(r#""english""#), "";
        /// How often the files of the search index are looked at, whether anyone has changed or removed one.
        index_look: Duration = "index_look_s", Integer(1, 86_400, Seconds), Is("10"), "";
        /// Folder that memories are exported and archived to, and imported from. Commands name files in it, never paths.
        transfer_dir: PathBuf = "transfer_dir", Path(Holds::Folder), Is(r#""{state_dir}/transfer""#), "";
        /// A place in S3-compatible object storage where `memory/archive` puts old months instead of `transfer_dir`, such as
        /// `s3:https://s3.example.org/bucket/node-7`. What is there is compressed, and not encrypted.
        archive: Option<Bucket> = "archive", Text("`s3:https://HOST/BUCKET/PREFIX`", rules::archive), Unset, r#""s3:https://s3.example.org/archives/node-7""#;
        /// File with the keys for it: `AWS_ACCESS_KEY_ID=...` and `AWS_SECRET_ACCESS_KEY=...`, a line each.
        s3_credentials_file: Option<PathBuf> = "s3_credentials_file", Path(Holds::Secret), Unset, r#""/etc/orchd/archive.credentials""#;
        /// Region that requests to it are signed for.
        s3_region: String = "s3_region", Text("a word", rules::word), Is(r#""us-east-1""#), "";
        /// Authorities that it is trusted by, where they are not those of the system.
        s3_ca_file: Option<PathBuf> = "s3_ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/s3-ca.pem""#;
        /// Longest time of one request to it; one that fails is tried five times.
        s3_timeout: Duration = "s3_timeout_s", Integer(1, 3_600, Seconds), Is("60"), "";
        /// Records that a namespace may hold; 0 for any number.
        namespace_max_records: u64 = "namespace_max_records", Integer(0, 1_000_000_000, Count), Is("0"), "";
        /// Megabytes of contents that a namespace may hold; 0 for any number.
        namespace_max_mb: u64 = "namespace_max_mb", Integer(0, 1_048_576, Megabytes), Is("0"), "";
        /// Records that a user may hold; 0 for any number.
        user_max_records: u64 = "user_max_records", Integer(0, 1_000_000_000, Count), Is("0"), "";
        /// Megabytes of contents that a user may hold; 0 for any number.
        user_max_mb: u64 = "user_max_mb", Integer(0, 1_048_576, Megabytes), Is("0"), "";
        /// How long the old version of an updated record is kept; 0 keeps none.
        history_days: u32 = "history_days", Integer(0, 36_500, Days), Is("30"), "";
        /// How long a forgotten record can be brought back, before it is purged.
        forgotten_days: u32 = "forgotten_days", Integer(0, 36_500, Days), Is("7"), "";
        /// Time in which importance decays to one half, where it decides on promotion; 0 for no decay.
        importance_half_life_days: f64 = "importance_half_life_days", Float(0.0, 36_500.0), Is("30.0"), "";
        /// A record in `short_term` whose decayed importance is at least this is promoted to `long_term` before it expires.
        promote_importance: f64 = "promote_importance", Float(0.0, 1.0), Is("0.6"), "";
        /// A record in `short_term` that was recalled at least so often is promoted too; 0 for never.
        promote_accesses: u64 = "promote_accesses", Integer(0, 1_000_000_000, Count), Is("3"), "";
    }
}

impl Memory {
    /// Where archives go, if not into the transfer folder.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        let Self { archive, s3_credentials_file, s3_region, s3_ca_file, s3_timeout, .. } = self;
        let (file, ca, region) = (s3_credentials_file.clone(), s3_ca_file.clone(), s3_region.clone());
        let access = S3Access::new(file, region, ca, *s3_timeout);
        Some(Remote { bucket: archive.clone()?, access })
    }
}

section! {
    /// Finding memories by their meaning besides their words: a model behind an endpoint like Ollama's makes vectors of
    /// contents and queries. Off unless `url` and `model` are set; contents go to that address.
    "embeddings" Embeddings {
        /// Base address of the endpoint. Needs `model`.
        url: Option<String> = "url", Text("`http://host:port`", rules::local_url), Unset, r#""http://127.0.0.1:11434""#;
        /// The model. With another one than before, all vectors are made anew.
        model: Option<String> = "model", Text("a word", rules::word), Unset, r#""nomic-embed-text""#;
        /// What stands before the text of a query, for models that want it.
        query_prefix: String = "query_prefix", Text("a text", rules::prefix), Is(r#""""#), r#""search_query: ""#;
        /// What stands before the content of a memory, for models that want it. With another one than before, all vectors are
        /// made anew.
        content_prefix: String = "content_prefix", Text("a text", rules::prefix), Is(r#""""#), r#""search_document: ""#;
        /// The least similarity (cosine) that makes a hit. What fits depends on the model.
        min_similarity: f64 = "min_similarity", Float(-1.0, 1.0), Is("0.3"), "";
        /// Longest time that the vector of a query may take; then it is answered by its words alone. Contents get 30 times as
        /// long.
        timeout: Duration = "timeout_ms", Integer(10, 60_000, Milliseconds), Is("2_000"), "";
        /// Memories that get their vectors in one request.
        batch: u32 = "batch", Integer(1, 256, Count), Is("32"), "";
        /// Vectors that are kept in memory; beyond that the months that were asked least recently are read from the ledger.
        memory_mb: u64 = "memory_mb", Integer(1, 65_536, Megabytes), Is("64"), "";
        /// Certificates (PEM) of the authorities that the endpoint's certificate may come from; those of the system when it
        /// is not set.
        ca_file: Option<PathBuf> = "ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/embeddings-ca.pem""#;
        /// Failures in a row after which the endpoint is left alone.
        breaker_failures: u32 = "breaker_failures", Integer(1, 1_000, Count), Is("3"), "";
        /// How long it is left alone before it is tried again.
        breaker_pause: Duration = "breaker_pause_s", Integer(1, 3_600, Seconds), Is("30"), "";
    }
}

section! {
    /// How much text, recency and importance count in the score of a hit, for each layer, and after how many days
    /// recency is one half. Only the proportions of the first three count.
    "ranking" Ranking {
        /// Weights in `short_term`.
        short_term: Weights = "short_term", Text("weights", rules::weights), Is(r#""text 0.96, recency 0.02, importance 0.02, half_life_days 3""#), "";
        /// Weights in `long_term`.
        long_term: Weights = "long_term", Text("weights", rules::weights), Is(r#""text 0.96, recency 0.02, importance 0.02, half_life_days 90""#), "";
        /// Weights in `working`.
        working: Weights = "working", Text("weights", rules::weights), Is(r#""text 0.96, recency 0.02, importance 0.02, half_life_days 7""#), "";
        /// Weights in `episodic`.
        episodic: Weights = "episodic", Text("weights", rules::weights), Is(r#""text 0.96, recency 0.02, importance 0.02, half_life_days 90""#), "";
        /// Weights in `semantic`: facts do not age.
        semantic: Weights = "semantic", Text("weights", rules::weights), Is(r#""text 0.98, recency 0.0, importance 0.02, half_life_days 365""#), "";
    }
}

section! {
    /// How long memories are kept. Pruning removes what is older than its layer keeps it or, the oldest first, what does not
    /// fit. Pinned records stay.
    "retention" Retention {
        /// Share of all records above which a pruning waits for a confirmation, so that a clock that has jumped ahead does
        /// not empty the memory.
        max_share: f64 = "max_share", Float(0.0, 1.0), Is("0.5"), "";
        /// A pruning that removes no more records than this needs no confirmation, as long as prunings run when they should.
        max_share_floor: u64 = "max_share_floor", Integer(0, 1_000_000_000, Count), Is("100"), "";
        /// How long `short_term` keeps records; 0 for ever.
        short_term_days: u32 = "short_term_days", Integer(0, 36_500, Days), Is("7"), "";
        /// Most that `short_term` holds, contents and index; 0 for any number.
        short_term_max_mb: u64 = "short_term_max_mb", Integer(0, 1_048_576, Megabytes), Is("1_024"), "";
        /// How long `long_term` keeps records; 0 for ever.
        long_term_days: u32 = "long_term_days", Integer(0, 36_500, Days), Is("365"), "";
        /// Most that `long_term` holds, contents and index; 0 for any number.
        long_term_max_mb: u64 = "long_term_max_mb", Integer(0, 1_048_576, Megabytes), Is("1_024"), "";
        /// How long `working` keeps records; 0 for ever.
        working_days: u32 = "working_days", Integer(0, 36_500, Days), Is("30"), "";
        /// Most that `working` holds, contents and index; 0 for any number.
        working_max_mb: u64 = "working_max_mb", Integer(0, 1_048_576, Megabytes), Is("1_024"), "";
        /// How long `episodic` keeps records; 0 for ever.
        episodic_days: u32 = "episodic_days", Integer(0, 36_500, Days), Is("730"), "";
        /// Most that `episodic` holds, contents and index; 0 for any number.
        episodic_max_mb: u64 = "episodic_max_mb", Integer(0, 1_048_576, Megabytes), Is("1_024"), "";
        /// How long `semantic` keeps records; 0 for ever.
        semantic_days: u32 = "semantic_days", Integer(0, 36_500, Days), Is("0"), "";
        /// Most that `semantic` holds, contents and index; 0 for any number.
        semantic_max_mb: u64 = "semantic_max_mb", Integer(0, 1_048_576, Megabytes), Is("1_024"), "";
    }
}
