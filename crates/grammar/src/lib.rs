//! Answers in a given form: which tokens may come next, by JSON Schema or grammar.
