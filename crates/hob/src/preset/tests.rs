use std::time::SystemTime;

use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Preset, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chat.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}")
        .unwrap();
    std::fs::write(folder.path().join("own.gguf"), "").unwrap();
    let path = folder.path().join("hob.toml");
    std::fs::write(&path, text).unwrap();
    Preset::read(&path).map_err(|e| e.to_string())
}

fn imported(text: &str) -> Result<(Preset, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.gguf"), "").unwrap();
    let path = folder.path().join("Modelfile");
    std::fs::write(&path, text).unwrap();
    of_modelfile(&path).map_err(|e| e.to_string())
}

fn found(presets: &[(&str, &str)]) -> Found {
    let kept = |(name, text): &(&str, &str)| Kept {
        name: name.to_string(),
        path: PathBuf::new(),
        modified: SystemTime::UNIX_EPOCH,
        preset: read(text).unwrap(),
    };
    Found { presets: presets.iter().map(kept).collect(), ..Found::default() }
}

const WHOLE: &str = r#"
base = "starter"
system = "Talk like a pirate."
template = "chat.jinja"
adapter = "lora"
description = "A pirate."
licence = "MIT"
messages = [{ role = "user", content = "Hi" }, { role = "assistant", content = "Ahoy" }]
[parameters]
temperature = 0.2
top_k = 5
repeat_last_n = -1
stop = ["END", "\n\n"]
ctx = 2048
"#;

#[test]
fn what_is_written_is_what_was_read() {
    let preset = read(WHOLE).unwrap();
    assert!(preset.adapter.as_ref().unwrap().is_absolute());
    assert!(preset.template.as_ref().unwrap().contains("m.content"), "the file's text, not its name");
    assert_eq!(read(&preset.to_toml().unwrap()).unwrap(), preset);
    let least = read("base = 'starter'").unwrap();
    assert_eq!(least.to_toml().unwrap(), "base = \"starter\"\n");
    assert!(Path::new(&read("base = './own.gguf'").unwrap().base).is_absolute());
    let knobs = preset.parameters.knobs();
    assert_eq!((knobs.temperature, knobs.top_k, knobs.repeat_last_n), (Some(0.2), Some(5), Some(usize::MAX)));
    assert_eq!(preset.parameters.list()[0], ("temperature".into(), "0.2".into()));
}

#[test]
fn mistakes_are_told() {
    for (text, says) in [
        ("base = 'a'\nsytem = 'x'", "hob.toml: sytem is no key; did you mean system?"),
        ("from = 'a'", "from is no key; did you mean base?"),
        ("base = 'a'\n[parameters]\nnum_ctx = 3", "parameters.num_ctx is no key; did you mean ctx?"),
        ("base = 'a'\n[parameters]\ntemprature = 3", "did you mean temperature?"),
        ("system = 'x'", "it names no base"),
        ("base = ''", "base is empty"),
        ("base = 'a'\n\nsystem = 3", "hob.toml, line 3: invalid type"),
        ("base = \n", "line 1: "),
        ("base = './nothing'", "there is no file or model folder ./nothing"),
        ("base = 'a'\ntemplate = 'none.jinja'", "cannot read"),
        ("base = 'a'\ntemplate = '{% if %}'", "template: the model's chat template cannot be read"),
        ("base = 'a'\n[parameters]\ntop_p = 2", "parameters: top_p is 2, and must be above 0 and at most 1"),
        ("base = 'a'\n[parameters]\nctx = 0", "must be above 0"),
        ("base = 'a'\nmessages = [{role = 'robot', content = ''}]", "the role 'robot'"),
    ] {
        let e = read(text).unwrap_err();
        assert!(e.contains(says), "{text:?}: {e}");
    }
}

