//! Old months in object storage: they go there, are gone here, and come back; and whatever storage does wrong, nothing is removed
//! that it does not have.

mod support;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use support::s3::{BUCKET, KEY_ID, SECRET};
use support::{Caller, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, S3, S3Act, Via, mosquitto};

async fn node(s3: &S3, more: &str) -> Option<(Mosquitto, Daemon, Caller)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!(
        "[memory]\narchive = {:?}\ns3_credentials_file = {:?}\n{more}",
        s3.location("old/n1"),
        s3.credentials_file()
    );
    let daemon = Daemon::start(options).await;
    let asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    Some((broker, daemon, asker))
}

/// Brings in facts of `month`, which no retention removes; how long each is, is up to `content`.
async fn fill(
    daemon: &Daemon,
    asker: &mut Caller,
    month: &str,
    count: usize,
    content: impl Fn(usize) -> String,
) {
    let lines: String = (0..count)
        .map(|number| {
            let record = json!({
                "id": id(month, number),
                "content": content(number),
                "layer": "semantic",
                "created": format!("{month}-15T00:00:00.000Z"),
                "tags": ["old"],
            });
            format!("{record}\n")
        })
        .collect();
    let folder = daemon.state_dir().join("transfer");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("fill.jsonl"), lines).unwrap();
    let imported = asker.ask_ok("memory/import", json!({ "file": "fill.jsonl" })).await;
    assert_eq!(imported["imported"], count, "{imported}");
    fs::remove_file(folder.join("fill.jsonl")).unwrap();
}

/// The id that [`fill`] gives a record.
fn id(month: &str, number: usize) -> String {
    format!("00000000-{}-7000-8000-{number:012}", &month.replace('-', "")[2..])
}

async fn records(asker: &mut Caller) -> u64 {
    let stats = asker.ask_ok("memory/stats", json!({})).await;
    stats["layers"].as_array().unwrap().iter().map(|layer| layer["records"].as_u64().unwrap()).sum()
}

/// What is in the transfer folder.
fn left(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.state_dir().join("transfer")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn import(file: &str) -> Value {
    json!({ "file": file, "from_storage": true })
}

#[tokio::test]
async fn old_months_go_to_object_storage_and_come_back() {
    let s3 = S3::with_tls();
    let ca = format!("s3_ca_file = {:?}\n", s3.ca_file().unwrap());
    let Some((_broker, mut daemon, mut asker)) = node(&s3, &ca).await else { return };
    for (month, count) in [("2020-01", 30), ("2020-02", 3)] {
        fill(&daemon, &mut asker, month, count, |number| format!("fact {number} of {month}")).await;
    }
    asker.ask_ok("memory/pin", json!({ "id": id("2020-01", 7) })).await;
    let before = asker.ask_ok("memory/get", json!({ "id": id("2020-02", 1) })).await;

    let archived = asker.ask_ok("memory/archive", json!({ "before": "2020-03" })).await;
    let scheme_and_place = s3.location("old/n1");
    assert_eq!(archived["storage"], scheme_and_place.as_str(), "{archived}");
    assert_eq!((&archived["records"], archived["months"].as_array().unwrap().len()), (&json!(32), 2));
    assert_eq!(records(&mut asker).await, 1, "the pinned one");
    let gone = asker.ask("memory/get", json!({ "id": id("2020-02", 1) })).await;
    assert_eq!(gone["error"]["code"], "not_found");
    assert_eq!(left(&daemon), Vec::<String>::new(), "nothing of it stays on this machine");

    let objects = s3.objects();
    let names: Vec<_> = objects.keys().map(String::as_str).collect();
    let [one, two] = ["2020-01", "2020-02"].map(|month| format!("old/n1/semantic-{month}.jsonl.zst"));
    let expected = [one.clone(), format!("{one}.sha256"), two.clone(), format!("{two}.sha256")];
    assert_eq!(names, expected, "in {BUCKET}");
    // Whoever has the file can read and check it without us.
    let text = zstd::decode_all(objects[&one].as_ref()).unwrap();
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 29);
    let told = String::from_utf8(objects[&expected[1]].to_vec()).unwrap();
    let sha256 = hex::encode(ring::digest::digest(&ring::digest::SHA256, &objects[&one]));
    assert_eq!(told, format!("{sha256}  semantic-2020-01.jsonl.zst\n"));
    assert_eq!(archived["months"][0]["sha256"], sha256.as_str());

    for (file, count) in [("semantic-2020-01.jsonl.zst", 29), ("semantic-2020-02.jsonl.zst", 3)] {
        let imported = asker.ask_ok("memory/import", import(file)).await;
        assert_eq!((&imported["imported"], &imported["rejected"]), (&json!(count), &json!(0)), "{imported}");
    }
    let back = asker.ask_ok("memory/get", json!({ "id": id("2020-02", 1) })).await;
    for field in ["content", "created", "tags", "layer", "source", "checksum", "version"] {
        assert_eq!(back[field], before[field], "{field}");
    }
    assert_eq!(records(&mut asker).await, 33);
    assert_eq!(left(&daemon), Vec::<String>::new());
    // A month that is archived again does not take the place of its first archive.
    let again = asker.ask_ok("memory/archive", json!({ "before": "2020-03" })).await;
    assert_eq!(again["months"][1]["file"], "semantic-2020-02-2.jsonl.zst", "{again}");
    assert!(s3.objects().contains_key(&two));
    let missing = asker.ask("memory/import", import("semantic-1999-01.jsonl.zst")).await;
    assert_eq!(missing["error"]["code"], "not_found", "{missing}");
    let outside = asker.ask("memory/import", import("../semantic-2020-01.jsonl.zst")).await;
    assert_eq!(outside["error"]["code"], "invalid", "{outside}");
    daemon.terminate().await;
    assert!(!daemon.log().contains(SECRET) && !daemon.log().contains("Signature"), "{}", daemon.log());
}

