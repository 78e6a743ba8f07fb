//! guard
#![allow(dead_code)]
mod context;
mod crypto;
mod key;
mod scheme;
mod store;
fn main() {}
