//! The store with real files.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::schema::MIGRATIONS;
use super::*;

fn memory() -> Store {
    Store::in_memory(None).unwrap()
}

fn ask(store: &Store, id: i64, parent: Option<i64>, text: &str, answer: &str) -> (i64, i64) {
    let (q, a) = store.ask(id, &NewMessage { parent, text, attachments: &[] }, "tiny").unwrap();
    done(store, a, answer);
    (q, a)
}

fn done(store: &Store, id: i64, text: &str) {
    let stats = Stats { tokens: 3, ..Stats::default() };
    let end = Finish { text, reasoning: "", tools: &[], state: State::Done, note: None, stats: Some(&stats) };
    store.keep(id, &end).unwrap();
}

fn texts(store: &Store, id: i64) -> Vec<String> {
    store.branch(id).unwrap().into_iter().map(|m| m.text).collect()
}

/// Whether `needle` stands anywhere in the database's files.
fn on_disk(path: &Path, needle: &str) -> bool {
    ["", "-wal", "-shm", "-journal"].iter().any(|suffix| {
        let bytes = fs::read(crate::file::beside(path, suffix)).unwrap_or_default();
        bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
    })
}

#[test]
fn edits_and_new_answers_are_branches() {
    let store = memory();
    let id = store.create(None, &Settings::default()).unwrap();
    let (q1, a1) = ask(&store, id, None, "one", "first");
    let (q2, a2) = ask(&store, id, Some(a1), "two", "second");
    assert_eq!(texts(&store, id), ["one", "first", "two", "second"]);
    // Another answer to the second question.
    let (conversation, a3) = store.again(a2, "tiny").unwrap();
    assert_eq!((conversation, store.branch(id).unwrap()[3].siblings.clone()), (id, vec![a2, a3]));
    done(&store, a3, "other");
    // The first question edited: a new root beside the old one.
    let (q4, _) = ask(&store, id, None, "uno", "primo");
    assert_eq!(texts(&store, id), ["uno", "primo"]);
    assert_eq!(store.branch(id).unwrap()[0].siblings, [q1, q4]);
    // Back to the old branch, down to its latest end, and to the earlier answer there.
    assert_eq!(store.show(q1).unwrap(), id);
    assert_eq!(texts(&store, id), ["one", "first", "two", "other"]);
    store.show(a2).unwrap();
    assert_eq!(texts(&store, id), ["one", "first", "two", "second"]);
    assert_eq!(store.up_to(q2).unwrap().len(), 3);
    assert_eq!(store.conversation(id).unwrap().title, "one");
}

#[test]
fn a_question_follows_an_answer_of_its_own_conversation() {
    let store = memory();
    let [one, two] = [(); 2].map(|()| store.create(None, &Settings::default()).unwrap());
    let (q, a) = ask(&store, one, None, "one", "first");
    for parent in [q, 999] {
        assert!(store.ask(one, &NewMessage { parent: Some(parent), ..Default::default() }, "m").is_err());
    }
    assert!(store.ask(two, &NewMessage { parent: Some(a), ..Default::default() }, "m").is_err());
    assert!(store.ask(77, &NewMessage::default(), "m").unwrap_err().to_string().contains("gone"));
    assert!(store.again(999, "m").is_err() && store.show(999).is_err() && store.up_to(999).is_err());
}

#[test]
fn search_finds_parts_of_words_in_texts_titles_and_files() {
    let store = memory();
    let [one, two, three] = [(); 3].map(|()| store.create(None, &Settings::default()).unwrap());
    ask(&store, one, None, "How do Größen work?", "A 100% \"quoted\" word and a snake_case name.");
    ask(&store, two, None, "東京の天気", "晴れです");
    let file = [Attachment { name: "notes.txt".into(), text: "the zebra sleeps".into() }];
    store.ask(three, &NewMessage { text: "Look", attachments: &file, parent: None }, "m").unwrap();
    store.change(three, &Change { title: Some("Animals".into()), ..Change::default() }).unwrap();
    let found = |q: &str| store.search(q).unwrap().iter().map(|h| h.conversation).collect::<Vec<_>>();
    for (query, expected) in [
        ("größ", vec![one]),
        ("GRÖSS", vec![]),
        ("quoted snake", vec![one]),
        ("quoted zebra", vec![]),
        ("\"quoted\"", vec![one]),
        ("0%", vec![one]),
        ("東京", vec![two]),
        ("晴れで", vec![two]),
        ("zebra", vec![three]),
        ("notes.t", vec![three]),
        ("anim", vec![three]),
        ("  ", vec![]),
        ("AND OR NOT", vec![]),
        ("a*b (", vec![]),
    ] {
        assert_eq!(found(query), expected, "{query}");
    }
    let hit = &store.search("größen").unwrap()[0];
    let marked: Vec<_> = hit.excerpt.iter().filter(|p| p.hit).map(|p| p.text.as_str()).collect();
    assert_eq!(marked, ["Größen"]);
    assert!(hit.excerpt[0].text.starts_with("How do"));
}

