//! `POST /api/pull`: fetches a model, and tells how far it is.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{error, line, lines, named};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::pulls::{self, Pull, Source};
use crate::serve::refusal::Result;

/// Progress is told so often at most.
const OFTEN: Duration = Duration::from_millis(100);

/// A line is sent after so long even where nothing came: whether the client is still there shows by that.
const QUIET: u32 = 50;

/// Fetches a model. A client that leaves gives it up, unless others wait for it; the next goes on where it stopped.
pub async fn pull(Asked { app, body, .. }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let name = named(&f)?;
    let streamed = f.flag("stream")?.unwrap_or(true);
    let pull = match Source::parse(name) {
        Some(source) => Some(app.pulls.join(source?, app.offline)?),
        // What is here already needs no fetching, whoever brought it.
        None => app.manager.find(name).await.map(|_| None).map_err(|_| pulls::unknown(name))?,
    };
    if !streamed {
        if let Some(pull) = pull {
            pull.over().await?;
        }
        return Ok(Json(json!({"status": "success"})).into_response());
    }
    let (tell, told) = mpsc::channel(4);
    let name = name.to_string();
    tokio::spawn(async move {
        // Whoever does not listen any more is not told.
        let _ = follow(&name, pull, &tell).await;
    });
    Ok(lines(ReceiverStream::new(told)))
}

async fn follow(
    name: &str,
    pull: Option<Pull>,
    tell: &mpsc::Sender<Bytes>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    tell.send(line(&json!({"status": "pulling manifest"}))).await?;
    let done = match pull {
        None => Ok(()),
        Some(pull) => {
            let (mut last, mut quiet) = (None, 0);
            loop {
                let over = tokio::select! {
                    done = pull.over() => Some(done),
                    () = tell.closed() => return Ok(()),
                    () = tokio::time::sleep(OFTEN) => None,
                };
                let seen = pull.seen();
                quiet += 1;
                if last != Some(seen) || quiet == QUIET {
                    tell.send(line(&progress(name, pull.digest(), seen))).await?;
                    (last, quiet) = (Some(seen), 0);
                }
                if let Some(done) = over {
                    break done;
                }
            }
        }
    };
    let last = done.map_or_else(|refusal| error(&refusal), |()| json!({"status": "success"}));
    tell.send(line(&last)).await
}

/// All files of the model count as one, called by the largest.
fn progress(name: &str, digest: Option<&str>, (completed, total): (u64, u64)) -> Value {
    let shown = digest.and_then(|d| d.get(..12)).unwrap_or(name);
    let mut value = json!({"status": format!("pulling {shown}")});
    if let Some(digest) = digest {
        value["digest"] = format!("sha256:{digest}").into();
    }
    if total > 0 {
        value["total"] = total.into();
        value["completed"] = completed.into();
    }
    value
}
