//! `hob create`: models of one's own, by themselves and on the server.

use crate::common::{World, noise};
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny::{HIDDEN, LAYERS, Tiny};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// A world that has the starter.
fn with_starter() -> World {
    let world = World::new();
    install(&world, &model(SMOLLM2));
    world
}

fn write(world: &World, name: &str, text: &str) -> String {
    let path = world.path(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

fn answer(world: &World, args: &[&str]) -> String {
    world.run(&[&["run"], args].concat()).ok().trim().to_string()
}

fn ask(server: &Serving, body: Value) -> Value {
    server.post("/v1/chat/completions", &body).ok()
}

fn said(reply: &Value) -> String {
    reply["choices"][0]["message"]["content"].as_str().unwrap().trim().to_string()
}

fn names(server: &Serving) -> Vec<String> {
    let list = server.get("/v1/models").ok();
    list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_string()).collect()
}

const QUESTION: &str = "Who are you?";
/// With these, the likeliest token is at least a third likelier than the next, whatever is read in whatever parts.
const SYSTEM: &str = "You are a poet.";
const OTHER: &str = "Talk like a pirate.";

/// Makes the preset most tests are about.
fn pirate(world: &World) -> crate::common::Run {
    let parameters = ["-p", "temperature=0", "-p", "max_tokens=12"];
    world.run(&[&["create", "pirate", "--from=starter", "--system", SYSTEM][..], &parameters].concat())
}

#[test]
fn a_preset_answers_as_it_says_and_the_command_line_says_otherwise() {
    let world = with_starter();
    let made = pirate(&world);
    assert!(made.ok().starts_with("made pirate of starter"), "{}", made.stdout);
    let greedy = ["--temperature=0", "--max-tokens=12"];
    let by_hand = answer(&world, &[&["starter", QUESTION, "--system", SYSTEM], &greedy[..]].concat());
    let plain = answer(&world, &[&["starter", QUESTION], &greedy[..]].concat());
    assert_eq!(answer(&world, &["pirate", QUESTION]), by_hand);
    assert_ne!(by_hand, plain);
    assert_eq!(answer(&world, &["PIRATE:latest", QUESTION]), by_hand);
    let three = world.run(&["run", "pirate", QUESTION, "--max-tokens=3", "--json"]);
    let three: Value = serde_json::from_str(three.ok()).unwrap();
    assert_eq!((&three["tokens"], &three["stop"]), (&json!(3), &json!("length")));
    // Its system message gives way to another, its parameters to those of the command line.
    let other = answer(&world, &["pirate", QUESTION, "--system", OTHER]);
    assert_eq!(other, answer(&world, &[&["starter", QUESTION, "--system", OTHER], &greedy[..]].concat()));
    // The config file's defaults stand below a preset's.
    std::fs::create_dir_all(world.path("hob")).unwrap();
    std::fs::write(world.path("hob/config.toml"), "[run]\ntemperature = 1.5\nmax_tokens = 2").unwrap();
    assert_eq!(answer(&world, &["pirate", QUESTION]), by_hand);
}

#[test]
fn examples_stops_and_templates_hold() {
    let world = with_starter();
    std::fs::write(world.path("plain.jinja"), "{% for m in messages %}{{ m.content }}\n{% endfor %}")
        .unwrap();
    let file = write(
        &world,
        "hob.toml",
        "base = 'starter'\ntemplate = 'plain.jinja'\nmessages = [{role = 'user', content = 'one two three'}]\n\
         [parameters]\ntemperature = 0\nmax_tokens = 16\n",
    );
    world.run(&["create", "plain", "-f", &file]).ok();
    let raw = answer(
        &world,
        &["starter", "one two three\nfour five\n", "--raw", "--temperature=0", "--max-tokens=16"],
    );
    let own = answer(&world, &["plain", "four five"]);
    assert_eq!(own, raw, "a template without marks is the text itself");
    let word = own.split_whitespace().nth(3).expect("some words").to_string();
    world.run(&["create", "short", "--from=plain", "-p", &format!("stop={word}")]).ok();
    let short = world.run(&["run", "short", "four five", "--json"]);
    let report: Value = serde_json::from_str(short.ok()).unwrap();
    assert_eq!(report["text"].as_str().unwrap().trim(), own.split_once(&word).unwrap().0.trim());
    assert_eq!(report["stop"], "end");
    world.run(&["run", "short", "four five"]).ok();
}

#[test]
fn presets_are_listed_shown_and_removed() {
    let world = with_starter();
    world
        .run(&[
            "create",
            "pirate",
            "--from=starter",
            "--system",
            SYSTEM,
            "-p",
            "top-k=3",
            "--description=Ahoy",
        ])
        .ok();
    world.run(&["create", "mate", "--from=pirate", "-p", "seed=1"]).ok();
    let list = world.run(&["list"]);
    let row = list.ok().lines().find(|l| l.starts_with("mate")).unwrap();
    assert!(row.contains("llama") && row.ends_with("preset of pirate"), "{row}");
    let list: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    let of = |name: &str| list.as_array().unwrap().iter().find(|m| m["name"] == name).unwrap();
    assert_eq!((&of("pirate")["kind"], &of("pirate")["base"]), (&json!("preset"), &json!("starter")));
    assert_eq!(of("SmolLM2-135M-Instruct.Q4_1")["kind"], "model");
    let shown = world.run(&["show", "mate"]);
    for part in ["pirate → starter", "top_k                 3", "seed                  1", SYSTEM] {
        assert!(shown.ok().contains(part), "{part}: {}", shown.stdout);
    }
    let shown: Value = serde_json::from_str(world.run(&["show", "mate", "--json"]).ok()).unwrap();
    assert_eq!((&shown["own"]["base"], &shown["preset"]["base"]), (&json!("pirate"), &json!("starter")));
    assert!(world.run(&["show", "mate", "--template"]).ok().contains("im_start"), "that of its base");
    world.run(&["rm", "pirate"]).fails("add --yes");
    assert!(world.run(&["rm", "--yes", "pirate"]).ok().contains("starter stays"));
    world.run(&["show", "pirate"]).fails("no model named pirate");
    world.run(&["run", "mate", "hi"]).fails("the preset mate has no base: there is no model named pirate");
    assert!(world.run(&["list"]).stderr.contains("the preset mate has no base"));
    world.run(&["rm", "--yes", "mate"]).ok();
    assert_eq!(std::fs::read_dir(world.path("hob/presets")).unwrap().count(), 0);
    assert!(world.path("hob/models").join(SMOLLM2).is_file());
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    world.run(&["create", "one", "--from=tiny"]).ok();
    for (args, why) in [
        (&["create", "x"][..], "say what it is made of"),
        (&["create", "x", "--system=a"], "say what it is made of"),
        (&["create", "../x", "--from=tiny"], "a preset cannot be called '../x'"),
        (&["create", "tiny", "--from=tiny"], "tiny is the name of a model"),
        (&["create", "starter", "--from=tiny"], "starter is the name of a model"),
        (&["create", "x", "--from=starter"], "fetch it with: hob pull starter"),
        (&["create", "x", "--from=tini"], "did you mean tiny?"),
        (&["create", "x", "--from=./tini.gguf"], "there is no file or model folder ./tini.gguf"),
        (&["create", "one", "--from=one"], "leads back to itself (one → one)"),
        (&["create", "x", "--from=tiny", "-p", "top_q=1"], "did you mean top_k, top_p"),
        (&["create", "x", "--from=tiny", "-p", "top_p"], "must be NAME=VALUE"),
        (&["create", "x", "--from=tiny", "-p", "top_p=much"], "must be a number"),
        (&["create", "x", "--from=tiny", "-p", "temperature=-1"], "temperature is -1"),
        (&["create", "x", "-f", "none.toml"], "cannot read none.toml"),
        (&["create", "x", "--from=tiny", "--adapter=none"], "there is no such file"),
    ] {
        world.run(args).fails(why);
    }
    let presets: Vec<PathBuf> =
        std::fs::read_dir(world.path("hob/presets")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(presets, [world.path("hob/presets/one.toml")]);
    // What a person spoils by hand is a note, and no more.
    std::fs::write(world.path("hob/presets/bad.toml"), "base = ").unwrap();
    std::fs::write(world.path("hob/presets/one.toml"), "base = 'tiny'\nsystm = 'x'").unwrap();
    let list = world.run(&["list"]);
    assert!(list.ok().contains("tiny") && list.stderr.contains("did you mean system?"), "{}", list.stderr);
    assert!(list.stderr.contains("bad.toml, line 1"), "{}", list.stderr);
}

#[test]
fn a_modelfile_is_imported() {
    let world = World::new();
    let tiny = Tiny::llama().write(&world, "tiny");
    std::fs::copy(&tiny, world.path("blob")).unwrap(); // as Ollama keeps them: without an ending
    let file = write(
        &world,
        "Modelfile",
        "# mine\nFROM ./blob\nsystem \"\"\"Be\nbrief.\"\"\"\nPARAMETER num_predict 4\nPARAMETER num_gpu 1\n\
         TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\nMESSAGE user hi\nMESSAGE assistant ho\n",
    );
    let printed = world.run(&["create", "mine", "-f", &file, "--print"]);
    let toml = printed.ok().to_string();
    assert!(printed.stderr.contains("line 6: PARAMETER num_gpu"), "{}", printed.stderr);
    assert!(printed.stderr.contains("the model's own template is used"), "{}", printed.stderr);
    assert!(!world.path("hob/presets").exists(), "--print makes nothing");
    world.run(&["create", "mine", "-f", &file]).ok();
    let again = write(&world, "again.toml", &toml);
    assert!(world.run(&["create", "mine", "-f", &again]).ok().starts_with("replaced mine"));
    assert_eq!(std::fs::read_to_string(world.path("hob/presets/mine.toml")).unwrap().trim(), toml);
    let report: Value = serde_json::from_str(world.run(&["run", "mine", "a", "--json"]).ok()).unwrap();
    assert!(report["tokens"].as_u64().unwrap() <= 4, "{report}");
    // The template's marks, and every message of it.
    let text = "system\nBe\nbrief.user\nhiassistant\nhouser\naassistant\n";
    assert!(report["prompt_tokens"].as_u64().unwrap() as usize >= text.len(), "{report}");
    let bad = write(&world, "Bad", "FROM ./blob\n\nPARAMETR x 1");
    world.run(&["create", "x", "-f", &bad]).fails("line 3: 'PARAMETR' is no instruction");
}

#[test]
fn the_server_answers_as_presets_say_and_loads_their_base_once() {
    let world = with_starter();
    pirate(&world).ok();
    world.run(&["create", "mate", "--from=pirate", "--system", OTHER]).ok();
    let server = Serving::start(&world, &[]);
    assert_eq!(names(&server), ["mate", "pirate", "SmolLM2-135M-Instruct.Q4_1"]);
    server.get("/v1/models/pirate").ok();
    let user = json!({"role": "user", "content": QUESTION});
    let body = |model: &str| json!({"model": model, "messages": [user]});
    let by_hand = ask(
        &server,
        json!({"model": "starter", "messages": [{"role": "system", "content": SYSTEM}, user], "temperature": 0, "max_tokens": 12}),
    );
    let reply = ask(&server, body("pirate"));
    assert_eq!(reply["model"], "pirate");
    assert_eq!(said(&reply), said(&by_hand));
    // What the base read is there: only the last tokens are read again.
    let (prompt, cached) =
        (&reply["usage"]["prompt_tokens"], &reply["usage"]["prompt_tokens_details"]["cached_tokens"]);
    assert!(cached.as_u64().unwrap() + 2 >= prompt.as_u64().unwrap(), "{reply}");
    assert_eq!(reply["usage"]["prompt_tokens"], by_hand["usage"]["prompt_tokens"]);
    let mate = ask(&server, body("MATE:latest"));
    assert_ne!(said(&mate), said(&reply));
    assert_eq!(server.metric("hob_models_loaded"), 1.0);
    // The request's own word goes before.
    let mut own = body("pirate");
    own["max_tokens"] = 3.into();
    own["messages"] = json!([{"role": "system", "content": OTHER}, user]);
    let own = ask(&server, own);
    assert_eq!(own["usage"]["completion_tokens"], 3);
    assert_eq!(own["usage"]["prompt_tokens"], mate["usage"]["prompt_tokens"]);
    // A preset made, changed and removed while the server runs.
    world.run(&["create", "new", "--from=starter", "-p", "max_tokens=2"]).ok();
    assert_eq!(ask(&server, body("new"))["usage"]["completion_tokens"], 2);
    world.run(&["create", "new", "--from=starter", "-p", "max_tokens=4"]).ok();
    assert_eq!(ask(&server, body("new"))["usage"]["completion_tokens"], 4);
    world.run(&["rm", "--yes", "new"]).ok();
    assert!(server.post("/v1/chat/completions", &body("new")).fails(404).contains("no model named 'new'"));
    // hob run asks the server, which has the preset's defaults, and the command line goes before them.
    let run = |args: &[&str]| -> Value { serde_json::from_str(world.run(args).ok()).unwrap() };
    let by_server = run(&["run", "pirate", QUESTION, "--json"]);
    assert!(by_server["server"].is_string(), "{by_server}");
    assert_eq!(by_server["text"].as_str().unwrap().trim(), said(&reply));
    assert_eq!(run(&["run", "pirate", QUESTION, "--json", "--max-tokens=3"])["tokens"], 3);
    assert!(server.metric("hob_model_loads_total") == 1.0);
}

#[test]
fn a_preset_is_named_at_the_start_and_asked_for_without_a_name() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    world.run(&["create", "four", "--from=tiny", "-p", "max_tokens=4", "-p", "seed=1"]).ok();
    let server = Serving::start(&world, &["--model=four"]);
    assert_eq!(names(&server), ["four", "tiny"]);
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "logit_bias": {"257": -100}});
    let reply = ask(&server, body.clone());
    assert_eq!((&reply["model"], &reply["usage"]["completion_tokens"]), (&json!("four"), &json!(4)));
    body["model"] = "tiny".into();
    body["max_tokens"] = 6.into();
    assert_eq!(ask(&server, body)["usage"]["completion_tokens"], 6);
    assert_eq!(server.metric("hob_models_loaded"), 1.0);
}

