//! Model files, tokenizers and chat templates.
