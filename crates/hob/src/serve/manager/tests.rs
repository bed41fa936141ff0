use super::*;
use crate::serve::generate::{self, Answer, Event, Finish, Prompt, Request};
use crate::serve::refuse;
use crate::serve::tally::Tally;
use crate::serve::worker::{Job, Rule};

/// A grammar with a bug.
struct Bug;

impl Rule for Bug {
    fn restrict(&mut self, _: &mut [f32]) -> Result<(), String> {
        panic!("a bug, as a test wants it")
    }
    fn accept(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }
    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
    fn ended(&mut self) -> bool {
        false
    }
}

async fn ask(lease: &Lease, most: usize) -> Answer {
    let request = Request { most: Some(most), ..Request::new(Prompt::Text("One, two, three,".into())) };
    let tally = Tally::new(&Arc::default(), "POST", "/v1/completions", "/v1/completions", false);
    generate::start(lease, request, hob_engine::Sampling::greedy(), &tally).await.unwrap()
}

/// Ends the model's thread by a panic, while it makes an answer; gives what its client is told.
async fn break_down(lease: Lease) -> Refusal {
    let mut answer = ask(&lease, 10_000).await;
    while !matches!(answer.events.recv().await, Some(Event::Piece { .. })) {}
    let job = Job { ids: vec![1, 2, 3], rule: Some(Box::new(Bug)), ..Job::default() };
    let mut others = lease.worker().unwrap().submit(job).unwrap();
    let refusal = loop {
        match answer.events.recv().await {
            Some(Event::Failed(refusal)) => break refusal,
            Some(Event::Piece { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    while others.recv().await.is_some() {}
    // Whoever had the model in hand hears the same.
    let late = ask(&lease, 1).await.whole().await.unwrap_err();
    assert_eq!(late.message, refusal.message);
    refusal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_thread_breaks_down_is_loaded_anew() {
    let metrics = Arc::new(Metrics::default());
    let load = Load { context: Some(512), mapped: true, threads: Some(2), ..Load::default() };
    let limits = Limits { parallel: 4, queue: 8, guess: true };
    let policy = Policy { load, limits, keep: Keep::Always, cache: None };
    let manager = Arc::new(Manager::new(policy, metrics.clone()));
    let path = crate::real::model("SmolLM2-135M-Instruct.Q4_1.gguf");
    manager.pin(Known::at("one".into(), path)).await.unwrap();
    for (broken, name) in [Some("one"), None].into_iter().enumerate() {
        let refusal = break_down(manager.get(Some("one"), Stay::default()).await.unwrap()).await;
        assert!(refusal.message.contains("a bug in Hob") && refusal.message.contains("loaded anew"));
        for path in ["/v1/chat/completions", "/v1/messages", "/api/chat"] {
            assert_eq!(refuse(path, &refusal).status(), 500, "{path}");
        }
        assert!(manager.loaded().is_empty(), "it counts as unloaded");
        let lease = manager.get(name, Stay::default()).await.unwrap();
        assert!(lease.pinned && manager.loaded().len() == 1);
        let whole = ask(&lease, 6).await.whole().await.unwrap();
        assert_eq!(whole.choices[0].finish, Some(Finish::Length));
        assert!(whole.choices[0].text.contains("four"), "{whole:?}");
        assert_eq!(metrics.loads.load(Ordering::Relaxed), 2 + broken as u64);
    }
}
