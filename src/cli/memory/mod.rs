//! `orchd memory …`: every verb of memory.

mod many;
mod show;
pub(super) mod work;

use serde_json::{Value, json};

use super::client::{self, Answer, Question, Reach};
use super::{Exit, Shared};

/// Store, find, change, forget, prune and carry memories
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Store one memory, or many: one JSON object on each line of standard input
    #[command(after_help = client::HELP)]
    Store(Store),
    /// Search; without a text, the newest first
    #[command(after_help = client::HELP)]
    Query(Query),
    /// Show one memory
    #[command(after_help = client::HELP)]
    Get(Get),
    /// Change a memory: a new version
    #[command(after_help = client::HELP)]
    Update(Update),
    /// Forget a memory; it can be brought back for some days, unless it is purged
    #[command(after_help = client::HELP)]
    Forget(Forget),
    /// Have pruning spare a memory
    #[command(after_help = client::HELP)]
    Pin(Pin),
    /// Show how much is remembered
    #[command(after_help = client::HELP)]
    Stats(Plain),
    /// Remove what is too old or does not fit, and give the disk back
    #[command(after_help = client::HELP)]
    Prune(Prune),
    /// Move what matters from short_term to long_term
    #[command(after_help = client::HELP)]
    Promote(Promote),
    /// Write memories to a file in the node's transfer folder
    #[command(after_help = client::HELP)]
    Export(Export),
    /// Bring memories in from a file in the node's transfer folder
    #[command(after_help = client::HELP)]
    Import(Import),
    /// Move old months into files in the node's transfer folder
    #[command(after_help = client::HELP)]
    Archive(Archive),
    /// Build the search index anew
    #[command(after_help = client::HELP)]
    Rebuild(Rebuild),
}

#[derive(clap::Args, Debug)]
struct Store {
    /// What to remember; `-` reads JSON Lines, each a store request, from standard input. They go in batches of up to 100,
    /// each of which is stored as a whole or not at all
    content: String,
    #[command(flatten)]
    about: About,
    /// Answer with the memory of the same content in the namespace, if there is one
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    reach: Reach,
}

/// What a store says beside its content.
#[derive(clap::Args, Debug)]
struct About {
    /// short_term, long_term, working, episodic or semantic
    #[arg(long)]
    layer: Option<String>,
    /// A word to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Whom or what it is about
    #[arg(long)]
    entity: Option<String>,
    /// Whose it is
    #[arg(long)]
    namespace: Option<String>,
    /// The user whom it belongs to
    #[arg(long)]
    user: Option<String>,
    /// Which model or client it comes from
    #[arg(long)]
    source: Option<String>,
    /// How important it is, from 0 to 1
    #[arg(long, value_name = "NUMBER")]
    importance: Option<f64>,
    /// When it ends, as in RFC 3339
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Have pruning spare it
    #[arg(long)]
    pinned: bool,
}