#[test]
fn a_preset_on_a_preset_is_both() {
    let found = found(&[
        ("pirate", WHOLE),
        ("calm", "base = 'Pirate:latest'\n[parameters]\ntemperature = 0\nseed = 7"),
        ("other", "base = 'calm'\nsystem = 'Be brief.'\nmessages = [{role = 'user', content = 'Yo'}]"),
        ("a", "base = 'b'"),
        ("b", "base = 'a'"),
        ("two", "base = 'pirate'\nadapter = 'x'"),
    ]);
    let settled = |name: &str| {
        let kept = found.preset(name).unwrap();
        settle(&kept.name, &kept.preset, &found).map_err(|e| e.to_string())
    };
    let other = settled("OTHER").unwrap();
    assert_eq!(other.chain, ["calm", "Pirate:latest", "starter"]);
    let Preset { base, description, licence, system, template, adapter, parameters, messages } = other.preset;
    assert_eq!((base.as_str(), system.as_deref(), description), ("starter", Some("Be brief."), None));
    assert!(licence.is_some() && template.is_some() && adapter.is_some());
    assert_eq!((parameters.temperature, parameters.seed, parameters.top_k), (Some(0.0), Some(7), Some(5)));
    assert_eq!(messages.len(), 1);
    assert!(settled("a").unwrap_err().contains("leads back to itself (a → b → a)"));
    assert!(settled("two").unwrap_err().contains("has an adapter too"));
}

#[test]
fn conversations_begin_as_the_preset_says_unless_they_say_otherwise() {
    let preset = read(WHOLE).unwrap();
    let begin = |said: &[(&str, &str)]| {
        let said: Vec<_> = said.iter().map(|(r, c)| chat::Message::new(r, c)).collect();
        let all = preset.begin(said, |m| m.role == "system", chat::Message::new);
        all.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join(" | ")
    };
    assert_eq!(
        begin(&[("user", "Go")]),
        "system: Talk like a pirate. | user: Hi | assistant: Ahoy | user: Go"
    );
    assert_eq!(
        begin(&[("system", "No."), ("user", "Go")]),
        "system: No. | user: Hi | assistant: Ahoy | user: Go"
    );
    assert_eq!(Preset::default().begin(vec![1], |_| false, |_, _| 2), [1]);
}

#[test]
fn names_are_no_paths() {
    for good in ["pirate", "a", "my-model_2.1:q4", "A1"] {
        check_name(good).unwrap();
    }
    for bad in [
        "", ".", "..", "a/b", "../a", "a\\b", "-a", ".a", "a.", "a b", "é", "a\0", "a=b", "hf:x", "Ollama:x",
        "a\n",
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    assert!(check_name(&"a".repeat(101)).is_err());
}

#[test]
fn a_modelfile_becomes_a_preset() {
    let file = "FROM hf.co/o/r:Q4_K_M\nSYSTEM \"\"\"Be\nbrief.\"\"\"\nPARAMETER temperature 0.5\nPARAMETER num_ctx 8192\n\
        PARAMETER num_predict -1\nPARAMETER stop \"<|a|>\"\nPARAMETER stop b\nPARAMETER mirostat 1\nMESSAGE user hi\n\
        TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\nLICENSE MIT\nLICENSE \"\"\"or Apache\"\"\"\nREQUIRES 0.6";
    let (preset, notes) = imported(file).unwrap();
    let toml = preset.to_toml().unwrap();
    assert_eq!((preset.base.as_str(), preset.system.as_deref()), ("hf:o/r:Q4_K_M", Some("Be\nbrief.")));
    let p = &preset.parameters;
    assert_eq!((p.temperature, p.ctx, p.max_tokens), (Some(0.5), Some(8192), None));
    assert_eq!(p.stop.as_deref().unwrap(), ["<|a|>", "b"]);
    assert_eq!(preset.licence.as_deref(), Some("MIT\n\nor Apache"));
    assert!(preset.template.is_none() && preset.messages.len() == 1);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("Modelfile, line 9: PARAMETER mirostat"), "{notes:?}");
    assert!(notes[1].contains("TEMPLATE is in Go's language"), "{notes:?}");
    assert_eq!(read(&toml).unwrap(), preset);
    assert!(Path::new(&imported("FROM ./own.gguf").unwrap().0.base).is_absolute());
    assert!(imported("FROM x\nTEMPLATE {% if true %}a{% endif %}").unwrap().0.template.is_some());
    for (text, says) in [
        (
            "FROM x\nPARAMETER temprature 1",
            "Modelfile, line 2: temprature is no parameter; did you mean temperature?",
        ),
        ("FROM x\n\nPARAMETER top_k many", "line 3: top_k is many, and must be a whole number"),
        ("FROM x\nFROM y", "line 2: there is a second FROM"),
        ("FORM x", "line 1: 'FORM' is no instruction"),
        ("FROM ./none.gguf", "there is no file or model folder ./none.gguf"),
        ("FROM x\nPARAMETER top_p 7", "parameters: top_p is 7"),
    ] {
        let e = imported(text).unwrap_err();
        assert!(e.contains(says), "{text:?}: {e}");
    }
}

