//! The page.
#![allow(dead_code)]

mod render;
mod store;
