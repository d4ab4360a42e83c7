#![no_std]
//! See docs/architecture.md.