#[test]
fn what_is_deleted_is_out_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sqlite");
    let store = Store::open(&path).unwrap();
    let [one, two] = [(); 2].map(|()| store.create(None, &Settings::default()).unwrap());
    let (secret, kept) = ("quixotic-blunderbuss", "harmless-marmalade");
    let long = format!("{secret} {}", "filler words between ".repeat(2000));
    let (_, a) = ask(&store, one, None, &long, secret);
    ask(&store, one, Some(a), "more", &long);
    ask(&store, two, None, kept, kept);
    assert!(on_disk(&path, secret) && on_disk(&path, kept));
    assert!(store.delete(one).unwrap() && !store.delete(one).unwrap());
    assert!(!on_disk(&path, secret) && !on_disk(&path, "quixotic"), "the text is still in the file");
    assert!(on_disk(&path, kept));
    assert!(store.search("quixotic").unwrap().is_empty() && store.search("marmalade").unwrap().len() == 1);
    // The index keeps no part of it either.
    let db = store.db();
    db.execute_batch("CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', 'words', 'row')").unwrap();
    let terms = |t: &str| {
        db.query_row("SELECT count(*) FROM temp.terms WHERE term = ?1", [t], |r| r.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((terms("xot"), terms("arm")), (0, 1));
    drop(db);
    assert_eq!(store.delete_all().unwrap(), 1);
    assert!(!on_disk(&path, kept) && store.list().unwrap().is_empty());
    // Numbers are not given again.
    assert!(store.create(None, &Settings::default()).unwrap() > two);
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/c.sqlite");
    let store = Store::open(&path).unwrap();
    store.create(None, &Settings::default()).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(crate::file::beside(&path, suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[test]
fn older_files_are_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    for version in 0..=MIGRATIONS.len() {
        let path = dir.path().join(format!("{version}.sqlite"));
        let db = Connection::open(&path).unwrap();
        for script in &MIGRATIONS[..version] {
            db.execute_batch(script).unwrap();
        }
        if version > 0 {
            let sql = "PRAGMA application_id = 0x486f6200; INSERT INTO conversations(title, settings, created, updated) VALUES ('old', '{}', 1, 1)";
            db.execute_batch(sql).unwrap();
        }
        db.pragma_update(None, "user_version", version as i64).unwrap();
        drop(db);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.list().unwrap().len(), version.min(1), "{version}");
        assert_eq!(Store::open(&path).unwrap().list().unwrap().len(), version.min(1));
    }
}

#[test]
fn files_that_cannot_be_used_are_explained_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, why: &str| {
        let before = fs::read(path).unwrap();
        let e = Store::open(path).err().expect(why).to_string();
        assert!(e.contains(why), "{e}");
        assert!(before == fs::read(path).unwrap(), "the file was changed");
    };
    let newer = dir.path().join("newer");
    drop(Store::open(&newer).unwrap());
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    refused(&newer, "newer Hob");
    let noise = dir.path().join("noise");
    fs::write(&noise, "this is no database, and it is long enough to be told".repeat(40)).unwrap();
    refused(&noise, "damaged");
    let foreign = dir.path().join("foreign");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    refused(&foreign, "another program's");
    // Bytes in the middle overwritten.
    let broken = dir.path().join("broken");
    let store = Store::open(&broken).unwrap();
    let id = store.create(None, &Settings::default()).unwrap();
    (0..50).fold(None, |p, n| Some(ask(&store, id, p, &format!("{n} {}", "word ".repeat(300)), "a").1));
    drop(store);
    let mut bytes = fs::read(&broken).unwrap();
    let end = bytes.len();
    bytes[4096..end].chunks_mut(4096).for_each(|page| page[..64].fill(0x5a));
    fs::write(&broken, bytes).unwrap();
    assert!(Store::open(&broken).err().unwrap().to_string().contains("damaged"));
    assert!(Store::open(dir.path()).is_err(), "a folder");
}

#[test]
fn many_threads_and_two_processes_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sqlite");
    let stores = [Store::open(&path).unwrap(), Store::open(&path).unwrap()];
    std::thread::scope(|s| {
        for n in 0..8 {
            let store = &stores[n % 2];
            s.spawn(move || {
                let id = store.create(None, &Settings::default()).unwrap();
                let turn = |p, i| Some(ask(store, id, p, &format!("question {i} of {n}"), "yes").1);
                (0..10).fold(None, turn);
                assert_eq!(store.branch(id).unwrap().len(), 20);
                assert!(n % 4 > 0 || store.delete(id).unwrap());
            });
        }
    });
    assert_eq!(stores[0].list().unwrap().len(), 6);
    assert_eq!(stores[1].search("question 9").unwrap().len(), 6);
}