#[test]
fn a_request_of_ollamas_becomes_a_preset() {
    let (preset, notes) = of_request(&json!({
        "model": "mario", "from": "starter", "system": "You are Mario.", "template": "{{ .Prompt }}",
        "license": ["MIT", "BSD"], "parameters": {"temperature": 0.1, "num_predict": 9, "stop": ["a", "b"], "num_gpu": 1},
        "messages": [{"role": "user", "content": "Hi", "images": null}],
    }))
    .unwrap();
    assert_eq!((preset.base.as_str(), preset.parameters.max_tokens), ("starter", Some(9)));
    assert_eq!(preset.parameters.stop.as_deref().unwrap(), ["a", "b"]);
    assert_eq!((preset.licence.as_deref(), preset.messages.len(), notes.len()), (Some("MIT\n\nBSD"), 1, 2));
    let old = json!({"modelfile": "FROM x\nSYSTEM one\nPARAMETER top_k 3\nMESSAGE user hi", "system": "two", "files": {}});
    let (preset, _) = of_request(&old).unwrap();
    assert_eq!((preset.base.as_str(), preset.system.as_deref()), ("x", Some("two")));
    assert_eq!((preset.parameters.top_k, preset.messages.len()), (Some(3), 1));
    // A name is looked for by the caller, and here it is nothing but a text.
    assert_eq!(of_request(&json!({"from": "Cargo.toml"})).unwrap().0.base, "Cargo.toml");
    for (body, says) in [
        (json!({}), "`from` is missing"),
        (json!({"from": "/etc/passwd"}), "must be a model's name"),
        (json!({"from": "../x"}), "must be a model's name"),
        (json!({"from": "a\\b"}), "must be a model's name"),
        (json!({"modelfile": "FROM ./x.gguf"}), "must be a model's name"),
        (json!({"modelfile": "FROM x\nADAPTER y"}), "ADAPTER names a file"),
        (json!({"modelfile": "FROM x\n\nFORM y"}), "modelfile, line 3: 'FORM' is no instruction"),
        (json!({"from": "x", "path": "/etc/passwd"}), "`path` is not taken"),
        (json!({"from": "x", "messages": [{"role": "user", "content": "", "images": ["aGk="]}]}), "pictures"),
        (json!({"from": "x", "files": {"a": "sha256:0"}}), "`files` is not taken"),
        (json!({"from": "x", "system": 3}), "`system` must be a text"),
        (json!({"from": "x", "parameters": {"top_k": "z"}}), "`parameters`: top_k is z"),
        (json!({"from": "x", "parameters": {"stop": [1]}}), "a text or several"),
        (json!({"from": "x", "messages": [{"role": "x", "content": ""}]}), "the role 'x'"),
        (json!({"from": "x", "messages": ["hi"]}), "`messages` must be"),
    ] {
        let e = of_request(&body).unwrap_err().to_string();
        assert!(e.contains(says), "{body}: {e}");
    }
}