/// A text that hardly gets smaller.
fn noise(number: usize) -> String {
    let words = (0..156).map(|part: u32| {
        let of = [u32::try_from(number).unwrap().to_le_bytes(), part.to_le_bytes()].concat();
        hex::encode(ring::digest::digest(&ring::digest::SHA256, &of))
    });
    words.collect()
}

#[tokio::test]
async fn a_large_month_goes_in_parts_and_comes_back_whole() {
    let s3 = S3::start();
    let Some((_broker, mut daemon, mut asker)) = node(&s3, "").await else { return };
    fill(&daemon, &mut asker, "2020-01", 2_000, noise).await;
    // One that breaks off at its end is given up.
    let posts = AtomicU32::new(0);
    s3.play(move |method, _| {
        let is_end = method == "POST" && posts.fetch_add(1, Ordering::AcqRel) == 1;
        is_end.then_some(S3Act::Fail(403))
    });
    let told = asker.ask("memory/archive", json!({ "before": "2020-02" })).await;
    assert_eq!(told["error"]["code"], "unavailable", "{told}");
    s3.behave();
    assert_eq!((s3.unfinished(), records(&mut asker).await), (0, 2_000));
    assert_eq!(s3.objects().len(), 0);

    s3.take_asked();
    let archived = asker.ask_ok("memory/archive", json!({ "before": "2020-02" })).await;
    let bytes = archived["months"][0]["bytes"].as_u64().unwrap();
    assert!(bytes > 8 << 20, "too small to need parts: {bytes}");
    let asked = s3.take_asked();
    let of = |method: &str| {
        asked.iter().filter(|(asked, name, _)| asked == method && name.ends_with(".zst")).count()
    };
    assert_eq!((of("POST"), of("PUT"), of("GET")), (2, 2, 2), "{asked:?}");
    assert_eq!((s3.unfinished(), records(&mut asker).await), (0, 0));
    let imported = asker.ask_ok("memory/import", import("semantic-2020-01.jsonl.zst")).await;
    assert_eq!(imported["imported"], 2_000, "{imported}");
    let back = asker.ask_ok("memory/get", json!({ "id": id("2020-01", 1_999) })).await;
    assert_eq!(back["content"], noise(1_999).as_str());
    daemon.terminate().await;
}