/// A model that lies where the server looks and `hob run` does not.
#[test]
fn what_only_the_server_has_is_asked_of_it() {
    let world = World::new();
    let outside = Tiny::llama().write(&world, "outside");
    let server = Serving::start(&world, &["--model", outside.to_str().unwrap()]);
    let run = world.run(&["run", "outside", "hi", "--max-tokens=2", "--json", "--seed=1"]);
    let report: Value = serde_json::from_str(run.ok()).unwrap();
    assert_eq!(report["server"], server.address.as_str());
    world.run(&["run", "outside", "hi", "--alone"]).fails("no model named outside");
}

/// A PEFT folder with the layers' q_proj adapted: B by chance, times `size`.
fn adapter(world: &World, name: &str, size: f32) -> PathBuf {
    let folder = world.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"});
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for layer in 0..LAYERS {
        for (half, shape, scale) in [("A", [2, HIDDEN], 1.0), ("B", [HIDDEN, 2], size)] {
            let bytes = noise(2 * HIDDEN, 7 + layer as u64);
            let from = data.len();
            data.extend(bytes.iter().flat_map(|b| ((f32::from(*b) / 128.0 - 1.0) * scale).to_le_bytes()));
            let key = format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight");
            header.insert(key, json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
        }
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_adapter_changes_answers_and_a_zero_one_does_not() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    let much = adapter(&world, "much", 2.0);
    adapter(&world, "none", 0.0);
    world.run(&["create", "much", "--from=tiny", "--adapter", text(&much)]).ok();
    let file = write(&world, "Modelfile", "FROM tiny\nADAPTER ./none\n");
    world.run(&["create", "none", "-f", &file]).ok();
    let greedy = |name: &str| {
        let run =
            world.run(&["run", name, "abcdef", "--raw", "--temperature=0", "--max-tokens=12", "--json"]);
        let report: Value = serde_json::from_str(run.ok()).unwrap();
        report["text"].as_str().unwrap().to_string()
    };
    let base = greedy("tiny");
    assert_eq!(greedy("none"), base);
    assert_ne!(greedy("much"), base);
    assert!(world.run(&["show", "much"]).ok().contains("adapter"));
    world.run(&["bench", "much"]).fails("name tiny itself");
    // The server loads each as a model of its own, and the base is as before.
    let server = Serving::start(&world, &[]);
    let complete = |model: &str| {
        let body = json!({"model": model, "prompt": "abcdef", "temperature": 0, "max_tokens": 12});
        server.post("/v1/completions", &body).ok()["choices"][0]["text"].as_str().unwrap().to_string()
    };
    let (tiny, adapted) = (complete("tiny"), complete("much"));
    assert_eq!((&tiny, complete("none")), (&base, base.clone()));
    assert_ne!(adapted, tiny);
    assert_eq!(complete("tiny"), tiny);
    assert_eq!(server.metric("hob_models_loaded"), 3.0);
    // One trained anew while the server runs is another.
    adapter(&world, "none", 2.0);
    assert_eq!(complete("none"), adapted);
    // One that does not fit says which part.
    let wrong = adapter(&world, "wrong", 1.0);
    let create = ["create", "wrong", "--from=tiny", "--adapter", text(&wrong)];
    world.run(&create).ok();
    let weights = wrong.join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let at = bytes.windows(6).position(|w| w == b"q_proj").unwrap();
    let mut changed = bytes;
    for i in (at..changed.len() - 6).filter(|i| changed[*i..].starts_with(b"q_proj")).collect::<Vec<_>>() {
        changed[i..i + 6].copy_from_slice(b"x_proj");
    }
    std::fs::write(&weights, changed).unwrap();
    let why = "the model has no linear layer model.layers.0.self_attn.x_proj";
    world.run(&create).fails(why);
    world.run(&["run", "wrong", "a"]).fails(why);
    let body = json!({"model": "wrong", "prompt": "a"});
    assert!(server.post("/v1/completions", &body).fails(500).contains(why));
}
