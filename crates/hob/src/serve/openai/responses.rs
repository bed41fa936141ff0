//! `/v1/responses`.

use std::sync::Arc;

use axum::Router;

use crate::serve::App;

/// Answers that may be gone on with.
#[derive(Default)]
pub struct Kept {}

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
}
