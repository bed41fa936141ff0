//! One file per architecture, and the registry.