#[derive(clap::Args, Debug)]
struct Query {
    /// Words, of which any may occur; "a phrase", +required, -excluded
    text: Option<String>,
    /// Only this layer; may be repeated
    #[arg(long = "layer", value_name = "LAYER")]
    layers: Vec<String>,
    /// Only what has this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only what names this entity
    #[arg(long)]
    entity: Option<String>,
    /// Only what is about this entity, or linked to it in the soul
    #[arg(long, value_name = "ENTITY")]
    about: Option<String>,
    /// Only of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only of this user
    #[arg(long)]
    user: Option<String>,
    /// Only what was stored then or later, as in RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what was stored before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Most hits
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
    /// What follows an earlier answer
    #[arg(long)]
    cursor: Option<String>,
    /// Answer from the index as it is, without waiting for what was stored last
    #[arg(long)]
    fast: bool,
    /// Say what each score is made of, and count all that match
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Get {
    /// The memory
    id: String,
    /// Add what it was before
    #[arg(long)]
    history: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Update {
    /// The memory
    id: String,
    /// Only if this is its present version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u32>,
    /// What to remember now
    #[arg(long)]
    content: Option<String>,
    /// A word to find it by, in place of all it has; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Whom or what it is about
    #[arg(long)]
    entity: Option<String>,
    /// How important it is, from 0 to 1
    #[arg(long, value_name = "NUMBER")]
    importance: Option<f64>,
    /// When it ends, as in RFC 3339
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Which model or client says so
    #[arg(long)]
    source: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Forget {
    /// The memory
    id: String,
    /// Remove it for good, at once
    #[arg(long, conflicts_with = "undo")]
    purge: bool,
    /// Bring it back
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Pin {
    /// The memory
    id: String,
    /// Let pruning have it again
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Plain {
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Rebuild {
    /// Also have all vectors made anew, where embeddings are on
    #[arg(long)]
    embeddings: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Prune {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Only this layer; may be repeated
    #[arg(long = "layer", value_name = "LAYER")]
    layers: Vec<String>,
    /// Prune although it is more than the node removes unasked; the word is what the refused run named
    #[arg(long, value_name = "WORD", conflicts_with = "dry_run")]
    confirm: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Promote {
    /// These memories, whatever they are worth; else what is due
    ids: Vec<String>,
    /// Only say what would be promoted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Export {
    /// Name of the file; compressed when it ends in .zst
    file: String,
    /// Only this layer; may be repeated
    #[arg(long = "layer", value_name = "LAYER")]
    layers: Vec<String>,
    /// Only this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only this user's
    #[arg(long)]
    user: Option<String>,
    /// Only what was stored then or later, as in RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only what was stored before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Import {
    /// Name of the file; compressed when it ends in .zst
    file: String,
    /// Replace memories that are there already
    #[arg(long)]
    replace: bool,
    /// Pin what comes in, so that retention leaves it alone
    #[arg(long)]
    pin: bool,
    /// Put all of it in this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// The file is an archive in object storage
    #[arg(long)]
    from_storage: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(clap::Args, Debug)]
struct Archive {
    /// Months before this one, yyyy-mm
    before: String,
    /// Only this layer; may be repeated
    #[arg(long = "layer", value_name = "LAYER")]
    layers: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        match &self.verb {
            Verb::Store(args) => args.run(shared),
            Verb::Query(args) => args.run(shared),
            Verb::Get(args) => {
                let payload = super::ask::given([("id", json!(args.id)), ("history", flag(args.history))]);
                ask(&args.reach, shared, "memory/get", &payload, show::record)
            }
            Verb::Update(args) => args.run(shared),
            Verb::Forget(args) => {
                let payload = super::ask::given([
                    ("id", json!(args.id)),
                    ("purge", flag(args.purge)),
                    ("undo", flag(args.undo)),
                ]);
                ask(&args.reach, shared, "memory/forget", &payload, show::forgotten)
            }
            Verb::Pin(args) => {
                let payload = json!({ "id": args.id, "pinned": !args.off });
                ask(&args.reach, shared, "memory/pin", &payload, show::members)
            }
            Verb::Stats(args) => ask(&args.reach, shared, "memory/stats", &json!({}), show::stats),
            Verb::Prune(args) => {
                let verb = if args.confirm.is_some() { "memory/prune/confirm" } else { "memory/prune" };
                let payload = super::ask::given([
                    ("dry_run", flag(args.dry_run)),
                    ("layers", super::ask::list(&args.layers)),
                    ("word", json!(args.confirm)),
                ]);
                work::job(&args.reach, shared, verb, &payload, show::pruned)
            }
            Verb::Promote(args) => {
                let payload = super::ask::given([
                    ("ids", super::ask::list(&args.ids)),
                    ("dry_run", flag(args.dry_run)),
                ]);
                work::job(&args.reach, shared, "memory/promote", &payload, show::members)
            }
            Verb::Export(args) => {
                let payload = super::ask::given([
                    ("file", json!(args.file)),
                    ("layers", super::ask::list(&args.layers)),
                    ("namespace", json!(args.namespace)),
                    ("user", json!(args.user)),
                    ("from", json!(args.from)),
                    ("to", json!(args.to)),
                ]);
                work::job(&args.reach, shared, "memory/export", &payload, show::members)
            }
            Verb::Import(args) => {
                let payload = super::ask::given([
                    ("file", json!(args.file)),
                    ("replace", flag(args.replace)),
                    ("pin", flag(args.pin)),
                    ("namespace", json!(args.namespace)),
                    ("from_storage", flag(args.from_storage)),
                ]);
                work::job(&args.reach, shared, "memory/import", &payload, show::imported)
            }
            Verb::Archive(args) => {
                let payload = super::ask::given([
                    ("before", json!(args.before)),
                    ("layers", super::ask::list(&args.layers)),
                ]);
                work::job(&args.reach, shared, "memory/archive", &payload, show::archived)
            }
            Verb::Rebuild(args) => {
                let payload = super::ask::given([("embeddings", flag(args.embeddings))]);
                work::job(&args.reach, shared, "memory/rebuild", &payload, show::members)
            }
        }
    }
}

impl Store {
    fn run(&self, shared: &Shared) -> Exit {
        if self.content == "-" {
            return many::store(&self.reach, shared);
        }
        let About { layer, tags, entity, namespace, user, source, importance, expires, pinned } = &self.about;
        let payload = super::ask::given([
            ("content", json!(self.content)),
            ("layer", json!(layer)),
            ("tags", super::ask::list(tags)),
            ("entity", json!(entity)),
            ("namespace", json!(namespace)),
            ("user", json!(user)),
            ("source", json!(source)),
            ("importance", json!(importance)),
            ("expires", json!(expires)),
            ("pinned", flag(*pinned)),
            ("if_absent", flag(self.if_absent)),
        ]);
        ask(&self.reach, shared, "memory/store", &payload, show::stored)
    }
}

impl Query {
    fn run(&self, shared: &Shared) -> Exit {
        let payload = super::ask::given([
            ("text", json!(self.text)),
            ("layers", super::ask::list(&self.layers)),
            ("tags", super::ask::list(&self.tags)),
            ("entity", json!(self.entity)),
            ("about", json!(self.about)),
            ("explain", flag(self.explain)),
            ("namespace", json!(self.namespace)),
            ("user", json!(self.user)),
            ("from", json!(self.from)),
            ("to", json!(self.to)),
            ("limit", json!(self.limit)),
            ("cursor", json!(self.cursor)),
            // Who has just stored something expects to find it.
            ("consistency", json!(if self.fast { "fast" } else { "latest" })),
        ]);
        ask(&self.reach, shared, "memory/query", &payload, super::ask::show_hits)
    }
}

impl Update {
    fn run(&self, shared: &Shared) -> Exit {
        let payload = super::ask::given([
            ("id", json!(self.id)),
            ("if_version", json!(self.if_version)),
            ("content", json!(self.content)),
            ("tags", super::ask::list(&self.tags)),
            ("entity", json!(self.entity)),
            ("importance", json!(self.importance)),
            ("expires", json!(self.expires)),
            ("source", json!(self.source)),
        ]);
        ask(&self.reach, shared, "memory/update", &payload, show::members)
    }
}

/// True, or nothing to send.
fn flag(set: bool) -> Value {
    if set { Value::Bool(true) } else { Value::Null }
}

fn ask(
    reach: &Reach,
    shared: &Shared,
    command: &str,
    payload: &Value,
    show: impl FnOnce(&Answer) -> String,
) -> Exit {
    match Question::new(command, payload) {
        Ok(question) => reach.ask(shared, &question, show, |_| Exit::Ok),
        Err(failure) => failure.report(),
    }
}
