//! Why a request is not answered: one sentence and its kind. Each dialect writes it in its own shape.

use axum::http::StatusCode;

/// `Result` with a [`Refusal`].
pub type Result<T, E = Refusal> = std::result::Result<T, E>;

/// What kind of refusal it is; it settles the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// a field is missing or wrong
    Invalid,
    /// prompt and answer do not fit the context
    TooLong,
    /// no model has that name
    UnknownModel,
    /// nothing lies at this path
    NotFound,
    /// the path takes another method
    Method,
    /// the token is missing or wrong
    Unauthorized,
    /// this host or origin may not ask
    Forbidden,
    /// the body is larger than allowed
    TooLarge,
    /// the body came too slowly
    TooSlow,
    /// the model does not fit into memory
    NoRoom,
    /// the queue is full, or the server ends
    Busy,
    /// it is the server's fault
    Failed,
}

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// its kind
    pub kind: Kind,
    /// one sentence for a person
    pub message: String,
    /// the field that it is about, as a path (`messages[0].role`)
    pub field: Option<String>,
    /// seconds after which another try may do
    pub retry: Option<u64>,
}

impl Refusal {
    /// A refusal of that kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into(), field: None, retry: None }
    }

    /// A field that is wrong; the message is to name it.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { field: Some(field.into()), ..Refusal::new(Kind::Invalid, message) }
    }

    /// The server's own failure.
    pub fn failed(message: impl Into<String>) -> Refusal {
        Refusal::new(Kind::Failed, message)
    }

    /// The status of HTTP that says so.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Invalid | Kind::TooLong => StatusCode::BAD_REQUEST,
            Kind::UnknownModel | Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Kind::NoRoom | Kind::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<hob_engine::Error> for Refusal {
    fn from(e: hob_engine::Error) -> Refusal {
        let kind = match e {
            hob_engine::Error::Context { .. } => Kind::TooLong,
            hob_engine::Error::Token { .. } | hob_engine::Error::Empty => Kind::Invalid,
            hob_engine::Error::Room { .. } => Kind::NoRoom,
            _ => Kind::Failed,
        };
        Refusal::new(kind, e.to_string())
    }
}