#[test]
fn an_answer_that_was_cut_off_is_not_running_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sqlite");
    let store = Store::open(&path).unwrap();
    let id = store.create(None, &Settings::default()).unwrap();
    let (_, a) = store.ask(id, &NewMessage { text: "q", ..Default::default() }, "m").unwrap();
    let so_far = Finish {
        text: "half an ans",
        reasoning: "",
        tools: &[],
        state: State::Running,
        note: None,
        stats: None,
    };
    store.keep(a, &so_far).unwrap();
    drop(store);
    let m = Store::open(&path).unwrap().message(a).unwrap().1;
    assert_eq!((m.state, m.text.as_str()), (State::Failed, "half an ans"));
    assert!(m.note.is_some());
}

#[test]
fn answers_of_runs_that_go_on_are_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sqlite");
    let running = || {
        let paths = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        paths.filter(|p| p.extension().is_some_and(|e| e == "running")).collect::<Vec<_>>()
    };
    let state = |store: &Store, id| store.message(id).unwrap().1.state;
    let [first, second] = [0; 2].map(|_| Store::open(&path).unwrap());
    let begin = |store: &Store| {
        let id = store.create(None, &Settings::default()).unwrap();
        (id, store.ask(id, &NewMessage { text: "q", ..Default::default() }, "m").unwrap().1)
    };
    let (a, b) = (begin(&first), begin(&second));
    let third = Store::open(&path).unwrap();
    assert_eq!([a, b].map(|m| state(&third, m.1)), [State::Running; 2]);
    assert_eq!(running().len(), 3);
    // One that ends while another looks on, and leaves its file behind.
    let left = running();
    drop(first);
    left.iter().for_each(|p| drop(fs::OpenOptions::new().create(true).append(true).open(p).unwrap()));
    assert_eq!(running().len(), 3);
    assert_eq!(third.branch(b.0).unwrap()[1].state, State::Running);
    assert_eq!(third.branch(a.0).unwrap()[1].state, State::Failed);
    assert_eq!(state(&second, b.1), State::Running);
    // It still may end its own.
    done(&second, b.1, "whole");
    assert_eq!(state(&third, b.1), State::Done);
    drop((second, third));
    drop(Store::open(&path).unwrap());
    assert_eq!(running().len(), 0);
}

#[test]
fn exports_come_back_the_same() {
    let store = memory();
    let settings = Settings { system: "Be brief.".into(), temperature: Some(0.5), ..Settings::default() };
    let id = store.create(Some("tiny"), &settings).unwrap();
    let (_, a) = ask(&store, id, None, "What is `x`?", "It is **x**.");
    store.again(a, "tiny").unwrap();
    let file = [Attachment { name: "a.rs".into(), text: "let s = \"```\";".into() }];
    store.ask(id, &NewMessage { parent: Some(a), text: "And this?", attachments: &file }, "tiny").unwrap();
    let text = serde_json::to_string(&store.export(&[id]).unwrap()).unwrap();
    let other = memory();
    let new = other.import(&text).unwrap()[0];
    assert_eq!(texts(&other, new), texts(&store, id));
    assert_eq!(other.conversation(new).unwrap().settings, settings);
    assert_eq!(other.branch(new).unwrap()[1].siblings.len(), 2);
    assert_eq!(other.search("it is **x").unwrap().len(), 1);
    let markdown = store.markdown(id).unwrap();
    assert!(markdown.starts_with("# What is `x`?\n\n## System\n\nBe brief.\n\n## You\n"), "{markdown}");
    assert!(markdown.contains("File `a.rs`:\n````\nlet s"), "{markdown}");
    for wrong in [
        "",
        "[]",
        r#"{"hob": 2, "conversations": []}"#,
        &text.replace("\"parent\":1", "\"parent\":9"),
        &text.replace("\"parent\":1", "\"parent\":null"),
        &text.replace("0.5", "-3"),
    ] {
        let before = other.list().unwrap().len();
        assert!(other.import(wrong).unwrap_err().to_string().len() > 20);
        assert_eq!(other.list().unwrap().len(), before, "part of a wrong file was taken");
    }
}

#[test]
fn titles_are_made_of_questions() {
    use super::conversations::title_of;
    assert_eq!(title_of("\n  ---\n# Why is\tthe sky blue?\nAnd"), "Why is the sky blue?");
    let long = title_of("Write a long and winding story about a lighthouse keeper, who never slept at night");
    assert_eq!(long, "Write a long and winding story about a lighthouse keeper…");
    assert_eq!(title_of(&"x".repeat(100)).chars().count(), 61);
    let store = memory();
    let id = store.create(None, &Settings::default()).unwrap();
    assert!(store.change(id, &Change { title: Some(" \n".into()), ..Change::default() }).is_err());
    assert!(store.change(99, &Change::default()).is_err());
    let hot = Settings { temperature: Some(f64::NAN), ..Settings::default() };
    assert!(store.change(id, &Change { settings: Some(hot), ..Change::default() }).is_err());
}