#[tokio::test]
async fn what_storage_does_wrong_is_told_and_nothing_is_removed() {
    let s3 = S3::start();
    let Some((_broker, mut daemon, mut asker)) = node(&s3, "s3_timeout_s = 1\n").await else { return };
    fill(&daemon, &mut asker, "2020-01", 40, |number| format!("fact {number}")).await;
    let file = "old/n1/semantic-2020-01.jsonl.zst";
    let faults: [(&str, &str, S3Act, &str, &str); 8] = [
        ("HEAD", file, S3Act::Fail(500), "unavailable", "answered 500"),
        ("PUT", file, S3Act::Fail(500), "unavailable", "answered 500 (InternalError)"),
        ("PUT", file, S3Act::Hang, "unavailable", "did not answer within 1 s"),
        ("PUT", file, S3Act::Fail(507), "storage_full", "the object storage is full"),
        ("PUT", ".sha256", S3Act::Fail(403), "unavailable", "answered 403"),
        ("GET", file, S3Act::Fail(500), "unavailable", "answered 500"),
        ("GET", file, S3Act::Hang, "unavailable", "did not answer within 1 s"),
        ("GET", file, S3Act::Flip, "conflict", "nothing was removed"),
    ];
    for (method, name, act, code, expected) in faults {
        s3.play(move |asked, of| (asked == method && of.ends_with(name)).then_some(act));
        let told = asker.ask("memory/archive", json!({ "before": "2020-02" })).await;
        assert_eq!(told["error"]["code"], code, "{method} {name} {act:?}: {told}");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected) && !message.contains(KEY_ID), "{method} {name}: {told}");
        assert_eq!(records(&mut asker).await, 40, "{method} {name}");
        assert_eq!(left(&daemon), Vec::<String>::new(), "{method} {name}");
        s3.behave();
        assert_eq!(s3.objects().len(), 0, "{method} {name}: what is not needed is removed there");
    }
    asker.ask_ok("memory/archive", json!({ "before": "2020-02" })).await;
    assert_eq!(records(&mut asker).await, 0);

    // And on the way back.
    let faults: [(&str, S3Act, &str, &str); 4] = [
        (file, S3Act::Fail(500), "unavailable", "answered 500"),
        (file, S3Act::Hang, "unavailable", "did not answer within 1 s"),
        (file, S3Act::Flip, "invalid", "checksum"),
        (".sha256", S3Act::Fail(500), "unavailable", "answered 500"),
    ];
    for (name, act, code, expected) in faults {
        s3.play(move |asked, of| (asked == "GET" && of.ends_with(name)).then_some(act));
        let told = asker.ask("memory/import", import("semantic-2020-01.jsonl.zst")).await;
        assert_eq!(told["error"]["code"], code, "{name} {act:?}: {told}");
        assert!(told["error"]["message"].as_str().unwrap().contains(expected), "{name} {act:?}: {told}");
        assert_eq!((records(&mut asker).await, left(&daemon)), (0, Vec::new()), "{name} {act:?}");
    }
    s3.behave();
    let imported = asker.ask_ok("memory/import", import("semantic-2020-01.jsonl.zst")).await;
    assert_eq!(imported["imported"], 40, "{imported}");

    // Keys that are not the right ones.
    fs::write(s3.credentials_file(), format!("AWS_ACCESS_KEY_ID={KEY_ID}\nAWS_SECRET_ACCESS_KEY=wrong\n"))
        .unwrap();
    let told = asker.ask("memory/archive", json!({ "before": "2020-02" })).await;
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("answered 403") && !message.contains("wrong"), "{told}");
    fs::remove_file(s3.credentials_file()).unwrap();
    let told = asker.ask("memory/archive", json!({ "before": "2020-02" })).await;
    assert_eq!(told["error"]["code"], "forbidden", "{told}");
    assert_eq!(records(&mut asker).await, 40);
    daemon.terminate().await;
}

#[tokio::test]
async fn without_object_storage_nothing_comes_from_it() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("n1", Via::Plain(broker.addr()))).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let told = asker.ask("memory/import", import("semantic-2020-01.jsonl.zst")).await;
    assert_eq!(told["error"]["code"], "forbidden", "{told}");
    daemon.terminate().await;
}
